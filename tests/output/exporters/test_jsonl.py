"""predictions.jsonl there and back, and what is wrong with a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.output.exporters.conftest import CLASS_NAMES
from weakloc.errors import PredictionsError
from weakloc.output.exporters import (
    ExportOptions,
    export_all,
    read_predictions,
    write_predictions,
)
from weakloc.output.exporters.jsonl import SCHEMA, parse_line, prediction_line
from weakloc.structures import Box, Disagreement, Mask, Point, Prediction


def test_predictions_come_back_without_any_loss(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    path = tmp_path / "predictions.jsonl"
    assert write_predictions(path, predictions) == len(predictions)
    assert list(read_predictions(path)) == predictions


def test_a_line_has_the_keys_of_the_documentation() -> None:
    prediction = Prediction(
        "cats/a b.jpg",
        500,
        375,
        {"cat": 0.93, "dog": 0.02},
        (Point("cat", 123.5, 88.0, 0.93, 4.5), Point("dog", 1.0, 2.0, 0.02)),
        (Box("cat", (40.0, 12.5, 210.0, 301.0), 0.81),),
        (Mask("cat", {"size": (375, 500), "counts": b"abc"}, 0.81),),
        0.12,
        (Disagreement("dog", "missing", 0.02),),
        {"tags": ["cat"], "width": "not to be overwritten"},
    )
    wanted = {
        "schema": "weakloc.predictions/1",
        "image": "cats/a b.jpg",
        "width": 500,
        "height": 375,
        "scores": {"cat": 0.93, "dog": 0.02},
        "points": [
            {"class": "cat", "x": 123.5, "y": 88.0, "score": 0.93, "heat": 4.5},
            {"class": "dog", "x": 1.0, "y": 2.0, "score": 0.02},
        ],
        "boxes": [{"class": "cat", "box": [40.0, 12.5, 210.0, 301.0], "score": 0.81}],
        "masks": [{"class": "cat", "rle": {"size": [375, 500], "counts": "abc"}, "score": 0.81}],
        "doubt": 0.12,
        "disagreements": [{"class": "dog", "kind": "missing", "score": 0.02}],
        "tags": ["cat"],
    }
    line = prediction_line(prediction)
    assert parse_line(line, where="here").points == prediction.points
    assert json.loads(line) == wanted
    assert line.count("\n") == 1


def test_a_number_that_is_none_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        prediction_line(Prediction("a.jpg", 4, 3, {"cat": float("nan")}))


GOOD = {"schema": SCHEMA, "image": "a.jpg", "width": 4, "height": 3, "scores": {}}
BAD = [
    ("{", "is not JSON"),
    ("[]", r"holds \[\] instead"),
    ({}, "has the schema nothing; this reads 'weakloc.predictions/1'"),
    ({**GOOD, "schema": "weakloc.predictions/2"}, "weakloc.predictions/2"),
    ({**GOOD, "width": 0}, "'width' 0; a whole number from 1 on"),
    ({**GOOD, "height": True}, "'height' true"),
    ({**GOOD, "image": 3}, "'image' 3; a text is needed"),
    ({**GOOD, "scores": []}, "'scores' "),
    ({**GOOD, "scores": {"cat": "high"}}, "'cat' \"high\"; a number"),
    ({**GOOD, "boxes": [[1, 2, 3, 4]]}, "'boxes' .* a list of objects"),
    ({**GOOD, "boxes": [{"class": "cat", "box": [1, 2, 3], "score": 1}]}, "left, top"),
    ({**GOOD, "boxes": [{"class": "cat", "box": [3, 1, 2, 2], "score": 1}]}, "exchanged"),
    ({**GOOD, "points": [{"class": "cat", "x": None, "y": 1, "score": 1}]}, "'x' nothing"),
    ({**GOOD, "points": [{"class": "a", "x": 1, "y": 1, "score": 1, "heat": None}]}, "'heat' no"),
    ({**GOOD, "masks": [{"class": "cat", "rle": {"size": [4, 3]}, "score": 1}]}, r"not \[3, 4\]"),
    ({**GOOD, "disagreements": [{"class": "a", "kind": "odd", "score": 0}]}, 'of kind "odd"'),
    ('{"schema": "weakloc.predictions/1", "doubt": NaN}', "NaN is not a number"),
]


@pytest.mark.parametrize(("record", "message"), BAD)
def test_a_malformed_line_is_named_with_its_file_and_number(
    tmp_path: Path, record: object, message: str
) -> None:
    path = tmp_path / "predictions.jsonl"
    text = record if isinstance(record, str) else json.dumps(record)
    path.write_text(f"{json.dumps(GOOD)}\n\n{text}\n", encoding="utf-8")
    stream = read_predictions(path)
    assert next(stream).image == "a.jpg"
    with pytest.raises(PredictionsError, match=message) as caught:
        next(stream)
    assert caught.value.where == f"{path}, line 3"


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="No such file"):
        next(read_predictions(tmp_path / "none.jsonl"))


def test_reading_stops_at_the_line_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(GOOD) + "\nnot JSON\n", encoding="utf-8")
    assert next(read_predictions(path)) == Prediction("a.jpg", 4, 3, {})
    assert parse_line(json.dumps(GOOD), where="here") == Prediction("a.jpg", 4, 3, {})


def test_unknown_formats_and_classes_are_named(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, predictions)
    options = ExportOptions()
    with pytest.raises(Exception, match="Did you mean 'coco'"):
        export_all(path, ["cocoa"], tmp_path, class_names=CLASS_NAMES, options=options)
    with pytest.raises(PredictionsError, match="there is no class"):
        export_all(path, ["coco"], tmp_path, class_names=("dgo",), options=options)
    assert not [path for path in (tmp_path / "coco").rglob("*") if path.is_file()]
