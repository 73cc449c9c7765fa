"""Boxes of drawn blobs by hand, invariants, and degenerate maps."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from weakloc.geometry import GridTransform
from weakloc.localize.maps import image_grid, resample
from weakloc.localize.places import (
    PROPOSALS,
    BoxChoice,
    BoxLimits,
    find_boxes,
    voted_boxes,
    whole_image_box,
)
from weakloc.structures import ScoreMaps

SIZE = (40.0, 30.0)
PIXELS = GridTransform.identity(SIZE)


def drawn(*blobs: tuple[int, int, int, int, float]) -> NDArray[np.float32]:
    """Zeros with rectangles (left, top, right, bottom, heat)."""
    heat = np.zeros((30, 40), dtype=np.float32)
    for left, top, right, bottom, value in blobs:
        heat[top:bottom, left:right] = value
    return heat


def test_square_blob_gives_its_exact_box() -> None:
    """AUG-06."""
    (found,) = find_boxes(drawn((5, 7, 17, 21, 3.0)), PIXELS, threshold=0.2)
    assert found.box == (5.0, 7.0, 17.0, 21.0)
    assert found.score == 1.0
    assert found.area_share == pytest.approx(12 * 14 / 1200)


def test_of_two_blobs_the_larger_is_the_largest_and_the_hotter_the_best() -> None:
    heat = drawn((5, 7, 17, 21, 0.6), (25, 2, 30, 8, 1.0))
    (largest,) = find_boxes(heat, PIXELS, threshold=0.2, select="largest")
    assert largest.box == (5.0, 7.0, 17.0, 21.0)
    (best,) = find_boxes(heat, PIXELS, threshold=0.2, select="best")
    assert best.box == (25.0, 2.0, 30.0, 8.0)
    both = find_boxes(heat, PIXELS, threshold=0.2)
    assert [found.box for found in both] == [best.box, largest.box]


def test_of_equally_large_blobs_the_hotter_then_the_first_is_taken() -> None:
    hotter = drawn((1, 1, 5, 5, 0.8), (20, 20, 24, 24, 0.9), (30, 3, 34, 7, 0.9))
    (found,) = find_boxes(hotter, PIXELS, threshold=0.2, select="largest")
    assert found.box == (30.0, 3.0, 34.0, 7.0)


def test_cells_that_equal_the_threshold_are_left_out() -> None:
    heat = drawn((5, 7, 17, 21, 1.0), (17, 7, 20, 21, 0.2))
    (found,) = find_boxes(heat, PIXELS, threshold=0.2)
    assert found.box == (5.0, 7.0, 17.0, 21.0)


def test_diagonal_neighbours_are_one_component() -> None:
    heat = drawn((5, 5, 10, 10, 1.0), (10, 10, 15, 15, 1.0))
    (found,) = find_boxes(heat, PIXELS, threshold=0.5)
    assert found.box == (5.0, 5.0, 15.0, 15.0)


def test_threshold_modes_differ_where_the_map_does_not_start_at_zero() -> None:
    heat = drawn((5, 7, 17, 21, 1.0), (17, 7, 20, 21, 0.35)) + np.float32(1.0)
    (by_range,) = find_boxes(heat, PIXELS, threshold=0.4, threshold_mode="minmax")
    (by_maximum,) = find_boxes(heat, PIXELS, threshold=0.6, threshold_mode="relu_max")
    (as_given,) = find_boxes(heat, PIXELS, threshold=1.3, threshold_mode="none")
    assert by_range.box == (5.0, 7.0, 17.0, 21.0)
    assert by_maximum.box == as_given.box == (5.0, 7.0, 20.0, 21.0)


def test_area_limits_are_shares_of_the_image() -> None:
    heat = drawn((0, 0, 1, 1, 1.0), (5, 7, 17, 21, 1.0), (20, 0, 40, 30, 1.0))
    boxes = {
        found.box
        for found in find_boxes(heat, PIXELS, threshold=0.5, limits=BoxLimits(max_area=0.3))
    }
    assert boxes == {(5.0, 7.0, 17.0, 21.0)}
    assert len(find_boxes(heat, PIXELS, threshold=0.5, limits=BoxLimits(min_area=0.0))) == 3


def test_box_scores_by_hand() -> None:
    heat = drawn((5, 5, 9, 9, 2.0), (9, 9, 10, 10, 4.0), (20, 20, 22, 22, 1.0))
    inside = (16 * 0.5 + 1.0) / 25  # min-max halves 2 to 0.5; the rectangle has 25 cells
    for score, expected in {
        "mean": inside,
        "raw_mean": 4 * inside,
        "max": 1.0,
        "share": 9.0 / 10.0,
    }.items():
        found = find_boxes(
            heat,
            PIXELS,
            threshold=0.3,
            score=score,
            class_probability=0.5,  # type: ignore[arg-type]
        )
        assert [each.score for each in found] == pytest.approx([0.5 * expected])


def test_heat_of_one_kept_box_scores_as_that_box() -> None:
    """BEAM-14 and BEAM-15: value s inside, 0 outside; the score of the box found is s."""
    (found,) = find_boxes(
        drawn((3, 4, 30, 25, 0.37)),
        PIXELS,
        threshold=0.5,
        threshold_mode="relu_max",
        score="raw_mean",
    )
    assert found.box == (3.0, 4.0, 30.0, 25.0)
    assert found.score == pytest.approx(0.37)


def test_raising_the_threshold_never_enlarges_the_foreground(random: np.random.Generator) -> None:
    """BEAM-17: and threshold 0 gives the union of all that was added."""
    heat = np.zeros((30, 40), dtype=np.float32)
    union = np.zeros((30, 40), dtype=np.bool_)
    for _ in range(6):
        left, top = random.integers(0, 30), random.integers(0, 22)
        heat[top : top + 8, left : left + 10] += random.random()
        union[top : top + 8, left : left + 10] = True
    shares = []
    for threshold in np.linspace(0.0, 1.0, 21):
        found = find_boxes(
            heat,
            PIXELS,
            threshold=threshold,
            threshold_mode="relu_max",
            limits=BoxLimits(min_area=0.0),
        )
        shares.append(sum(each.area_share for each in found))
    assert shares[0] == pytest.approx(union.mean())
    assert np.all(np.diff(shares) <= 1e-12)
    assert shares[-1] == 0.0


def test_all_boxes_equal_labelling(random: np.random.Generator) -> None:
    heat = ndimage.gaussian_filter(random.normal(size=(30, 40)), 1.5).astype(np.float32)
    span = np.float32(heat.max() - heat.min())
    labels, _ = ndimage.label((heat - heat.min()) / span > np.float32(0.55), np.ones((3, 3)))
    expected = {
        (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
        for rows, columns in ndimage.find_objects(labels)
    }
    found = find_boxes(heat, PIXELS, threshold=0.55, limits=BoxLimits(min_area=0.0))
    assert {each.box for each in found} == expected
    assert len(expected) > 5
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)


def test_boxes_of_two_parts_may_overlap() -> None:
    corner = drawn((5, 5, 25, 7, 1.0), (5, 5, 7, 25, 1.0), (10, 10, 25, 25, 0.8))
    boxes = [found.box for found in find_boxes(corner, PIXELS, threshold=0.2)]
    assert boxes == [(10.0, 10.0, 25.0, 25.0), (5.0, 5.0, 25.0, 25.0)]


def test_boxes_follow_flip_pad_and_scale() -> None:
    heat = drawn((5, 7, 17, 21, 1.0), (0, 0, 1, 1, 0.1))
    (expected,) = find_boxes(heat, PIXELS, threshold=0.2)
    padded = np.pad(heat, ((2, 4), (3, 1)))[:, ::-1].repeat(2, axis=0)
    transform = PIXELS.pad(3, 2, 1, 4).flip_horizontal().resize((44.0, 72.0))
    (found,) = find_boxes(padded, transform, threshold=0.2)
    assert found.box == pytest.approx(expected.box)
    assert found.area_share == pytest.approx(expected.area_share)


def test_boxes_at_the_border_reach_it_and_padding_is_cut_off() -> None:
    transform = PIXELS.pad(0, 10, 0, 10).resize((8.0, 10.0))  # 5-pixel cells
    heat = np.zeros((10, 8), dtype=np.float32)
    heat[1:4, 6:8] = 1.0
    heat[9, 0] = 1.0  # entirely in the padding
    (found,) = find_boxes(heat, transform, threshold=0.5)
    assert found.box == (30.0, 0.0, 40.0, 10.0)


def test_a_coarse_map_is_boxed_on_an_image_grid() -> None:
    values = np.zeros((1, 6, 8), dtype=np.float32)
    values[0, 2:4, 3:6] = 1.0
    maps = ScoreMaps(values, PIXELS.resize((8.0, 6.0)))
    grid = image_grid(SIZE, long_side=256)
    (found,) = find_boxes(resample(maps, grid).values[0], grid, threshold=0.5)
    assert found.box == pytest.approx((15.0, 10.0, 30.0, 20.0), abs=1.0)


@pytest.mark.parametrize(
    "heat",
    [
        np.full((30, 40), 3.0),
        np.zeros((30, 40)),
        np.full((30, 40), -2.0),
        np.full((30, 40), np.nan),
        np.where(np.arange(1200).reshape(30, 40) == 7, np.nan, 1.0),
    ],
    ids=["constant", "zero", "negative", "nan", "one nan"],
)
def test_a_map_without_information_gives_the_whole_image(heat: NDArray[np.float64]) -> None:
    (found,) = find_boxes(heat, PIXELS, threshold=0.2, class_probability=0.3)
    assert found == whole_image_box(PIXELS, 0.3)
    assert found.box == (0.0, 0.0, 40.0, 30.0)


def test_nothing_over_the_threshold_or_the_limits_is_an_empty_list() -> None:
    heat = drawn((5, 7, 6, 8, 1.0))
    assert find_boxes(heat, PIXELS, threshold=1.0) == []
    assert find_boxes(heat, PIXELS, threshold=0.5, limits=BoxLimits(min_area=0.01)) == []
    negative = heat - np.float32(2.0)
    assert find_boxes(negative, PIXELS, threshold=0.0, threshold_mode="none") == []


def test_extreme_image_sizes() -> None:
    one = GridTransform.identity((1.0, 1.0))
    (found,) = find_boxes(np.array([[5.0]]), one, threshold=0.2)
    assert found.box == (0.0, 0.0, 1.0, 1.0)
    size = (30000.0, 20.0)
    maps = np.zeros((1, 1, 900), dtype=np.float32)
    maps[0, 0, 450:] = 1.0
    grid = image_grid(size, long_side=256)
    coarse = ScoreMaps(maps, GridTransform.identity(size).resize((900.0, 1.0)))
    (found,) = find_boxes(resample(coarse, grid).values[0], grid, threshold=0.5)
    assert found.box == pytest.approx((15000.0, 0.0, 30000.0, 20.0), abs=120.0)


def test_parts_with_too_little_of_the_heat_get_no_box() -> None:
    """Nine, four and one of fourteen warm cells."""
    heat = np.zeros((10, 10))
    heat[0:3, 0:3] = heat[5:7, 5:7] = heat[9, 0] = 1.0
    transform = GridTransform.identity((10, 10))

    def areas(min_share: float) -> list[float]:
        found = find_boxes(heat, transform, threshold=0.5, limits=BoxLimits(min_share=min_share))
        return sorted(round(box.area_share * 100) for box in found)

    assert areas(0) == [1, 4, 9]
    assert areas(1 / 14) == [1, 4, 9]
    assert areas(0.08) == [4, 9]
    assert areas(0.3) == [9]


def test_proposals_that_agree_become_one_box_by_their_scores() -> None:
    boxes = np.array(
        [
            [10, 10, 30, 30],  # the best, and one beside it that agrees
            [12, 10, 32, 30],
            [13, 15, 33, 35],  # agrees with neither, and overlaps the best by less than half
            [60, 60, 90, 200],  # reaches beyond the image, which is 100 pixels on each side
            [-50, -50, -10, -10],  # in the padding
            [0, 0, 100, 100],
        ],
        dtype=float,
    )
    scores = np.array([0.8, 0.4, 0.3, 0.6, 0.9, 0.1])

    limits = BoxLimits(min_area=0.0, min_share=0.2)
    parts = voted_boxes(boxes, scores, (100, 100), select="all", limits=limits)

    left = (0.8 * 10 + 0.4 * 12) / 1.2
    assert [part.score for part in parts] == [0.8, 0.6, 0.3]
    assert parts[0].box == pytest.approx((left, 10, left + 20, 30))
    assert parts[1].box == pytest.approx((60, 60, 90, 100))
    assert parts[2].box == pytest.approx((13, 15, 33, 35))


@pytest.mark.parametrize(("select", "expected"), [("best", 0.8), ("largest", 0.6)])
def test_one_of_several_proposals_is_chosen(select: BoxChoice, expected: float) -> None:
    boxes = np.array([[0, 0, 20, 20], [40, 40, 90, 90]], dtype=float)

    (part,) = voted_boxes(
        boxes, np.array([0.8, 0.6]), (100, 100), select=select, limits=BoxLimits(min_area=0.0)
    )

    assert part.score == expected


def test_proposals_of_odd_sizes_get_no_box() -> None:
    limits = BoxLimits(min_area=0.01, max_area=0.5)
    boxes = np.array([[0, 0, 5, 5], [0, 0, 100, 90]], dtype=float)

    assert not voted_boxes(boxes, np.array([0.8, 0.6]), (100, 100), select="all", limits=limits)
    assert not voted_boxes(np.zeros((0, 4)), np.zeros(0), (100, 100), select="all", limits=limits)


def test_proposals_without_any_score_get_no_box() -> None:
    limits = BoxLimits(min_area=0.0)
    boxes = np.array([[0, 0, 20, 20], [40, 40, 90, 90]], dtype=float)

    assert not voted_boxes(boxes, np.zeros(2), (100, 100), select="all", limits=limits)
    (part,) = voted_boxes(boxes, np.array([0.5, 0.0]), (100, 100), select="all", limits=limits)
    assert part.box == (0, 0, 20, 20)


def test_proposals_are_the_parts_at_every_threshold() -> None:
    """A ridge with a summit at each end: three boxes, of which one threshold shows two at most."""
    heat = drawn((4, 8, 36, 20, 0.4), (4, 8, 12, 20, 1.0), (30, 8, 36, 16, 0.8))
    at_once = {part.box for t in (0.2, 0.6) for part in find_boxes(heat, PIXELS, threshold=t)}
    assert at_once == {(4, 8, 36, 20), (4, 8, 12, 20), (30, 8, 36, 16)}

    proposals = find_boxes(heat, PIXELS, threshold=0.9, select="proposals", score="max")

    scores = {part.box: part.score for part in proposals}
    assert at_once <= scores.keys()
    assert scores[(30, 8, 36, 16)] == pytest.approx(0.8)
    assert [part.score for part in proposals] == sorted(scores.values(), reverse=True)


def test_proposals_are_many_and_different_and_not_small() -> None:
    heat = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(120, 160)), 2)
    transform = GridTransform.identity((160.0, 120.0))

    parts = find_boxes(
        heat.astype(np.float32),
        transform,
        threshold=0.5,
        select="proposals",
        limits=BoxLimits(min_area=0.01, max_area=0.9),
    )

    boxes = np.array([part.box for part in parts])
    assert 100 < len(boxes) <= PROPOSALS
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert all(0.01 <= part.area_share <= 0.9 for part in parts)
