"""Whatever a user calls a run -> what predicts with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weakloc.api.any_classifier import TIMM, timm_predictor
from weakloc.api.exporting import SUFFIX, ExportedNetwork, load_onnx
from weakloc.api.fusing import FusedRuns
from weakloc.api.runs import TrainedRun
from weakloc.api.runs import load as load_folder
from weakloc.config import PredictSettings
from weakloc.predictor.predictor import Predictor


def load(run: str | Path) -> TrainedRun | ExportedNetwork:
    """A run: the folder that `weakloc train` wrote, or a file of `weakloc export`."""
    return load_onnx(run) if Path(run).suffix == SUFFIX else load_folder(run)


def predictor_of(
    run: str, also: Sequence[str], settings: PredictSettings
) -> tuple[Predictor, dict[str, Any]]:
    """The predictor of a run folder, an exported file or `timm:NAME`, and a record of its origin.

    `also` are further runs on the same classes; all their maps and scores become one.
    """
    if also:
        return _fused(run, also, settings)
    if run.startswith(TIMM):
        return timm_predictor(run, settings), {"run": run, "thresholds_from": "fixed 0.2"}
    loaded = load(run)
    return loaded.predictor(settings), {"run": run, **loaded.origin_of_thresholds}


def _fused(
    run: str, also: Sequence[str], settings: PredictSettings
) -> tuple[Predictor, dict[str, Any]]:
    runs = tuple(load_folder(path) for path in (run, *also))
    fused = FusedRuns(runs)
    scores_from = "mean of scores" if fused.late_classifier() is None else "late classifier"
    described = {
        "run": run,
        "also": list(also),
        "scores_from": scores_from,
        "thresholds_from": "mean of the runs'",
        "num_boxes_used": sum(each.num_boxes_used for each in runs),
    }
    return fused.predictor(settings), described


def version_of(predictor: Predictor, runs: Sequence[str]) -> str:
    """A short name that changes when the predictions may: with the runs or with the settings."""
    digest = hashlib.sha256(repr(asdict(predictor.settings)).encode())
    for run in runs:
        for path in _files_of(Path(run)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    first = runs[0] if runs[0].startswith(TIMM) else Path(runs[0]).resolve().stem
    return f"{first.removeprefix(TIMM)}-{digest.hexdigest()[:8]}"


def _files_of(run: Path) -> list[Path]:
    """Everything that predictions may follow from; the state for resuming is not among it."""
    if run.is_dir():
        return sorted(each for each in run.iterdir() if each.is_file() and each.suffix != ".ckpt")
    return [run] if run.is_file() else []
