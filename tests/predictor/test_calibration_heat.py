"""The heat on which thresholds are tuned: which boxes are looked at, and that views line up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.predictor.dot_source import DotSource, chosen
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing
from weakloc.localize.maps import minmax
from weakloc.predictor.calibration_heat import choose_drawn, drawn_boxes, drawn_heat, viewed_heat
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import SeenImage
from weakloc.settings import Look
from weakloc.structures import ABSENT, PRESENT, Sample, ScoreMaps, Truth, TruthBox


def sample(name: str, *boxes: tuple[int, bool], path: str = "") -> Sample:
    drawn = tuple(TruthBox(index, (1.0, 2.0, 9.0, 7.0), difficult=hard) for index, hard in boxes)
    labels = np.full(3, ABSENT, dtype=np.int8)
    labels[[index for index, _ in boxes]] = PRESENT
    return Sample(name, path or name, labels, Truth(drawn))


def test_no_more_boxes_are_looked_at_than_were_allowed_and_classes_take_turns(
    random: np.random.Generator,
) -> None:
    samples = [sample(f"{index}", (0, False), (0, False), (1, False)) for index in range(20)]
    for allowed in (1, 5, 12, 30):
        drawn = choose_drawn(samples, 3, allowed, random)
        by_class = [
            sum(len(drawn_boxes(image.sample, index)) for image in drawn if index in image.classes)
            for index in range(3)
        ]
        assert sum(by_class) <= allowed
        assert sum(by_class) >= min(allowed, 60) - 1
        assert by_class[2] == 0
        assert allowed < 3 or min(by_class[:2]) >= allowed // 3
    everything = choose_drawn(samples, 3, None, random)
    assert sum(image.num_boxes for image in everything) == 60


def test_difficult_boxes_are_not_looked_at(random: np.random.Generator) -> None:
    assert choose_drawn([sample("a", (0, True))], 3, 5, random) == []


def test_the_same_seed_looks_at_the_same_boxes() -> None:
    samples = [sample(f"{index}", (index % 3, False)) for index in range(30)]
    first, again, other = (
        choose_drawn(samples, 3, 6, np.random.default_rng(seed)) for seed in (4, 4, 5)
    )
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


def test_every_view_shows_the_object_where_it_is(drawing: Sample) -> None:
    (viewed,) = viewed_heat(predictor(), [drawing], lambda: None)
    assert viewed.class_index == 1
    assert len(viewed.views) == 1 + 5  # as used; three sizes and their mirror images without it
    inside = np.zeros((30, 50), dtype=bool)
    inside[10:20, 8:20] = True
    for view in viewed.views:
        assert (minmax(view) > 0.5)[inside].mean() > 0.9
        assert (minmax(view) > 0.5)[~inside].mean() < 0.02


def test_the_first_view_is_what_predictions_are_cut_from(drawing: Sample) -> None:
    for settings in ({}, {"scales": (0.8, 1.3), "flip": True}, {"tile": 80}):
        how = predictor(**settings)
        (viewed,) = viewed_heat(how, [drawing], lambda: None)
        (seen,) = how.see([ImageSource("a.png", drawing.path)])
        assert isinstance(seen, SeenImage)
        used = how.heat(seen, [1], how.look)
        np.testing.assert_array_equal(viewed.views[0], used.values[0])
        (drawn,) = drawn_heat(how, choose_drawn([drawing], 3, 5, np.random.default_rng(0)), int)
        np.testing.assert_array_equal(drawn.heat, used.values[0])
        assert drawn.boxes == [(24.0, 30.0, 60.0, 60.0)]


def test_a_search_is_repeated_in_the_mirror(drawing: Sample) -> None:
    def search(seen: SeenImage, classes: list[int], look: Look) -> ScoreMaps:
        """Stands for a search: the grey picture, whatever the class."""
        from weakloc.localize.maps import image_grid

        grid = image_grid(seen.picture.size, long_side=look.map_side)
        small = np.asarray(seen.picture.convert("L").resize((50, 30), Image.Resampling.BOX))
        return ScoreMaps(np.asarray(small, dtype=np.float32)[None] / 255, grid, "cam")

    how = predictor()
    how.heat = search  # type: ignore[assignment]
    (viewed,) = viewed_heat(how, [drawing], lambda: None)
    first, second = viewed.views
    np.testing.assert_allclose(first, second)
    assert first[:, :25].sum() > 10 * first[:, 25:].sum()


def test_broken_and_untagged_images_are_left_out(drawing: Sample, tmp_path: Path) -> None:
    untagged = Sample("a.png", drawing.path, np.full(3, ABSENT, dtype=np.int8))
    broken = Sample("b.png", str(tmp_path / "b.png"), drawing.labels)
    counted = []
    found = list(viewed_heat(predictor(), [broken, untagged, drawing], lambda: counted.append(1)))
    assert len(found) == 1
    assert len(counted) == 3
