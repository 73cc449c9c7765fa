"""The tour as a whole, at a size that a test can afford."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import weakloc
from weakloc.api.tour import TourSize
from weakloc.errors import DataError

SMALL = TourSize(num_train=24, num_val=12, epochs=2, image_size=64)


def test_the_tour_leaves_everything_that_it_promises(tmp_path: Path) -> None:
    folder = tmp_path / "de mö"
    tour = weakloc.demo(folder, size=SMALL)
    assert [*tour.headline] == ["label", "class maps alone"]
    for numbers in tour.headline.values():
        assert {"classification_map", "point_map", "box_map_50", "mean_iou"} <= set(numbers)
    lines = (folder / "labelled/predictions/predictions.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 36
    for line in map(json.loads, lines):
        assert line["tags"]
        assert {box["class"] for box in line["boxes"]} == set(line["tags"])
    assert all(path.exists() for path in tour.labelled.exports.values())
    with Image.open(tour.pictures) as pictures:
        assert pictures.size == (4 * 320, 3 * 320)
    names = [run["evaluated"] for run in json.loads((folder / "metrics.json").read_text())["runs"]]
    assert names == [*tour.headline]
    assert "Content-Security-Policy" in tour.labelled.report.read_text("utf-8")


def test_the_tour_never_removes_what_it_did_not_make(tmp_path: Path) -> None:
    precious = tmp_path / "photographs" / "a.jpg"
    precious.parent.mkdir()
    precious.write_bytes(b"precious")
    with pytest.raises(DataError, match="--out"):
        weakloc.demo(precious.parent, size=SMALL)
    assert precious.read_bytes() == b"precious"
