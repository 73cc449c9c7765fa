"""The tour as a whole, at a size that a test can afford."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import weakloc
from weakloc.api.tour import TourSize
from weakloc.errors import DataError

SMALL = TourSize(num_train=40, num_val=12, epochs=1, image_size=64)


def test_the_tour_leaves_everything_that_it_promises(tmp_path: Path) -> None:
    folder = tmp_path / "de mö"
    tour = weakloc.demo(folder, size=SMALL)
    assert [*tour.headline] == ["wildcat", "wildcat x objectness", "max_mil", "cam"]
    for numbers in tour.headline.values():
        assert {"classification_map", "point_map", "box_map_50", "mean_iou"} <= set(numbers)
    lines = (folder / "predictions" / "predictions.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 52
    tagged = sum(bool(json.loads(line)["boxes"]) for line in lines)
    assert tagged >= 40  # all but the scenes without an object
    assert all(path.exists() for path in tour.exports.values())
    assert json.loads((folder / "metrics.json").read_text())["runs"]
    shown = json.loads((folder / "metrics-shown.json").read_text())
    assert shown["evaluated"] == "wildcat x objectness"
    report = tour.report.read_text("utf-8")
    assert f"{tour.headline['wildcat x objectness']['pointing_accuracy']:.3f}" in report
    assert "Content-Security-Policy" in report


def test_the_tour_never_removes_what_it_did_not_make(tmp_path: Path) -> None:
    precious = tmp_path / "photographs" / "a.jpg"
    precious.parent.mkdir()
    precious.write_bytes(b"precious")
    with pytest.raises(DataError, match="--out"):
        weakloc.demo(precious.parent, size=SMALL)
    assert precious.read_bytes() == b"precious"
