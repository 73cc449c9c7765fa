"""The coordinate convention against hand-computed numbers and its own inverses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.upside_down import flip_vertical
from weakloc import geometry
from weakloc.geometry import BoxLTRB, GridTransform, PointXY

IMAGE = (500.0, 375.0)

sides = st.floats(1.0, 5000.0)
shares = st.floats(0.0, 1.0)
margins = st.floats(0.0, 300.0)


@st.composite
def changes(draw: st.DrawFn, transform: GridTransform) -> GridTransform:
    """One random resize, pad, flip or crop."""
    kind = draw(st.sampled_from(["resize", "pad", "flip x", "flip y", "crop", "cells"]))
    width, height = transform.grid_size
    if kind == "resize":
        return transform.resize((draw(sides), draw(sides)))
    if kind == "pad":
        return transform.pad(draw(margins), draw(margins), draw(margins), draw(margins))
    if kind == "crop":
        left, top = draw(shares) * width * 0.9, draw(shares) * height * 0.9
        right = left + (0.1 + 0.9 * draw(shares)) * (width - left)
        return transform.crop((left, top, right, top + 0.5 * (height - top)))
    if kind == "cells":
        stride = draw(st.sampled_from([8.0, 16.0, 32.0]))
        return transform.to_cells((9, 7), stride=stride, first_center=112.0)
    return transform.flip_horizontal() if kind == "flip x" else flip_vertical(transform)


@st.composite
def transforms(draw: st.DrawFn) -> GridTransform:
    transform = GridTransform.identity((draw(sides), draw(sides)))
    for _ in range(draw(st.integers(0, 4))):
        transform = draw(changes(transform))
    return transform


@st.composite
def transforms_with_points(draw: st.DrawFn) -> tuple[GridTransform, PointXY]:
    transform = draw(transforms())
    width, height = transform.image_size
    return transform, (draw(shares) * width, draw(shares) * height)


def by_matrix(transform: GridTransform, point: PointXY) -> PointXY:
    """The same map as a 3 x 3 matrix."""
    matrix = np.array(
        [
            [transform.scale_x, 0, transform.offset_x],
            [0, transform.scale_y, transform.offset_y],
            [0, 0, 1],
        ]
    )
    u, v, _ = matrix @ (*point, 1.0)
    return float(u), float(v)


@given(transforms_with_points())
def test_a_point_comes_back_within_a_thousandth_of_a_pixel(
    case: tuple[GridTransform, PointXY],
) -> None:
    transform, point = case
    in_grid = geometry.map_point_to_grid(point, transform)
    assert in_grid == pytest.approx(by_matrix(transform, point), rel=1e-9, abs=1e-6)
    assert geometry.map_point_to_image(in_grid, transform) == pytest.approx(point, abs=1e-3)


@given(transforms())
def test_flipping_twice_changes_nothing(transform: GridTransform) -> None:
    for twice in (
        transform.flip_horizontal().flip_horizontal(),
        flip_vertical(flip_vertical(transform)),
    ):
        assert twice.scale_x == transform.scale_x
        assert twice.offset_x == pytest.approx(transform.offset_x, rel=1e-9, abs=1e-6)
        assert twice.offset_y == pytest.approx(transform.offset_y, rel=1e-9, abs=1e-6)


@given(transforms_with_points())
def test_a_flip_mirrors_the_grid(case: tuple[GridTransform, PointXY]) -> None:
    transform, point = case
    width, height = transform.grid_size
    u, v = geometry.map_point_to_grid(point, transform)
    mirrored = geometry.map_point_to_grid(point, transform.flip_horizontal())
    assert mirrored == pytest.approx((width - u, v), rel=1e-9, abs=1e-6)
    mirrored = geometry.map_point_to_grid(point, flip_vertical(transform))
    assert mirrored == pytest.approx((u, height - v), rel=1e-9, abs=1e-6)


def window_in_image(
    row: int, column: int, transform: GridTransform, *, cells: float = 1
) -> geometry.BoxLTRB:
    """What so many cells both ways around one stand for."""
    x, y, half = column + 0.5, row + 0.5, cells / 2
    window = (x - half, y - half, x + half, y + half)
    return geometry.map_box_to_image(window, transform)


def test_half_pixel_centers_stay_centers_when_the_grid_is_halved() -> None:
    halved = GridTransform.identity(IMAGE).resize((250, 187.5))
    assert geometry.map_point_to_grid((1.0, 1.0), halved) == (0.5, 0.5)
    assert geometry.cell_center_in_image(0, 0, halved) == (1.0, 1.0)
    assert window_in_image(3, 2, halved) == (4.0, 6.0, 6.0, 8.0)


def test_pad_then_resize_by_hand() -> None:
    # 500 x 375 in the middle of 500 x 500, then 350 x 350: 0.7 px a pixel, 43.75 px above.
    transform = GridTransform.identity(IMAGE).pad(0, 62.5, 0, 62.5).resize((350, 350))
    assert geometry.map_point_to_grid((0, 0), transform) == pytest.approx((0, 43.75))
    assert geometry.map_point_to_grid((500, 375), transform) == pytest.approx((350, 306.25))
    assert geometry.image_box_in_grid(transform) == pytest.approx((0, 43.75, 350, 306.25))


def test_a_tile_keeps_the_frame_of_the_whole_image() -> None:
    tile = GridTransform.identity(IMAGE).crop((200, 100, 424, 324))
    assert tile.grid_size == (224, 224)
    assert geometry.map_point_to_image((10, 20), tile) == (210, 120)
    inner = tile.crop((24, 0, 124, 50)).resize((50, 25))
    assert geometry.map_point_to_image((25, 12.5), inner) == (274, 125)


def test_cells_of_a_sliding_window_by_hand() -> None:
    # A 224 px window moved by 32 px over 288 x 256: 3 x 2 cells, the first centred at 112.
    cells = GridTransform.identity((288, 256)).to_cells((3, 2), stride=32, first_center=112)
    assert cells.grid_size == (3, 2)
    assert geometry.cell_center_in_image(0, 0, cells) == (112, 112)
    assert geometry.cell_center_in_image(1, 2, cells) == (176, 144)
    assert window_in_image(0, 0, cells, cells=7) == (0, 0, 224, 224)
    assert window_in_image(1, 2, cells, cells=7) == (64, 32, 288, 256)


def test_cells_of_a_flipped_input_look_at_the_mirrored_place() -> None:
    flipped = GridTransform.identity((288, 256)).flip_horizontal()
    cells = flipped.to_cells((3, 2), stride=32, first_center=112)
    assert geometry.cell_center_in_image(1, 2, cells) == (288 - 176, 144)
    assert window_in_image(1, 2, cells, cells=7) == (0, 32, 224, 256)


def test_sub_grid_boxes_of_the_paper() -> None:
    # GEO-07: L = 6, a 500 x 375 image, sub-grid (1, 0, width 5, height 6).
    cells = GridTransform.identity(IMAGE).resize((6, 6))
    box = geometry.map_box_to_image(geometry.box_from_xywh((1, 0, 5, 6)), cells)
    left, top, width, height = geometry.box_to_xywh(box)
    assert (left, top) == (pytest.approx(83.3333, abs=1e-4), 0)
    assert (width, height) == (pytest.approx(416.6667, abs=1e-4), pytest.approx(375))


def test_voc_boxes_count_from_one_and_include_their_last_pixel() -> None:
    # GEO-08
    assert geometry.box_from_voc((1, 1, 500, 375)) == (0, 0, 500, 375)
    assert geometry.box_to_voc((0, 0, 500, 375)) == (1, 1, 500, 375)
    assert geometry.box_from_inclusive((0, 0, 63, 40)) == (0, 0, 64, 41)


def test_yolo_and_coco_boxes_by_hand() -> None:
    assert geometry.box_from_yolo((0.5, 0.4, 0.2, 0.8), IMAGE) == (200, 0, 300, 300)
    assert geometry.box_from_xywh((10, 20, 30, 40)) == (10, 20, 40, 60)
    assert geometry.box_of_points([(3, 9), (1, 4), (2, 12)]) == (1, 4, 3, 12)


boxes = st.tuples(shares, shares, shares, shares).map(
    lambda share: (
        min(share[0], share[2]) * IMAGE[0],
        min(share[1], share[3]) * IMAGE[1],
        max(share[0], share[2]) * IMAGE[0],
        max(share[1], share[3]) * IMAGE[1],
    )
)


@given(boxes)
def test_every_box_convention_is_a_round_trip(box: BoxLTRB) -> None:
    assert geometry.box_from_voc(geometry.box_to_voc(box)) == pytest.approx(box, abs=1e-9)
    assert geometry.box_from_xywh(geometry.box_to_xywh(box)) == pytest.approx(box, abs=1e-9)
    yolo = geometry.box_to_yolo(box, IMAGE)
    assert geometry.box_from_yolo(yolo, IMAGE) == pytest.approx(box, abs=1e-9)


@given(boxes, transforms())
def test_boxes_stay_ordered_through_flips_and_come_back(
    box: BoxLTRB, transform: GridTransform
) -> None:
    in_grid = geometry.map_box_to_grid(box, transform)
    assert in_grid[0] <= in_grid[2]
    assert in_grid[1] <= in_grid[3]
    scales = abs(transform.scale_x * transform.scale_y)
    area = geometry.box_area(box) * scales
    assert geometry.box_area(in_grid) == pytest.approx(area, rel=1e-6, abs=1e-4 * (1 + area))
    assert geometry.map_box_to_image(in_grid, transform) == pytest.approx(box, abs=1e-3)


def iou_by_counting(first: BoxLTRB, second: BoxLTRB) -> float:
    """IoU of whole-pixel boxes, pixel by pixel."""
    masks = []
    for left, top, right, bottom in (first, second):
        mask = np.zeros((40, 60), bool)
        mask[int(top) : int(bottom), int(left) : int(right)] = True
        masks.append(mask)
    union = np.count_nonzero(masks[0] | masks[1])
    return np.count_nonzero(masks[0] & masks[1]) / union if union else 0.0


def test_ious_equal_counted_pixels(random: np.random.Generator) -> None:
    corners = np.sort(random.integers(0, (60, 40), size=(30, 2, 2)), axis=1).reshape(30, 4)
    first, second = corners[:14].astype(float), corners[14:].astype(float)
    counted = [[iou_by_counting(tuple(a), tuple(b)) for b in second] for a in first]
    np.testing.assert_allclose(geometry.box_ious(first, second), counted, atol=1e-12)
    alone = [[geometry.box_iou(tuple(a), tuple(b)) for b in second] for a in first]
    np.testing.assert_array_equal(alone, geometry.box_ious(first, second))
    # Inclusive boxes that name the last pixel are half-open boxes one shorter.
    shorter = np.array([0, 0, 1, 1])
    kept = (first[:, 2:] > first[:, :2]).all(1), (second[:, 2:] > second[:, :2]).all(1)
    inclusive = geometry.box_ious(
        first[kept[0]] - shorter, second[kept[1]] - shorter, inclusive=True
    )
    np.testing.assert_allclose(inclusive, np.array(counted)[np.ix_(*kept)], atol=1e-12)


def test_empty_and_missing_boxes_have_no_overlap() -> None:
    assert geometry.box_ious([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert geometry.box_ious([[2, 2, 2, 5]], [[2, 2, 2, 5], [0, 0, 9, 9]]).tolist() == [[0, 0]]
    assert geometry.box_iou((2, 2, 2, 5), (2, 2, 2, 5)) == 0
    assert geometry.box_overlap((0, 0, 4, 4), (4, 0, 8, 4)) == 0
    assert geometry.box_overlap((0, 0, 4, 4), (3, -2, 8, 2)) == 2
    assert geometry.box_areas([[0, 0, 3, 4], [5, 5, 4, 9]]).tolist() == [12, 0]
    assert geometry.box_areas([[0, 0, 3, 4]], inclusive=True).tolist() == [20]


def test_clipping_keeps_points_and_boxes_in_the_image() -> None:
    assert geometry.clip_box((-10, 20, 600, 30), IMAGE) == (0, 20, 500, 30)
    outside = geometry.clip_box((600, 400, 700, 500), IMAGE)
    assert geometry.box_area(outside) == 0
    assert not any(math.isnan(edge) for edge in outside)
