"""The heat on which thresholds are tuned: which boxes are looked at, and in which maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.predictor.dot_source import DotSource, chosen
from weakloc.api.calibration import DrawnImage, drawn_boxes, drawn_heat, drawn_images
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing
from weakloc.errors import DataError
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import SeenImage
from weakloc.settings import CalibrateSettings
from weakloc.structures import ABSENT, PRESENT, Sample, Truth, TruthBox
from weakloc.work import silent


def sample(name: str, *boxes: tuple[int, bool], path: str = "") -> Sample:
    drawn = tuple(TruthBox(index, (1.0, 2.0, 9.0, 7.0), difficult=hard) for index, hard in boxes)
    labels = np.full(3, ABSENT, dtype=np.int8)
    labels[[index for index, _ in boxes]] = PRESENT
    return Sample(name, path or name, labels, Truth(drawn))


def drawn_of(samples: list[Sample], *, seed: int = 0, **allowed: int) -> list[DrawnImage]:
    return drawn_images(samples, CalibrateSettings(seed=seed, **allowed), "train", 3)


def test_no_more_boxes_are_looked_at_than_were_allowed_and_classes_take_turns() -> None:
    samples = [sample(f"{index}", (0, False), (0, False), (1, False)) for index in range(20)]
    for allowed in (1, 5, 12, 30):
        drawn = drawn_of(samples, boxes=allowed)
        by_class = [
            sum(len(drawn_boxes(image.sample, index)) for image in drawn if index in image.classes)
            for index in range(3)
        ]
        assert sum(by_class) <= allowed
        assert sum(by_class) >= min(allowed, 60) - 1
        assert by_class[2] == 0
        assert allowed < 3 or min(by_class[:2]) >= allowed // 3
    everything = drawn_of(samples)
    assert sum(len(drawn_boxes(i.sample, index)) for i in everything for index in i.classes) == 60


def test_of_each_class_as_many_boxes_are_looked_at_as_were_asked_for() -> None:
    """A common class of two boxes an image and a rare one; images with more than is left wait."""
    samples = [sample(f"{index}", (0, False), (0, False)) for index in range(20)]
    samples += [sample(f"rare {index}", (1, False)) for index in range(6)]
    samples += [sample("many", *[(2, False)] * 9)]
    for asked, expected in ((1, [0, 1, 0]), (5, [4, 5, 0]), (10, [10, 6, 9])):
        drawn = drawn_of(samples, boxes_per_class=asked)
        by_class = [
            sum(len(drawn_boxes(image.sample, index)) for image in drawn if index in image.classes)
            for index in range(3)
        ]
        assert by_class == expected


def test_difficult_boxes_are_not_looked_at() -> None:
    with pytest.raises(DataError, match="no drawn box"):
        drawn_of([sample("a", (0, True))], boxes=5)


def test_the_same_seed_looks_at_the_same_boxes() -> None:
    samples = [sample(f"{index}", (index % 3, False)) for index in range(30)]
    first, again, other = (drawn_of(samples, seed=seed, boxes=6) for seed in (4, 4, 5))
    assert first == again
    assert first != other


@pytest.fixture
def drawing(tmp_path: Path) -> Sample:
    """A green square left of the middle of an image that is not square, and its box."""
    pixels = np.zeros((90, 150, 3), dtype=np.uint8)
    pixels[30:60, 24:60, 1] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    labels = np.array([ABSENT, PRESENT, ABSENT], dtype=np.int8)
    truth = Truth((TruthBox(1, (24.0, 30.0, 60.0, 60.0)),))
    return Sample("a.png", str(tmp_path / "a.png"), labels, truth)


def predictor(**settings: object) -> Predictor:
    preprocessing = Preprocessing(size=(100, 60), mean=(0.0,) * 3, std=(1.0,) * 3)
    look, places = chosen(**{"map_side": 50, "normalise": "none", **settings})
    return Predictor(DotSource(preprocessing), look, places, thresholds=(0.5,) * 3)


def test_the_heat_is_what_predictions_are_cut_from(drawing: Sample) -> None:
    for settings in ({}, {"scales": (0.8, 1.3), "flip": True}, {"tile": 80}):
        how = predictor(**settings)
        (seen,) = how.see([ImageSource("a.png", drawing.path)])
        assert isinstance(seen, SeenImage)
        used = how.heat(seen, [1], how.look)
        drawn = drawn_of([drawing], boxes=5)
        (heat,) = drawn_heat(how, drawn, silent)
        np.testing.assert_array_equal(heat.heat, used.values[0])
        assert heat.boxes == [(24.0, 30.0, 60.0, 60.0)]


def test_broken_images_are_left_out(drawing: Sample, tmp_path: Path) -> None:
    broken = Sample("b.png", str(tmp_path / "b.png"), drawing.labels, drawing.truth)
    counted: list[tuple[int, int | None]] = []
    drawn = drawn_of([broken, drawing])
    found = list(drawn_heat(predictor(), drawn, lambda *done: counted.append(done)))
    assert len(found) == 1
    assert counted == [(1, 2), (2, 2)]
