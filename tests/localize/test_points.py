"""Points by hand, from drawn dots under every transform, and from degenerate maps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.upside_down import flip_vertical
from weakloc.geometry import GridTransform
from weakloc.localize.places import (
    Peak,
    PointMap,
    PointMethod,
    hottest_views,
    locate_point,
    locate_points,
    outermost_centers,
    pixel_centers,
)
from weakloc.structures import ScoreMaps

SIZE = (53.0, 38.0)
METHODS: tuple[PointMethod, ...] = ("arg_max", "plateau", "sub_cell")


def over_all(heat: NDArray[np.floating], transform: GridTransform) -> PointMap:
    """The map with points anywhere in the image."""
    return PointMap(heat, transform, pixel_centers(transform.image_size))


def points_of(
    point_map: PointMap, *, max_points: int = 99, min_distance: float = 0.0, method="arg_max"
) -> list[Peak]:
    """The first point and all further ones of one map."""
    return locate_points(
        point_map, point_map, max_points=max_points, min_distance=min_distance, method=method
    )


def test_cell_centre_of_a_warped_image_by_hand() -> None:
    """WC-13: 640x480 warped to 448, 14x14 cells: the top-left cell is at (22.857, 17.143)."""
    transform = GridTransform.identity((640.0, 480.0)).resize((448.0, 448.0)).resize((14.0, 14.0))
    heat = np.zeros((14, 14), dtype=np.float32)
    heat[0, 0] = 1
    peak = locate_point(over_all(heat, transform), "arg_max")
    assert (peak.x, peak.y) == pytest.approx((22.857143, 17.142857))
    assert peak.heat == 1.0


@pytest.mark.parametrize("flips", ["", "h", "v", "hv"])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.4, 0.7), (3.0, 2.0)])
@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (7, 3, 0, 11)])
def test_a_dot_is_found_in_the_cell_that_holds_it(
    pad: tuple[int, int, int, int], scale: tuple[float, float], flips: str
) -> None:
    """GEO-06 with an identity backbone: the map is the image, transformed by OpenCV."""
    left, top, right, bottom = pad
    transform = GridTransform.identity(SIZE).pad(left, top, right, bottom)
    width, height = transform.grid_size
    cells = (round(width * scale[0]), round(height * scale[1]))
    transform = transform.resize((float(cells[0]), float(cells[1])))
    transform = transform.flip_horizontal() if "h" in flips else transform
    transform = flip_vertical(transform) if "v" in flips else transform
    for column, row in [(0, 0), (52, 37), (17, 30), (44, 5)]:
        image = np.zeros((38, 53), dtype=np.float32)
        image[row, column] = 1.0
        image = np.pad(image, ((top, bottom), (left, right)))
        image = cv2.resize(image, cells, interpolation=cv2.INTER_AREA)
        image = image[:, ::-1] if "h" in flips else image
        image = image[::-1] if "v" in flips else image
        peak = locate_point(over_all(image, transform), "plateau")
        assert abs(peak.x - (column + 0.5)) <= 0.5 * max(1 / abs(transform.scale_x), 1) + 1e-6
        assert abs(peak.y - (row + 0.5)) <= 0.5 * max(1 / abs(transform.scale_y), 1) + 1e-6


@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (0, 7, 0, 8), (0, 15, 0, 0), (20, 0, 5, 30)])
def test_padding_does_not_move_the_point(pad: tuple[int, int, int, int]) -> None:
    """MIL-13 for the mapping: one object, any padding, the same point within a cell."""
    transform = GridTransform.identity(SIZE).pad(*pad)
    columns, rows = (round(side / 4) for side in transform.grid_size)
    cells = transform.resize((float(columns), float(rows)))
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    image_x = (x - cells.offset_x) / cells.scale_x
    image_y = (y - cells.offset_y) / cells.scale_y
    heat = np.exp(-((image_x - 31.0) ** 2 + (image_y - 12.0) ** 2) / 50)
    for method in METHODS:
        peak = locate_point(over_all(heat, cells), method)
        assert abs(peak.x - 31.0) <= 4.5 / 2
        assert abs(peak.y - 12.0) <= 4.5 / 2


def test_first_of_equal_cells_wins() -> None:
    heat = np.zeros((3, 5))
    heat[1, 3] = heat[1, 1] = heat[2, 0] = 2.0
    peak = locate_point(over_all(heat, GridTransform.identity((5.0, 3.0))), "arg_max")
    assert (peak.x, peak.y) == (1.5, 1.5)


def test_plateau_point_is_the_centroid_of_the_largest_plateau() -> None:
    """BEAM-21."""
    heat = np.zeros((6, 9))
    heat[0, 0] = 1.0
    heat[2:4, 4:9] = 1.0
    peak = locate_point(over_all(heat, GridTransform.identity((9.0, 6.0))), "plateau")
    assert (peak.x, peak.y) == (6.5, 3.0)


def test_centroid_off_a_ring_is_snapped_onto_it() -> None:
    heat = np.zeros((7, 9))
    heat[1:6, 2:7] = 1.0
    heat[2:5, 3:6] = 0.5
    peak = locate_point(over_all(heat, GridTransform.identity((9.0, 7.0))), "plateau")
    assert heat[int(peak.y), int(peak.x)] == 1.0
    assert (peak.x, peak.y) == (4.5, 1.5)  # the nearest cells are equally far; the first is taken


def test_sub_cell_refinement_finds_the_top_of_a_paraboloid() -> None:
    rows, columns = np.mgrid[0:6, 0:8] + 0.5
    heat = 5.0 - 0.3 * (columns - 4.2) ** 2 - 0.7 * (rows - 2.65) ** 2
    cells = GridTransform.identity((80.0, 30.0)).resize((8, 6))
    peak = locate_point(over_all(heat, cells), "sub_cell")
    assert (peak.x, peak.y) == pytest.approx((42.0, 13.25))


def test_refinement_stays_within_half_a_cell_and_inside_the_image() -> None:
    heat = np.array([[5.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    peak = locate_point(over_all(heat, GridTransform.identity((3.0, 2.0))), "sub_cell")
    assert (peak.x, peak.y) == (0.5, 0.5)


def test_points_in_the_padding_are_clipped_into_the_image() -> None:
    heat = np.zeros((4, 4))
    heat[0, 3] = 1.0
    padded = GridTransform.identity((20.0, 10.0)).pad(0, 5, 0, 5).resize((4.0, 4.0))
    peak = locate_point(over_all(heat, padded), "arg_max")
    assert (peak.x, peak.y) == (17.5, 0.5)  # the centre of a pixel, so that a box can hold it
    heat[3, 1] = 2.0
    peak = locate_point(over_all(heat, padded), "arg_max")
    assert (peak.x, peak.y) == (7.5, 9.5)
    peak = locate_point(PointMap(heat, padded, (8.0, 2.0, 12.0, 8.0)), "arg_max")
    assert (peak.x, peak.y) == (8.0, 8.0)


def test_the_outermost_centres_are_those_of_all_views_in_the_image() -> None:
    """20 x 10 pixels: cells of 4 x 5, mirrored cells of 2 x 10, and one padded above by 2."""
    whole = GridTransform.identity((20.0, 10.0))
    first = whole.resize((5.0, 2.0))
    assert outermost_centers([first]) == (2.0, 2.5, 18.0, 7.5)
    second = whole.resize((10.0, 1.0)).flip_horizontal()
    assert outermost_centers([first, second]) == (1.0, 2.5, 19.0, 7.5)
    padded = whole.pad(0, 2, 0, 2).resize((2.0, 7.0))
    assert outermost_centers([first, padded]) == (2.0, 0.5, 18.0, 9.5)


def test_the_hottest_view_is_found_where_the_logistic_function_has_no_more_digits() -> None:
    """And each class has its own; a map that is not finite everywhere does not count."""
    grid = GridTransform.identity((3.0, 2.0))
    values = np.zeros((4, 3, 2, 3), dtype=np.float32)  # views, classes
    values[0, :, 0, 0] = 30.0, 2.0, -3.0
    values[1, :, 1, 2] = 31.0, 1.0, -2.0
    values[2, :, 0, 0] = np.nan, np.inf, 9.0
    values[3, 2] = -1.0
    views = [ScoreMaps(of_view, grid) for of_view in values]
    assert hottest_views(views, "sigmoid") == [1, 0, 2]
    assert hottest_views(views, "none") == [1, 0, 2]
    assert hottest_views(views[:2], "minmax") == [1, 0, 0]
    assert hottest_views([views[2]], "none") == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_maps_without_information_have_a_defined_point(method: PointMethod) -> None:
    transform = GridTransform.identity((30.0, 20.0)).resize((3.0, 2.0))
    missing = locate_point(over_all(np.full((2, 3), np.nan), transform), method)
    assert (missing.x, missing.y, missing.heat) == (15.0, 10.0, 0.0)
    constant = locate_point(over_all(np.full((2, 3), -4.0), transform), method)
    expected = (15.0, 10.0, -4.0) if method == "plateau" else (5.0, 5.0, -4.0)
    assert (constant.x, constant.y, constant.heat) == expected
    one_cell = locate_point(over_all(np.ones((1, 1)), GridTransform.identity((1.0, 1.0))), method)
    assert (one_cell.x, one_cell.y) == (0.5, 0.5)


def test_a_cell_that_is_not_a_number_is_passed_over() -> None:
    heat = np.array([[np.nan, 1.0], [2.0, np.inf]])
    peak = locate_point(over_all(heat, GridTransform.identity((2.0, 2.0))), "arg_max")
    assert (peak.x, peak.y, peak.heat) == (0.5, 1.5, 2.0)


def test_several_points_hottest_first_and_apart() -> None:
    heat = np.zeros((5, 9))
    heat[1, 1], heat[1, 3], heat[3, 7] = 3.0, 2.0, 1.0
    transform = GridTransform.identity((90.0, 50.0)).resize((9.0, 5.0))

    def found(**limits: float) -> list[tuple[float, float, float]]:
        peaks = points_of(over_all(heat, transform), **limits)  # type: ignore[arg-type]
        return [(peak.x, peak.y, peak.heat) for peak in peaks]

    assert found() == [(15.0, 15.0, 3.0), (35.0, 15.0, 2.0), (75.0, 35.0, 1.0)]
    assert found(max_points=2) == [(15.0, 15.0, 3.0), (35.0, 15.0, 2.0)]
    assert found(min_distance=20.0) == found()
    assert found(min_distance=20.1) == [(15.0, 15.0, 3.0), (75.0, 35.0, 1.0)]


def test_points_that_follow_a_known_one_leave_out_its_cell() -> None:
    heat = np.zeros((5, 9))
    heat[1, 1], heat[1, 3], heat[3, 7] = 3.0, 2.0, 1.0
    transform = GridTransform.identity((90.0, 50.0)).resize((9.0, 5.0))
    coarse = transform.resize((6.0, 2.0))  # cells of 15 x 25 pixels
    one_hot = np.array([[0.0, 3.5], [0.0, 0.0]])
    for x, y, second in (
        (16.0, 15.0, (35.0, 2.0)),
        (30.1, 15.0, (15.0, 3.0)),
        (16.0, 39.0, (35.0, 2.0)),
    ):
        known = PointMap(one_hot, coarse, (x, y, x, y))
        peaks = locate_points(
            known, over_all(heat, transform), max_points=2, min_distance=0.0, method="arg_max"
        )
        assert [(peak.x, peak.heat) for peak in peaks] == [(x, 3.5), second]


def test_each_of_several_plateaus_has_its_centre_for_a_point() -> None:
    heat = np.zeros((6, 9))
    heat[1:4, 1:4], heat[2:6, 6:8] = 1.0, 2.0
    peaks = points_of(over_all(heat, GridTransform.identity((9.0, 6.0))), method="plateau")
    assert [(peak.x, peak.y, peak.heat) for peak in peaks] == [(7.0, 4.0, 2.0), (2.5, 2.5, 1.0)]


def test_more_points_asked_than_there_are_maxima() -> None:
    transform = GridTransform.identity((4.0, 3.0))
    constant, nothing = np.ones((3, 4)), np.full((3, 4), np.nan)
    assert len(points_of(over_all(constant, transform))) == 1
    assert points_of(over_all(nothing, transform)) == [Peak(2.0, 1.5, 0.0)]
    assert points_of(over_all(constant, transform), max_points=0) == []


def test_a_slope_next_to_a_peak_is_not_a_second_peak(random: np.random.Generator) -> None:
    heat = random.permutation(48).reshape(6, 8).astype(np.float64)
    padded = np.pad(heat, 1, constant_values=-1)
    expected = sorted(
        (
            heat[row, column]
            for row in range(6)
            for column in range(8)
            if heat[row, column] == padded[row : row + 3, column : column + 3].max()
        ),
        reverse=True,
    )
    peaks = points_of(over_all(heat, GridTransform.identity((8.0, 6.0))))
    assert [peak.heat for peak in peaks] == expected


def test_densest_prefers_an_object_to_a_speck() -> None:
    """A hot cell alone against a warm square; both away from the border."""
    heat = np.zeros((50, 100))
    heat[10, 80], heat[20:31, 20:31] = 1.0, 0.5
    transform = GridTransform.identity((400, 200)).resize((100, 50))

    speck = locate_point(over_all(heat, transform), "arg_max")
    middle = locate_point(over_all(heat, transform), "densest")

    assert (speck.x, speck.y, speck.heat) == (322, 42, 1.0)
    assert (middle.x, middle.y, middle.heat) == (102, 102, 0.5)
    both = points_of(over_all(heat, transform), max_points=2, method="densest")
    assert [(peak.x, peak.y) for peak in both] == [(102, 102), (322, 42)]


def test_densest_is_a_gaussian_sum_over_the_image(random: np.random.Generator) -> None:
    """Cells of 2 x 1 pixels: the reach is one length in pixels, on both axes."""
    heat = random.normal(size=(12, 9))
    transform = GridTransform.identity((18, 12)).resize((9, 12))
    found = locate_point(over_all(heat, transform), "densest")

    rows, columns = np.indices(heat.shape)
    x, y, above = 2 * columns + 1, rows + 0.5, heat - heat.min()
    around = [
        [(above * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (0.06 * 18) ** 2))).sum()
         for cx in x[0]] for cy in y[:, 0]
    ]  # fmt: skip
    row, column = np.unravel_index(np.argmax(around), heat.shape)
    assert (found.x, found.y) == pytest.approx((x[0, column], y[row, 0]))
    assert found.heat == heat[row, column]
