"""CSV there and back."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.output.exporters.conftest import CLASS_NAMES
from weakloc.output.exporters import export_format
from weakloc.structures import Box, Mask, Point, Prediction


def test_rows_come_back_as_the_predictions(tmp_path: Path, predictions: list[Prediction]) -> None:
    path = export_format("csv", iter(predictions), tmp_path, class_names=CLASS_NAMES)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for prediction in predictions:
        own = [row for row in rows if row["image"] == prediction.image]
        assert {(row["width"], row["height"]) for row in own} == {
            (str(prediction.width), str(prediction.height))
        }
        kinds = {
            kind: [row for row in own if row["kind"] == kind]
            for kind in ("image", "class", "point", "box", "mask")
        }
        assert [float(row["score"]) for row in kinds["image"]] == [prediction.doubt]
        scores = {row["class"]: float(row["score"]) for row in kinds["class"]}
        assert scores == prediction.scores
        points = tuple(
            Point(row["class"], float(row["x"]), float(row["y"]), float(row["score"]))
            for row in kinds["point"]
        )
        assert points == prediction.points
        sides = ("left", "top", "right", "bottom")
        boxes = [
            Box(row["class"], tuple(float(row[s]) for s in sides), float(row["score"]))  # type: ignore[arg-type]
            for row in kinds["box"]
        ]
        assert tuple(boxes) == prediction.boxes
        size = [prediction.height, prediction.width]
        masks = tuple(
            Mask(row["class"], {"size": size, "counts": row["rle"]}, float(row["score"]))
            for row in kinds["mask"]
        )
        assert masks == prediction.masks
