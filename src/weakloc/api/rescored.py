"""The weight of co-occurring classes that a run was calibrated with, kept in its run.json."""

from __future__ import annotations

from pathlib import Path

from weakloc.localize.rescoring import AlphaChoice
from weakloc.training.checkpoint import read_record, write_record

KEY = "rescoring"


def save_alpha(run_folder: Path, choice: AlphaChoice, *, watched: str) -> None:
    found = {
        "alpha": choice.alpha,
        "by": f"classification mAP (tags only) of {watched}",
        "mean_average_precision": choice.mean_average_precision,
    }
    write_record(run_folder, {**read_record(run_folder), KEY: found})


def stored_alpha(run_folder: Path) -> float:
    """0 where nothing was calibrated."""
    found = read_record(run_folder).get(KEY)
    return 0.0 if found is None else float(found["alpha"])
