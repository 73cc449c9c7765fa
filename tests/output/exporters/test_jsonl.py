"""predictions.jsonl there and back, and what is wrong with a line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.output.exporters.conftest import CLASS_NAMES
from weakloc.errors import PredictionsError
from weakloc.output.exporters import ExportOptions, export_all, read_predictions, write_predictions
from weakloc.output.exporters.jsonl import SCHEMA, parse_line, prediction_line
from weakloc.structures import Box, Disagreement, Mask, Point, Prediction


def test_predictions_come_back_without_any_loss(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, predictions)
    assert len(path.read_text("utf-8").splitlines()) == len(predictions)
    assert list(read_predictions(path)) == predictions


def test_a_line_has_the_keys_of_the_documentation() -> None:
    prediction = Prediction(
        "cats/a b.jpg",
        500,
        375,
        {"cat": 0.93, "dog": 0.02},
        (Point("cat", 123.5, 88.0, 0.93, 4.5), Point("dog", 1.0, 2.0, 0.02)),
        (Box("cat", (40.0, 12.5, 210.0, 301.0), 0.81),),
        (Mask("cat", {"size": (375, 500), "counts": b"\\Sg5"}, 0.81),),
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
        "masks": [{"class": "cat", "rle": {"size": [375, 500], "counts": "\\Sg5"}, "score": 0.81}],
        "doubt": 0.12,
        "disagreements": [{"class": "dog", "kind": "missing", "score": 0.02}],
        "tags": ["cat"],
    }
    line = prediction_line(prediction)
    assert parse_line(line, location="here").points == prediction.points
    assert json.loads(line) == wanted
    assert line.count("\n") == 1


def test_a_number_that_is_none_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        prediction_line(Prediction("a.jpg", 4, 3, {"cat": float("nan")}))


GOOD = {"schema": SCHEMA, "image": "a.jpg", "width": 4, "height": 3, "scores": {}}


def mask_line(rle: dict[str, Any]) -> dict[str, Any]:
    return {**GOOD, "masks": [{"class": "cat", "rle": rle, "score": 1}]}


BAD = [
    ("{", "is not JSON"),
    ("[]", r"holds \[\] instead"),
    ({}, "has the schema nothing; this reads 'weakloc.predictions/1'"),
    ({**GOOD, "schema": "weakloc.predictions/2"}, "weakloc.predictions/2"),
    ({**GOOD, "width": 0}, "width is 0: expected a whole number >= 1"),
    ({**GOOD, "height": True}, "height is true: expected a whole number"),
    ({**GOOD, "image": 3}, "image is 3: expected a text"),
    ({**GOOD, "scores": []}, r"scores is \[\]: expected an object"),
    ({**GOOD, "scores": {"cat": "high"}}, r"scores\['cat'\] is \"high\": expected a number"),
    ({**GOOD, "boxes": [[1, 2, 3, 4]]}, r"boxes\[0\] is \[1, 2, 3, 4\]: expected an object"),
    (
        {**GOOD, "boxes": [{"class": "cat", "box": [1, 2, 3], "score": 1}]},
        r"boxes\[0\].box is \[1, 2, 3\]: expected a list of length 4",
    ),
    ({**GOOD, "boxes": [{"class": "cat", "box": [3, 1, 2, 2], "score": 1}]}, "exchanged"),
    (
        {**GOOD, "points": [{"class": "cat", "x": None, "y": 1, "score": 1}]},
        r"points\[0\].x is nothing: expected a number",
    ),
    ({**GOOD, "points": [{"class": "a", "x": 1, "y": 1, "score": 1, "heat": "x"}]}, r"heat is"),
    ({**GOOD, "boxes": [{"box": [1, 2, 3, 4], "score": 1}]}, "missing required field 'class'"),
    ({**GOOD, "image": None}, "missing required field 'image'"),
    ({**GOOD, "scores": {"cat": 10**400}}, "expected a whole number <="),
    (
        {**GOOD, "boxes": [{"class": "a", "box": [0, 0, 10**30, 9], "score": 1}]},
        "expected a whole number <=",
    ),
    ({**GOOD, "width": 10**12}, "expected a whole number <="),
    ('{"schema": "weakloc.predictions/1", "doubt": 1e999}', "is not JSON .*out of range"),
    (b'{"image": "\xff"}', "is not JSON .*(?i:utf-8)"),
    (b'{"image": "\x00"}', "is not JSON"),
    ('{"image": ' + "9" * 5000, "is not JSON"),
    ("[" * 100_000, "is not JSON .*nested too deeply"),
    (mask_line({"size": [3, 4]}), "missing required field 'counts'"),
    (
        {**GOOD, "disagreements": [{"class": "a", "kind": "odd", "score": 0}]},
        r'disagreements\[0\].kind is "odd": this is not a value that is known',
    ),
    ('{"schema": "weakloc.predictions/1", "doubt": NaN}', "is not JSON"),
]


@pytest.mark.parametrize(("record", "message"), BAD)
def test_a_malformed_line_is_named_with_its_file_and_number(
    tmp_path: Path, record: object, message: str
) -> None:
    path = tmp_path / "predictions.jsonl"
    text = record if isinstance(record, str | bytes) else json.dumps(record)
    line = text.encode() if isinstance(text, str) else text
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    stream = read_predictions(path)
    assert next(stream).image == "a.jpg"
    with pytest.raises(PredictionsError, match=message) as caught:
        next(stream)
    assert caught.value.location == f"{path}, line 3"


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="No such file"):
        next(read_predictions(tmp_path / "none.jsonl"))


def test_reading_stops_at_the_line_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(GOOD) + "\nnot JSON\n", encoding="utf-8")
    assert next(read_predictions(path)) == Prediction("a.jpg", 4, 3, {})
    assert parse_line(json.dumps(GOOD), location="here") == Prediction("a.jpg", 4, 3, {})


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


FULL = {
    **GOOD,
    "scores": {"cat": 0.5, "ドッグ": 1e-05},
    "points": [{"class": "cat", "x": 1.5, "y": 2, "score": 0.5, "heat": -3.25}],
    "boxes": [{"class": "cat", "box": [0.5, 1, 2.0, 3], "score": 1e16}],
    "masks": [{"class": "cat", "rle": {"size": [3, 4], "counts": "<"}, "score": 0.5}],
    "doubt": 0.25,
    "disagreements": [{"class": "cat", "kind": "missing", "score": 0}],
    "tags": ["cat"],
}
LINE = json.dumps(FULL, ensure_ascii=False).encode()


def test_what_is_read_is_written_with_the_same_bytes() -> None:
    again = prediction_line(parse_line(LINE, location="here"))
    expected = LINE.replace(b'"y": 2,', b'"y": 2.0,').replace(b'"score": 0}', b'"score": 0.0}')
    assert again.encode() == expected + b"\n"


def test_a_byte_order_mark_is_no_damage() -> None:
    assert parse_line(b"\xef\xbb\xbf" + LINE, location="x") == parse_line(LINE, location="x")


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    box = Box("cat", tuple(np.array([1.0, 2.0, 3.0, 4.5])), np.float32(0.5))
    line = prediction_line(Prediction("a.jpg", 5, 5, {"cat": np.float64(0.25)}, boxes=(box,)))
    found = parse_line(line, location="here")
    assert found.boxes == (Box("cat", (1.0, 2.0, 3.0, 4.5), 0.5),)
    assert found.scores == {"cat": 0.25}


def assert_one_error_or_a_prediction(line: bytes) -> None:
    try:
        prediction = parse_line(line, location="here")
    except PredictionsError as error:
        message = str(error)
    else:
        message = "here: " + prediction_line(prediction).rstrip("\n")
    assert message.startswith("here: ")
    assert "\n" not in message


@given(st.data())
def test_any_damage_is_one_error_or_a_prediction(data: st.DataObject) -> None:
    line = bytearray(LINE)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(line)))
        end = data.draw(st.integers(start, min(start + 8, len(line))))
        line[start:end] = data.draw(st.binary(max_size=4))
    assert_one_error_or_a_prediction(bytes(line))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(FULL)), VALUES, st.integers(0, 3))
def test_any_other_value_is_one_error_or_a_prediction(key: str, value: Any, depth: int) -> None:
    record = copy.deepcopy(FULL)
    holder: Any = record
    step: Any = key
    for _ in range(depth):
        inner = holder[step]
        if not isinstance(inner, dict | list) or not inner:
            break
        holder = inner
        step = next(iter(inner)) if isinstance(inner, dict) else 0
    holder[step] = value
    assert_one_error_or_a_prediction(json.dumps(record).encode())
