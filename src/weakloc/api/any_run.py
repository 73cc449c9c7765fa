"""Whatever a user calls a run -> what predicts with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weakloc.api.any_classifier import TIMM, timm_predictor
from weakloc.api.exporting import SUFFIX, load_onnx
from weakloc.api.fusing import FusedRuns
from weakloc.api.runs import load
from weakloc.config import PredictSettings
from weakloc.predictor.predictor import Predictor


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
    if run.endswith(SUFFIX):
        exported = load_onnx(run)
        tuned = exported.record.thresholds_from
        return exported.predictor(settings), {"run": run, "thresholds_from": tuned}
    trained = load(run)
    return trained.predictor(settings), {"run": run, **trained.origin_of_thresholds}


def _fused(
    run: str, also: Sequence[str], settings: PredictSettings
) -> tuple[Predictor, dict[str, Any]]:
    runs = tuple(load(path) for path in (run, *also))
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
