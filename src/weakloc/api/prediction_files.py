"""Predictions on disk: where they are, what made them, and the same in the formats of others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weakloc.config import ExportOptions
from weakloc.errors import PredictionsError
from weakloc.output.exporters import export_all, read_predictions
from weakloc.predictor.sources import folder_of_images


def predictions_file(source: str | Path) -> Path:
    """The predictions.jsonl of a folder; a file is taken as it is."""
    path = Path(source)
    return path / "predictions.jsonl" if path.is_dir() else path


def summary_beside(file: Path) -> Mapping[str, Any]:
    """What predictions.json says of the predictions beside it; empty where it is missing."""
    path = file.with_name("predictions.json")
    return read_json_object(path) if path.is_file() else {}


def export_predictions(
    source: str | Path,
    formats: Sequence[str],
    out: Path,
    options: ExportOptions = ExportOptions(),
) -> dict[str, Path]:
    """Every format into the folder of its name; classes and images as predictions.json says."""
    file = predictions_file(source)
    summary = summary_beside(file)
    images = summary.get("images")
    return export_all(
        file,
        formats,
        out,
        class_names=summary.get("classes") or _classes_with_scores(file),
        image_root=folder_of_images(images) if isinstance(images, str) else None,
        options=options,
    )


def read_json_object(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PredictionsError(f"is not readable JSON ({error})", where=str(path)) from error
    if not isinstance(record, dict):
        raise PredictionsError("does not hold a JSON object", where=str(path))
    return record


def _classes_with_scores(file: Path) -> list[str]:
    names: dict[str, None] = {}
    for prediction in read_predictions(file):
        names.update(dict.fromkeys(prediction.scores))
    return list(names)
