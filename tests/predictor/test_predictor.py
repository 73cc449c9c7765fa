"""From pictures to places, through every way of looking, against dots drawn by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.predictor.dot_source import DotSource, chosen
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing, ResizeMode
from weakloc.files import ByName
from weakloc.geometry import BoxLTRB, box_ious
from weakloc.methods.method import RULES
from weakloc.predictor import views
from weakloc.predictor.predictor import Predictor
from weakloc.rle import decode_mask
from weakloc.settings import Look, Places
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, BrokenImage, Prediction

WHITE_ON = (0.5, 0.5, 0.5)


def picture_with_square(
    size: tuple[int, int], left_top: tuple[int, int], side: int, channel: int
) -> np.ndarray:
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    left, top = left_top
    pixels[top : top + side, left : left + side, channel] = 255
    return pixels


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def predictor(
    resize: ResizeMode = "warp", size: int | tuple[int, int] = (96, 64), **settings: object
) -> Predictor:
    preprocessing = Preprocessing(size=size, resize=resize, mean=WHITE_ON, std=(0.05, 0.05, 0.05))
    look, places = chosen(**{"threshold": 0.5, "min_score": 0.6, **settings})
    return Predictor(DotSource(preprocessing), look, places, thresholds=(0.5, 0.5, 0.5))


def only(results: list[Prediction | BrokenImage]) -> Prediction:
    (result,) = results
    assert isinstance(result, Prediction)
    return result


@pytest.mark.parametrize("resize", ["warp", "pad", "none"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.0, 1.5)])
@pytest.mark.parametrize("tile", [0, 70])
def test_a_square_is_found_where_it_was_drawn_however_it_is_looked_at(
    resize: ResizeMode, flip: bool, scales: tuple[float, ...], tile: int
) -> None:
    pixels = picture_with_square((150, 90), (96, 24), 24, channel=1)
    found = only(
        list(
            predictor(resize, flip=flip, scales=scales, tile=tile, map_side=150).predict(
                [ImageSource("a.png", encoded(pixels))]
            )
        )
    )
    (point,) = found.points
    assert point.class_name == "green"
    assert 96 <= point.x <= 120
    assert 24 <= point.y <= 48
    (box,) = found.boxes
    assert np.abs(np.subtract(box.box, (96, 24, 120, 48))).max() <= 6.5  # one cell, upsampled
    assert (found.width, found.height) == (150, 90)


def test_points_say_the_heat_of_the_map_where_they_are() -> None:
    """Two squares, 255 and 204 bright; the source's map is (brightness - 0.5) / 0.05."""
    pixels = picture_with_square((96, 64), (8, 8), 16, channel=0)
    pixels[32:48, 64:80, 0] = 204
    (bright, dimmer) = only(
        list(
            predictor("none", points=2, map_side=96, normalise="none").predict(
                [ImageSource("a.png", encoded(pixels))]
            )
        )
    ).points
    assert (bright.heat, dimmer.heat) == pytest.approx((10.0, 6.0), abs=0.1)
    assert bright.score == dimmer.score
    assert bright.x < 48 < dimmer.x


def test_boxes_are_scored_by_heat_with_or_without_the_class() -> None:
    pixels = picture_with_square((120, 80), (10, 10), 30, channel=0)
    tagged = ByName({"a.png": np.array([UNKNOWN, PRESENT, UNKNOWN], dtype=np.int8)})

    def boxes(*, times_class: bool) -> dict[str, float]:
        looking = predictor(box_times_class=times_class)
        found = only(list(looking.predict([ImageSource("a.png", encoded(pixels))], tagged)))
        probabilities.update(found.scores)
        return {box.class_name: box.score for box in found.boxes}

    probabilities: dict[str, float] = {}
    heat, scored = boxes(times_class=False), boxes(times_class=True)
    assert set(heat) == {"red", "green"}
    assert probabilities["green"] < 0.1
    assert scored == pytest.approx({name: heat[name] * probabilities[name] for name in heat})


def test_proposals_hold_the_boxes_that_a_threshold_gives_and_more() -> None:
    """Two squares, 255 and 204 bright: no threshold gives the box of the bright one and of both."""
    pixels = picture_with_square((120, 80), (10, 10), 30, channel=0)
    pixels[10:40, 40:70, 0] = 204
    image = ImageSource("a.png", encoded(pixels))

    def boxes(**places: Any) -> set[BoxLTRB]:
        looking = predictor("none", map_side=120, box_times_class=False, **places)
        return {box.box for box in only(list(looking.predict([image]))).boxes}

    both, bright = boxes(threshold=0.3), boxes(threshold=0.95)
    proposals = np.array([*boxes(boxes="proposals")])
    assert len(both) == len(bright) == 1
    for box in both | bright:
        assert box_ious(np.array(box), proposals).max() > 0.85  # of boxes that are alike one stays


def test_only_tagged_classes_get_places_and_every_tag_gets_one() -> None:
    pixels = picture_with_square((120, 80), (10, 10), 30, channel=0)
    vector = np.array([ABSENT, PRESENT, UNKNOWN], dtype=np.int8)
    tags = ByName({"a.png": vector})
    found = only(
        list(predictor(masks="threshold").predict([ImageSource("a.png", encoded(pixels))], tags))
    )
    assert {point.class_name for point in found.points} == {"green"}
    assert {box.class_name for box in found.boxes} == {"green"}
    assert found.scores["red"] > 0.9
    kinds = {(item.class_name, item.kind) for item in found.disagreements}
    assert kinds == {("red", "unexpected"), ("green", "missing")}


def test_an_untagged_image_is_left_to_the_model() -> None:
    pixels = picture_with_square((120, 80), (10, 10), 30, channel=0)
    tags = ByName({"other.png": np.array([PRESENT] * 3, dtype=np.int8)})
    found = only(list(predictor().predict([ImageSource("a.png", encoded(pixels))], tags)))
    assert {point.class_name for point in found.points} == {"red"}
    assert found.disagreements == ()


def test_a_mask_covers_its_square_and_nothing_else() -> None:
    pixels = picture_with_square((120, 80), (40, 20), 40, channel=2)
    found = only(
        list(predictor(masks="threshold").predict([ImageSource("a.png", encoded(pixels))]))
    )
    (mask,) = found.masks
    assert mask.class_name == "blue"
    drawn = pixels[:, :, 2] > 0
    decoded = decode_mask(mask.rle)
    assert (decoded & drawn).sum() / (decoded | drawn).sum() > 0.8


def test_broken_images_are_named_in_place_and_order_is_kept() -> None:
    good = encoded(picture_with_square((60, 40), (8, 8), 12, channel=0))
    images = [
        ImageSource("0.png", good),
        ImageSource("1.png", b""),
        ImageSource("2.png", good[:60]),
        ImageSource("3.png", good),
        ImageSource("4.tar", b"", flaw="ends too early"),
    ]
    found = list(predictor(workers=2, batch_size=2).predict(images))
    kinds = [(type(item).__name__, getattr(item, "name", None)) for item in found]
    assert kinds == [
        ("Prediction", None),
        ("BrokenImage", "1.png"),
        ("BrokenImage", "2.png"),
        ("Prediction", None),
        ("BrokenImage", "4.tar"),
    ]
    assert found[-1] == BrokenImage("4.tar", "ends too early")


def test_batching_and_threads_change_nothing(random: np.random.Generator) -> None:
    sizes = [(60, 40), (64, 90), (60, 40), (31, 33), (200, 20)]
    images = [
        ImageSource(
            f"{index}.png", encoded(random.integers(0, 255, (height, width, 3), dtype=np.uint8))
        )
        for index, (width, height) in enumerate(sizes)
    ]
    alone = list(predictor("none", batch_size=1, min_score=0.0).predict(images))
    together = list(predictor("none", batch_size=4, workers=3, min_score=0.0).predict(images))
    assert alone == together


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (5, 5)])
def test_tiny_and_thin_images_have_an_answer(size: tuple[int, int]) -> None:
    pixels = np.full((size[1], size[0], 3), 200, dtype=np.uint8)
    found = only(
        list(
            predictor(min_score=0.0, masks="threshold").predict(
                [ImageSource("a.png", encoded(pixels))]
            )
        )
    )
    assert len(found.points) == 3
    assert all(0 <= point.x <= size[0] and 0 <= point.y <= size[1] for point in found.points)


def test_a_long_thin_image_is_read_at_its_own_size() -> None:
    pixels = np.zeros((20, 30_000, 3), dtype=np.uint8)
    pixels[4:16, 29_000:29_040, 0] = 255
    found = only(
        list(predictor("none", map_side=3_000).predict([ImageSource("a.png", encoded(pixels))]))
    )
    assert 29_000 <= found.points[0].x <= 29_040


def test_no_class_over_the_threshold_gives_scores_and_no_places() -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    found = only(list(predictor(masks="crf").predict([ImageSource("a.png", encoded(pixels))])))
    assert found.points == found.boxes == found.masks == ()
    assert set(found.scores) == {"red", "green", "blue"}


def test_raw_scores_of_scales_become_one_before_they_become_probabilities() -> None:
    pixels = picture_with_square((90, 60), (8, 8), 6, channel=0)
    image = [ImageSource("a.png", encoded(pixels))]
    logits = []
    for scale in (0.5, 1.0, 2.0):
        (seen,) = predictor(scales=(scale,)).see(image)
        assert not isinstance(seen, BrokenImage)
        logits.append(seen.logits)
    (seen,) = predictor(scales=(2.0, 0.5, 1.0)).see(image)
    assert not isinstance(seen, BrokenImage)
    mean = np.mean(logits, axis=0)
    np.testing.assert_allclose(seen.logits, mean, rtol=1e-12)
    np.testing.assert_allclose(seen.probabilities, 1 / (1 + np.exp(-mean)), rtol=1e-9)
    (seen,) = predictor(scales=(2.0, 0.5, 1.0), fuse_scores="max").see(image)
    assert not isinstance(seen, BrokenImage)
    highest = np.max(logits, axis=0)
    np.testing.assert_allclose(seen.probabilities, 1 / (1 + np.exp(-highest)), rtol=1e-9)
    (seen,) = predictor(scales=(2.0, 0.5, 1.0), fuse_scores="mean_probability").see(image)
    assert not isinstance(seen, BrokenImage)
    likely = np.mean([1 / (1 + np.exp(-each)) for each in logits], axis=0)
    np.testing.assert_allclose(seen.probabilities, likely, rtol=1e-9)
    assert np.abs(likely - 1 / (1 + np.exp(-mean))).max() > 1e-3


def test_memory_holds_a_bounded_number_of_pictures() -> None:
    """The stream is read no further than two batches ahead of what was taken from it."""
    content = encoded(picture_with_square((60, 40), (8, 8), 12, channel=0))
    asked = 0

    def images():  # type: ignore[no-untyped-def]
        nonlocal asked
        for index in range(1000):
            asked += 1
            yield ImageSource(f"{index}.png", content)

    stream = predictor(workers=2, batch_size=4).predict(images())
    next(stream)
    assert asked <= 4 * 3 + 1


@pytest.mark.parametrize("most_pixels", [1, 60 * 40 * 3])
def test_few_pixels_are_decoded_ahead_and_the_answers_are_the_same(
    most_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(picture_with_square((60, 40), (8, 8), 12, channel=0))
    images = [ImageSource(f"{i}", content if i % 5 else b"none") for i in range(30)]
    expected = list(predictor(workers=2, batch_size=4).predict(images))
    decode, num_decoded = views.read_or_record, 0

    def counting(*given: Any, **named: Any) -> Any:
        nonlocal num_decoded
        num_decoded += 1
        return decode(*given, **named)

    monkeypatch.setattr(views, "MOST_PIXELS", most_pixels)
    monkeypatch.setattr(views, "read_or_record", counting)
    found = []
    for answer in predictor(workers=2, batch_size=4).predict(images):
        found.append(answer)
        if most_pixels == 1:  # one is asked for, as many as threads are decoded, one is broken
            assert num_decoded <= len(found) + 5
    assert found == expected
    stream = predictor(workers=2, batch_size=4).predict(images)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # ends, though threads wait for room


def test_settings_reject_what_cannot_work() -> None:
    from weakloc.errors import SettingError

    for good, bad in (
        (Look(), {"scales": (0.0,)}),
        (Look(), {"batch_size": 0}),
        (Look(), {"map_side": 10**9}),
        (Places(), {"threshold": 1.0}),
        (Places(), {"min_score": 1.5}),
    ):
        with pytest.raises(SettingError, match="--"):
            replace(good, **bad)  # type: ignore[type-var]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("spoilt", [{"scores": np.nan}, {"maps": 3e38}])
def test_an_image_whose_scores_are_not_numbers_is_broken_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, spoilt: dict[str, float]
) -> None:
    read = DotSource.read

    def spoil(self: DotSource, images: Any) -> Any:
        raw = read(self, images)
        is_green = raw.scores.argmax(axis=1) == 1
        ((name, value),) = spoilt.items()
        values = getattr(raw, name).copy()
        values[is_green] = value
        return replace(raw, **{name: values})

    monkeypatch.setattr(DotSource, "read", spoil)
    pictures = [picture_with_square((96, 64), (8, 8), 16, channel) for channel in (0, 1, 2)]
    images = [ImageSource(str(number), encoded(p)) for number, p in enumerate(pictures)]
    answers = list(predictor().predict(images))
    assert [isinstance(answer, BrokenImage) for answer in answers] == [False, True, False]
    assert answers[1] == BrokenImage("1", "its scores are not numbers, or far beyond all use")


def test_a_class_that_is_there_takes_its_place_from_the_others() -> None:
    """Where objects were learned: tagged, or likely where no tag speaks."""
    pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    pixels[16:48, 8:40] = (230, 0, 0)
    pixels[16:48, 56:88] = (150, 230, 0)
    plain = Preprocessing(size=(96, 64), mean=(0, 0, 0), std=(1, 1, 1))
    look, places = chosen(localiser="cells", min_score=0.0)

    def boxes_of_red(green: float, tag: int | None = None) -> list[str]:
        how = Predictor(
            DotSource(plain, map_kind="probability"),
            look,
            places,
            rules=RULES["cells"],
            rescore=lambda _: np.array([0.9, green, 0.0]),
        )
        tags = None if tag is None else ByName({"a.png": np.array([PRESENT, tag, ABSENT])})
        (said,) = how.predict([ImageSource("a.png", encoded(pixels))], tags)
        assert isinstance(said, Prediction)
        red = [box.box for box in said.boxes if box.class_name == "red"]
        assert all(box[2] < 48 or box[0] > 48 for box in red)
        return sorted("left" if box[2] < 48 else "right" for box in red)

    assert boxes_of_red(green=0.4) == ["left", "right"]
    assert boxes_of_red(green=0.5) == ["left"]
    assert boxes_of_red(green=0.9, tag=ABSENT) == ["left", "right"]
    assert boxes_of_red(green=0.1, tag=PRESENT) == ["left"]
    assert boxes_of_red(green=0.9, tag=UNKNOWN) == ["left"]
