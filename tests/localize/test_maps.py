"""Resampling against slow bilinear code, fusion against hand-computed maps, degenerate maps."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.upside_down import flip_vertical
from weakloc.geometry import (
    GridTransform,
    cell_center_in_image,
    map_box_to_image,
    map_point_to_grid,
)
from weakloc.localize.maps import (
    NORMALISATIONS,
    fuse,
    image_grid,
    minmax,
    otsu,
    relu_max,
    resample,
    shared_out,
    sigmoid,
    zscore,
)
from weakloc.structures import ScoreMaps

SIZE = (50.0, 37.0)  # width, height
IDENTITY = GridTransform.identity(SIZE)
TRANSFORMS = {
    "warp": IDENTITY.resize((7.0, 5.0)),
    "pad": IDENTITY.pad(3, 11, 9, 0).resize((9.0, 8.0)),
    "flip": IDENTITY.flip_horizontal().resize((6.0, 9.0)),
    "both flips and pad": flip_vertical(IDENTITY.pad(0, 5, 2, 1)).flip_horizontal().resize((8, 6)),
    "tile": IDENTITY.crop((10.0, 5.0, 40.0, 30.0)).resize((5.0, 7.0)),
    "windows": IDENTITY.to_cells((4, 3), stride=8, first_center=12),
    "one cell": IDENTITY.resize((1.0, 1.0)),
}


def bilinear(values: NDArray[np.float32], u: float, v: float) -> float:
    """The value of a (rows, columns) map at grid point (u, v), edges replicated."""
    rows, columns = values.shape
    x, y = min(max(u - 0.5, 0.0), columns - 1), min(max(v - 0.5, 0.0), rows - 1)
    left, top = min(int(x), max(columns - 2, 0)), min(int(y), max(rows - 2, 0))
    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
    a, b = x - left, y - top
    upper = (1 - a) * values[top, left] + a * values[top, right]
    lower = (1 - a) * values[bottom, left] + a * values[bottom, right]
    return float((1 - b) * upper + b * lower)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_resampling_equals_bilinear_interpolation_cell_by_cell(
    kind: str, random: np.random.Generator
) -> None:
    transform = TRANSFORMS[kind]
    columns, rows = (int(side) for side in transform.grid_size)
    maps = ScoreMaps(random.normal(size=(2, rows, columns)).astype(np.float32), transform)
    grid = image_grid(SIZE, long_side=31)
    got = resample(maps, grid).values
    for row in range(got.shape[1]):
        for column in range(got.shape[2]):
            u, v = map_point_to_grid(cell_center_in_image(row, column, grid), transform)
            expected = [bilinear(values, u, v) for values in maps.values]
            np.testing.assert_allclose(got[:, row, column], expected, atol=1e-5)


def test_upsampling_a_warped_image_equals_half_pixel_resizing(random: np.random.Generator) -> None:
    heat = random.normal(size=(5, 7)).astype(np.float32)
    maps = ScoreMaps(heat[None], TRANSFORMS["warp"])
    expected = cv2.resize(heat, (50, 37), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resample(maps, image_grid(SIZE)).values[0], expected, atol=1e-5)


def test_resampling_to_the_same_grid_copies(random: np.random.Generator) -> None:
    for transform in TRANSFORMS.values():
        columns, rows = (int(side) for side in transform.grid_size)
        maps = ScoreMaps(random.normal(size=(3, rows, columns)).astype(np.float32), transform)
        assert np.array_equal(resample(maps, transform).values, maps.values)


def test_a_flipped_view_lands_on_the_unflipped_one(random: np.random.Generator) -> None:
    straight = ScoreMaps(random.normal(size=(1, 5, 7)).astype(np.float32), TRANSFORMS["warp"])
    flipped = ScoreMaps(
        straight.values[:, :, ::-1].copy(), IDENTITY.flip_horizontal().resize((7.0, 5.0))
    )
    grid = image_grid(SIZE, long_side=20)
    np.testing.assert_allclose(
        resample(flipped, grid).values, resample(straight, grid).values, atol=1e-6
    )


@pytest.mark.parametrize(
    ("size", "long_side", "expected"),
    [
        ((500.0, 375.0), 256, (256.0, 192.0)),
        ((500.0, 375.0), None, (500.0, 375.0)),
        ((30.0, 20.0), 256, (30.0, 20.0)),
        ((30000.0, 20.0), 256, (256.0, 16.0)),
        ((1.0, 1.0), 256, (1.0, 1.0)),
    ],
)
def test_image_grid_sizes(
    size: tuple[float, float], long_side: int | None, expected: tuple[float, float]
) -> None:
    grid = image_grid(size, long_side=long_side)
    assert grid.grid_size == expected
    assert map_box_to_image((0.0, 0.0, *expected), grid) == pytest.approx((0.0, 0.0, *size))


def test_normalisations_by_hand() -> None:
    heat = np.array([[-1.0, 0.0, 1.0], [1.0, 2.0, 3.0]], dtype=np.float32)
    np.testing.assert_allclose(minmax(heat), [[0, 0.25, 0.5], [0.5, 0.75, 1]])
    np.testing.assert_allclose(relu_max(heat), np.array([[0, 0, 1], [1, 2, 3]]) / 3, atol=1e-7)
    assert sigmoid(heat)[1, 1] == pytest.approx(1 / (1 + math.exp(-2)))
    np.testing.assert_allclose(zscore(heat), (heat - 1) / math.sqrt(10 / 6), atol=1e-6)


def test_logistic_of_huge_logits_neither_overflows_nor_warns() -> None:
    assert sigmoid(np.array([[-1e4, 1e4]], dtype=np.float32)).tolist() == [[0.0, 1.0]]


BROKEN = {
    "constant": np.full((2, 3), 4.0, dtype=np.float32),
    "nan": np.array([[1, np.nan, 2], [3, 4, 5]], dtype=np.float32),
    "infinite": np.array([[1, np.inf, 2], [3, 4, 5]], dtype=np.float32),
    "one cell": np.array([[-3.0]], dtype=np.float32),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_maps_without_information_become_zeros(kind: str) -> None:
    for normalise in ("minmax", "zscore"):
        assert not NORMALISATIONS[normalise](BROKEN[kind]).any()
    if kind in ("nan", "infinite"):
        assert not any(function(BROKEN[kind]).any() for function in NORMALISATIONS.values())


def test_all_negative_maps_have_no_positive_part() -> None:
    heat = -1.0 - np.arange(6, dtype=np.float32).reshape(2, 3)
    assert not relu_max(heat).any()
    assert minmax(heat).max() == 1.0


def test_a_broken_map_of_one_class_leaves_the_others_alone(random: np.random.Generator) -> None:
    stacked = random.normal(size=(2, 2, 3)).astype(np.float32)
    expected = minmax(stacked[1])
    stacked[0, 0, 0] = np.nan
    assert np.array_equal(minmax(stacked)[1], expected)


def view(values: list[list[float]], transform: GridTransform) -> ScoreMaps:
    return ScoreMaps(np.array([values], dtype=np.float32), transform)


def test_fusion_by_hand() -> None:
    grid = GridTransform.identity((2.0, 1.0))
    views = [view([[0.0, 4.0]], grid), view([[3.0, 1.0]], grid)]
    assert fuse(views, grid, combine="max").values.tolist() == [[[3.0, 4.0]]]
    assert fuse(views, grid, combine="mean").values.tolist() == [[[1.5, 2.5]]]
    normalised = fuse(views, grid, combine="mean", normalise="minmax")
    assert normalised.values.tolist() == [[[0.5, 0.5]]]
    assert normalised.kind == "cam"
    assert fuse(views, grid, combine="mean", normalise="zscore").values.tolist() == [[[0.0, 0.0]]]
    logistic = fuse(views, grid, combine="max", normalise="sigmoid")
    assert logistic.values[0, 0, 1] == pytest.approx(1 / (1 + math.exp(-4)))
    assert logistic.kind == "probability"


def test_maps_are_resized_then_squashed_then_their_maximum_is_taken() -> None:
    """Max-MIL's display: halfway between the logits 0 and 4 lies 2, not the mean probability."""
    grid = GridTransform.identity((3.0, 1.0))
    views = [
        view([[0.0, 4.0]], grid.crop((0.5, 0.0, 2.5, 1.0))),
        view([[1.0]], grid.resize((1, 1))),
    ]
    fused = fuse(views, grid, combine="max", normalise="sigmoid").values[0, 0]
    assert fused[1] == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert fused[0] == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_order_of_views_does_not_matter(random: np.random.Generator) -> None:
    views = [
        ScoreMaps(random.normal(size=(2, *shape)).astype(np.float32), IDENTITY.resize(shape[::-1]))
        for shape in [(5.0, 7.0), (9.0, 4.0), (3.0, 3.0)]
        for shape in [tuple(int(side) for side in shape)]
    ]
    grid = image_grid(SIZE, long_side=20)
    for combine in ("max", "mean"):
        forward = fuse(views, grid, combine=combine).values
        backward = fuse(views[::-1], grid, combine=combine).values
        np.testing.assert_allclose(forward, backward, atol=1e-6)


def test_tiles_of_a_map_fuse_to_the_map(random: np.random.Generator) -> None:
    """Each tile is a window of one pixel-wise map; overlaps agree, so nothing may change."""
    whole = random.normal(size=(1, 37, 50)).astype(np.float32)
    windows = [(0, 0, 30, 37), (20, 0, 50, 20), (20, 15, 50, 37)]
    tiles = [
        ScoreMaps(whole[:, top:bottom, left:right], IDENTITY.crop((left, top, right, bottom)))
        for left, top, right, bottom in windows
    ]
    for combine in ("max", "mean"):
        fused = fuse(tiles, image_grid(SIZE), combine=combine, windows=windows)
        np.testing.assert_allclose(fused.values, whole, atol=1e-6)


def test_a_broken_view_does_not_count_and_nothing_but_broken_views_gives_zeros() -> None:
    grid = GridTransform.identity((2.0, 1.0))
    good, broken = view([[-2.0, -4.0]], grid), view([[np.nan, 9.0]], grid)
    for combine in ("max", "mean"):
        fused = fuse([broken, good, broken], grid, combine=combine)
        assert fused.values.tolist() == [[[-2.0, -4.0]]]
        assert not fuse([broken], grid, combine=combine).values.any()


def test_no_classes_is_legal() -> None:
    none = ScoreMaps(np.zeros((0, 5, 7), dtype=np.float32), TRANSFORMS["warp"])
    grid = image_grid(SIZE, long_side=10)
    for normalise in NORMALISATIONS:
        assert fuse([none], grid, combine="max", normalise=normalise).values.shape == (0, 7, 10)


def test_no_views_is_refused() -> None:
    with pytest.raises(ValueError, match="no views"):
        fuse([], image_grid(SIZE), combine="max")


def test_by_otsu_a_half_divides_each_map_where_two_groups_differ_most() -> None:
    random = np.random.default_rng(7)
    cold, hot = random.uniform(0.0, 0.2, (2, 6, 4)), random.uniform(0.6, 0.9, (2, 6, 3))
    maps = np.concatenate([cold, hot], axis=2) * np.array([1.0, 0.01])[:, None, None]
    is_hot = np.zeros(maps.shape, dtype=bool)
    is_hot[:, :, 4:] = True

    normalised = otsu(maps)

    assert np.array_equal(normalised > 0.5, is_hot)
    threshold = cold.max(axis=(1, 2))[:, None, None] * np.array([1.0, 0.01])[:, None, None]
    np.testing.assert_allclose(normalised, maps / (maps + threshold), rtol=1e-5)
    assert not otsu(np.full((1, 3, 3), 0.4)).any()
    assert not otsu(np.array([[[0.1, np.nan], [0.9, 0.2]]])).any()
    assert otsu(np.array([[[-1.0, 0.0], [0.0, 2.0]]])).tolist() == [[[0.0, 0.0], [0.0, 1.0]]]


def test_classes_that_share_an_image_compete_as_in_a_softmax_with_background() -> None:
    logits = np.random.default_rng(2).normal(0, 3, (4, 5, 6))  # background first
    against_background = (1 / (1 + np.exp(logits[:1] - logits[1:]))).astype(np.float32)
    weights = np.exp(logits)

    shared = shared_out(against_background, np.ones(3, dtype=bool))
    np.testing.assert_allclose(shared, (weights / weights.sum(axis=0))[1:], atol=1e-4)

    # The last is not there: it takes nothing from the others, which take their part of it.
    shared = shared_out(against_background, np.array([True, True, False]))
    np.testing.assert_allclose(shared[:2], (weights / weights[:3].sum(axis=0))[1:3], atol=1e-4)
    np.testing.assert_allclose(shared[2], (weights / weights.sum(axis=0))[3], atol=1e-4)

    alone = against_background[:1]
    for there in (True, False):
        np.testing.assert_allclose(shared_out(alone, np.array([there])), alone, atol=1e-4)
