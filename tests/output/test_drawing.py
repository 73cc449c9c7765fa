"""Pictures of predictions, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from weakloc.geometry import GridTransform
from weakloc.output.drawing import (
    HEAT_OPACITY,
    MASK_OPACITY,
    class_color,
    draw_grid,
    draw_prediction,
    heat_colors,
    overlay_heat,
    overlay_mask,
)
from weakloc.structures import Box, Mask, Point, Prediction, ScoreMaps

NAMES = ("dog", "日本 'x'", "a" * 300, "<b>\n\t\x07", "")


def flat(width: int, height: int, value: int) -> Image.Image:
    return Image.new("RGB", (width, height), (value, value, value))


def changed(picture: Image.Image, value: int) -> np.ndarray:
    return (np.asarray(picture) != value).any(axis=2)


def prediction_of(width: int, height: int, **places: object) -> Prediction:
    return Prediction("a.jpg", width, height, dict.fromkeys(NAMES, 0.5), **places)  # type: ignore[arg-type]


def test_a_box_is_drawn_on_its_own_outermost_pixels_with_a_dark_frame_around() -> None:
    box = Box("dog", (50.0, 160.0, 151.0, 240.0), 0.5)
    picture = draw_prediction(flat(400, 300, 200), prediction_of(400, 300, boxes=(box,)))
    assert picture.size == (400, 300)
    pixels = np.asarray(picture)
    color = class_color(0)
    for x, y in ((50, 200), (150, 200), (100, 239), (50, 239), (150, 239)):
        assert tuple(pixels[y, x]) == color
    for x, y in ((49, 200), (151, 200), (100, 240)):
        assert tuple(pixels[y, x]) == (0, 0, 0)
    for x, y in ((48, 200), (152, 200), (100, 241), (100, 200)):
        assert tuple(pixels[y, x]) == (200, 200, 200)


def test_small_images_are_enlarged_with_their_boxes() -> None:
    box = Box("dog", (10.0, 20.0, 30.0, 35.0), 0.5)
    picture = draw_prediction(flat(64, 40, 90), prediction_of(64, 40, boxes=(box,)))
    assert picture.size == (320, 200)
    pixels = np.asarray(picture)
    assert tuple(pixels[150, 50]) == tuple(pixels[150, 149]) == class_color(0)
    assert tuple(pixels[174, 100]) == class_color(0)
    assert tuple(pixels[150, 49]) == tuple(pixels[175, 100]) == (0, 0, 0)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_boxes_and_points_show_on_any_ground(value: int) -> None:
    drawn = prediction_of(
        400,
        300,
        boxes=(Box("dog", (50.0, 60.0, 150.0, 140.0), 0.5),),
        points=(Point("dog", 30.0, 250.0, 0.5),),
    )
    picture = draw_prediction(flat(400, 300, value), drawn)
    pixels = np.asarray(picture).astype(int)
    regions = {"box": (slice(100, 140), slice(40, 160)), "point": (slice(240, 260), slice(20, 40))}
    for region in regions.values():
        difference = np.abs(pixels[region] - value).max(axis=2)
        assert (difference > 100).sum() > 40
    assert changed(picture, value)[:, 310:].sum() == 0


def test_a_hot_cell_glows_in_its_place_and_cold_pixels_stay_as_they_are() -> None:
    values = np.zeros((1, 4, 5), dtype=np.float32)
    values[0, 1, 3] = 1.0
    transform = GridTransform.identity((400, 280)).resize((5, 4))
    maps = ScoreMaps(values, transform, "probability")
    picture = draw_prediction(flat(400, 280, 100), prediction_of(400, 280), score_map=maps)
    pixels = np.asarray(picture)
    hot = (1 - HEAT_OPACITY) * 100 + HEAT_OPACITY * heat_colors(np.array(1.0)).astype(float)
    assert pixels[105, 280] == pytest.approx(hot, abs=6)  # cell (1, 3) is centred there
    differs = changed(picture, 100)
    assert differs[40:170, 210:350].any()
    assert not differs[:, :195].any()
    assert not differs[180:].any()


def test_several_maps_show_the_highest_value() -> None:
    values = np.zeros((2, 2, 2), dtype=np.float32)
    values[0, 0, 0] = values[1, 1, 1] = 1.0
    maps = ScoreMaps(values, GridTransform.identity((400, 280)).resize((2, 2)), "cam")
    picture = draw_prediction(flat(400, 280, 100), prediction_of(400, 280), score_map=maps)
    pixels = np.asarray(picture)
    assert (pixels[2, 2] == pixels[-3, -3]).all()
    assert (pixels[2, 2] != 100).any()
    assert (pixels[2, -3] == 100).all()


def test_heat_is_blended_by_its_own_strength() -> None:
    heat = np.full((3, 4), 0.5)
    pixels = np.asarray(overlay_heat(flat(4, 3, 40), heat)).astype(float)
    wanted = 40 * (1 - HEAT_OPACITY / 2) + heat_colors(np.array(0.5)) * HEAT_OPACITY / 2
    assert pixels == pytest.approx(np.broadcast_to(wanted, pixels.shape), abs=0.51)


def test_masks_are_tinted_and_have_a_contour_also_around_holes() -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:25, 6:36] = True
    mask[11:19, 16:26] = False
    color = (10, 220, 30)
    pixels = np.asarray(overlay_mask(flat(40, 30, 100), mask, color=color))
    assert (pixels[~mask] == 100).all()
    assert tuple(pixels[5, 20]) == tuple(pixels[10, 20]) == tuple(pixels[12, 27]) == color
    tint = np.rint(100 * (1 - MASK_OPACITY) + np.array(color) * MASK_OPACITY)
    assert (pixels[8, 10] == tint).all()


def test_every_kind_of_place_and_name_can_be_drawn_and_the_image_stays_as_it_was() -> None:
    random = np.random.default_rng(2)
    image = Image.fromarray(random.integers(0, 255, size=(51, 83, 4), dtype=np.uint8))
    before = image.tobytes()
    rle = coco_mask.encode(np.asfortranarray(random.random((51, 83)) < 0.5, dtype=np.uint8))
    places = prediction_of(
        83,
        51,
        boxes=tuple(Box(name, (80.0, 0.0, 83.0, 2.0), 0.5) for name in NAMES),
        points=tuple(Point(name, 83.0, 51.0, 0.5) for name in (*NAMES, "not scored")),
        masks=(Mask("dog", rle, 0.5),),
    )
    picture = draw_prediction(image, places)
    assert picture.size == (83 * 4, 51 * 4)
    assert image.tobytes() == before


def test_labels_of_different_boxes_do_not_cover_each_other() -> None:
    boxes = tuple(Box("dog", (60.0, 100.0, 200.0, 200.0 + n), 0.1 * n) for n in range(3))
    one = draw_prediction(flat(400, 300, 99), prediction_of(400, 300, boxes=boxes[:1]))
    three = draw_prediction(flat(400, 300, 99), prediction_of(400, 300, boxes=boxes))
    color = np.array(class_color(0))

    def ground(picture: Image.Image) -> int:
        return int((np.asarray(picture) == color).all(axis=2).sum())

    outline = 2 * 2 * (140 + 100)
    assert ground(three) - ground(one) > 1.8 * (ground(one) - outline) > 700


def test_a_grid_has_each_image_in_its_cell_and_its_captions_below() -> None:
    images = [Image.new("RGB", (40 + 10 * n, 30), (20 * n, 255 - 20 * n, 90)) for n in range(5)]
    sheet = draw_grid(images, num_columns=3, cell_size=(100, 80), captions=["one", "two é"])
    assert sheet.width == 300
    row_height = sheet.height // 2
    assert row_height > 80
    for number in range(5):
        row, column = divmod(number, 3)
        at = (100 * column + 50, row_height * row + 40)
        assert sheet.getpixel(at) == (20 * number, 255 - 20 * number, 90)
    caption = np.asarray(sheet)[82:row_height]
    assert (caption[:, :100] > 200).any()
    assert (caption[:, 100:200] > 200).any()
    assert not (caption[:, 200:] > 200).any()
    plain = draw_grid(images, num_columns=3, cell_size=(100, 80))
    assert plain.size == (300, 160)
