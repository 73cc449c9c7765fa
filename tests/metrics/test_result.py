"""metrics.json: read as it was written, and damage of every kind told in one line."""

from __future__ import annotations

import json

import msgspec
import pytest

from weakloc.errors import PredictionsError
from weakloc.metrics.result import (
    Curve,
    EvaluationRecord,
    Interval,
    MetricRecord,
    MetricResult,
    read_evaluations,
)

METRIC = MetricRecord(
    "max_box_acc",
    0.5,
    "clean reading",
    12,
    hidden_supervision=3,
    interval=Interval(0.25, 0.75),
    per_class={"cat": 0.5},
    left_out=("dog",),
    details={"threshold_50": 0.1, "num_trials": 4, "pixel_accuracy": None},
    curves={"accuracy_50": Curve((0.0, 0.5), (1.0, 0.5))},
    baselines={"center": 0.25},
)
MISSING = MetricRecord("mean_iou", None, "all pixels", 0, unavailable="no pixel is counted")
RECORD = EvaluationRecord((METRIC, MISSING), {"px_ap": "no masks"}, "run", "val", "the tags", 12)


def test_what_was_written_of_one_run_or_several_is_read_again(tmp_path):
    path = tmp_path / "metrics.json"
    for content in (RECORD, {"runs": [RECORD, RECORD]}):
        path.write_text(json.dumps(msgspec.to_builtins(content), allow_nan=False))
        assert all(record == RECORD for record in read_evaluations(path))
    assert len(read_evaluations(path)) == 2


def test_what_only_compares_runs_is_not_written():
    result = MetricResult("map", 0.5, "plain", 2, image_digest=7)
    assert "image_digest" not in msgspec.to_builtins(result.record)
    assert list(msgspec.to_builtins(result.record))[:4] == ["schema", "name", "value", "interval"]


def _without(record, *keys):
    return {key: value for key, value in record.items() if key not in keys}


PLAIN = msgspec.to_builtins(RECORD)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "holds no readable JSON"),
        (b"\xff\xfe", "holds no readable JSON"),
        (b"[" * 100_000, "holds no readable JSON"),
        (b"[]", r"JSON object \(it is \[\]: expected an object\)"),
        (b"{}", "it is {}: object missing required field 'metrics'"),
        (b'{"runs": []}', "holds the metrics of no run"),
        (b'{"runs": 3}', "it is 3: expected a list"),
        (PLAIN | {"schema": "weakloc.metrics/2"}, r'schema is "weakloc\.metrics/2": this is not'),
        (PLAIN | {"metrics": [_without(PLAIN["metrics"][0], "value")]}, "field 'value'"),
        (
            PLAIN | {"metrics": [PLAIN["metrics"][0] | {"value": "x"}]},
            r'metrics\[0\]\.value is "x": expected a number or nothing',
        ),
        (PLAIN | {"metrics": [PLAIN["metrics"][0] | {"value": None}]}, "neither a value nor"),
        (PLAIN | {"metrics": [PLAIN["metrics"][0] | {"interval": [1]}]}, "of at least length 2"),
        (PLAIN | {"num_images": float("nan")}, "holds no readable JSON"),
        (
            PLAIN | {"metrics": [PLAIN["metrics"][0] | {"value": float("inf")}]},
            "holds no readable JSON",
        ),
    ],
)
def test_damage_is_told_in_one_line_with_the_file(tmp_path, content, message):
    path = tmp_path / "metrics.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(PredictionsError, match=message) as caught:
        read_evaluations(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_result_is_never_not_a_number():
    with pytest.raises(ValueError, match="nan"):
        MetricResult("map", float("nan"), "plain", 1)
    with pytest.raises(ValueError, match="reason"):
        MetricResult("map", None, "plain", 1)
