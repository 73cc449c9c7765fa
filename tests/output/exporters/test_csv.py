"""CSV there and back."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.output.exporters.conftest import CLASS_NAMES
from weakloc.output.exporters import Content, export_format
from weakloc.structures import Box, Mask, Point, Prediction


def test_rows_come_back_as_the_predictions(tmp_path: Path, predictions: list[Prediction]) -> None:
    path = export_format("csv", Content(iter(predictions), class_names=CLASS_NAMES), tmp_path)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [{**row, "class": row["class"].removeprefix("'")} for row in csv.DictReader(stream)]
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


def test_no_name_is_a_formula(tmp_path: Path) -> None:
    names = ("=1+1", "+cmd", "-2", "@SUM(A1)", "\t=1", "cat")
    box = (1.0, 2.0, 3.0, 4.0)
    predictions = [
        Prediction(
            name,
            9,
            9,
            {name: 0.5},
            (Point(name, 1.0, 2.0, 0.5),),
            (Box(name, box, 0.5),),
            (Mask(name, {"size": [9, 9], "counts": "ia0"}, 0.5),),
        )
        for name in names
    ]
    path = export_format("csv", Content(iter(predictions), class_names=names), tmp_path)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    shown = {name: name if name == "cat" else f"'{name}" for name in names}
    assert {row["image"] for row in rows} == {*shown.values()}
    assert {row["class"] for row in rows} == {*shown.values(), ""}
