"""Beam search beyond the paper: sharing between classes, options, odd input."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from weakloc.errors import SettingError
from weakloc.localize.beam_search import (
    WHOLE_IMAGE,
    BeamSettings,
    RegionKey,
    all_windows,
    beam_search,
    heat_maps,
    key_iou,
    region_box,
    region_key,
    window_region,
)
from weakloc.predictor.beam_heat import (
    MapScorer,
    class_map_scores,
    contrast_window_scores,
    crop_pixels,
)


class CountingScorer:
    """Class maps that depend on the crop, with every crop, call and window counted."""

    def __init__(self, grid_size=(5, 4), classes=3, fill=None) -> None:
        self.grid_size = grid_size
        self.classes = classes
        self.fill = fill
        self.crops: list[tuple[float, ...]] = []
        self.calls: list[int] = []

    def read_crops(self, boxes_in_image):
        self.crops += [tuple(box) for box in boxes_in_image]
        return [tuple(box) for box in boxes_in_image]

    def score_windows(self, grids, owners, windows):
        self.calls.append(len(windows))
        if self.fill is not None:
            return np.full((len(windows), self.classes), self.fill)
        seeds = [
            (*np.rint(1e6 * np.array(grids[o])), *w) for o, w in zip(owners, windows, strict=True)
        ]
        return np.array([noise(seed, self.classes) for seed in seeds])


def noise(seed, classes: int) -> np.ndarray:
    return np.random.default_rng([int(value) for value in seed]).random(classes)


def search(scorer, classes=(0,), image_size=(300, 200), **settings):
    return beam_search(scorer, image_size, class_indices=classes, settings=BeamSettings(**settings))


@pytest.mark.parametrize("recrop_every", [1, 2, 3, math.inf])
@pytest.mark.parametrize("children", ["one_side", "eq6"])
def test_searching_classes_together_finds_what_each_finds_alone(recrop_every, children) -> None:
    options = {"recrop_every": recrop_every, "children": children, "beam_width": 3, "num_levels": 5}
    together = CountingScorer()
    result = search(together, (2, 0, 1), **options)
    assert [kept.class_index for kept in result.kept] == [2, 0, 1]
    crops_alone = 0
    for kept in result.kept:
        alone = CountingScorer()
        expected = search(alone, (kept.class_index,), **options).kept[0]
        crops_alone += len(alone.crops)
        assert np.array_equal(kept.boxes, expected.boxes)
        assert np.array_equal(kept.scores, expected.scores)
    assert len(together.calls) <= 5
    assert len(together.crops) <= crops_alone - 2  # the whole image, at least, is shared


@pytest.mark.parametrize("recrop_every", [1, 2, math.inf])
def test_the_search_equals_a_plain_loop_over_its_definition(recrop_every) -> None:
    columns, rows = grid = (5, 4)
    scorer = CountingScorer(grid, classes=1)
    result = search(scorer, recrop_every=recrop_every, beam_width=4, num_levels=6)
    beam, expected = [((0.0, 0.0, 300.0, 200.0), (0, 0, columns, rows))], []
    for level in range(6):
        if level and level % recrop_every == 0:
            beam = [(plain_box(*node, grid), (0, 0, columns, rows)) for node in beam]
        found: dict[tuple[float, ...], tuple] = {}
        for frame, (x, y, w, h) in beam:
            for child in [
                (x, y, w - 1, h),
                (x + 1, y, w - 1, h),
                (x, y, w, h - 1),
                (x, y + 1, w, h - 1),
            ]:
                if min(child[2:]) < 1:
                    continue
                score = noise((*np.rint(1e6 * np.array(frame)), *child), 1)[0]
                place = tuple(np.round(plain_box(frame, child, grid), 6))
                if place not in found or found[place][0] < score:
                    found[place] = (score, (frame, child))
        best = sorted(found.items(), key=lambda item: (-item[1][0], item[0][1], item[0][0]))[:4]
        beam = [node for _, (_, node) in best]
        expected += [(place, score) for place, (score, _) in best]
    assert result.kept[0].boxes == pytest.approx(
        np.array([place for place, _ in expected]), abs=1e-5
    )
    assert result.kept[0].scores == pytest.approx([score for _, score in expected])


def plain_box(frame, window, grid):
    left, top, right, bottom = frame
    step_x, step_y = (right - left) / grid[0], (bottom - top) / grid[1]
    x, y, width, height = window
    return (
        left + x * step_x,
        top + y * step_y,
        left + (x + width) * step_x,
        top + (y + height) * step_y,
    )


def test_a_fixed_point_costs_nothing_more() -> None:
    """Equation 6 keeps the window itself: where the whole image is best, nothing changes."""

    class Area(CountingScorer):
        def score_windows(self, grids, owners, windows):
            self.calls.append(len(windows))
            frames = np.array([grids[owner] for owner in owners])
            area = (frames[:, 2] - frames[:, 0]) * (frames[:, 3] - frames[:, 1])
            return (area * windows[:, 2] * windows[:, 3] / (60000.0 * 20))[:, None]

    for recrop_every in (1, math.inf):
        scorer = Area()
        result = search(
            scorer, beam_width=1, num_levels=30, children="eq6", recrop_every=recrop_every
        )
        assert len(scorer.calls) == len(scorer.crops) == 1
        assert result.kept[0].levels.tolist() == list(range(1, 31))
        assert result.kept[0].boxes == pytest.approx(np.tile([0, 0, 300, 200], (30, 1)))


def test_a_diverse_beam_keeps_no_two_overlapping_regions_of_a_level() -> None:
    plain = search(CountingScorer(), recrop_every=2, beam_width=6, num_levels=5).kept[0]
    diverse = search(
        CountingScorer(), recrop_every=2, beam_width=6, num_levels=5, diverse_iou=0.5
    ).kept[0]

    def highest_overlap(kept) -> float:
        places = [RegionKey(t, left, b - t, r - left) for left, t, r, b in kept.boxes]
        return max(
            key_iou(places[i], places[j])
            for i in range(len(places))
            for j in range(i)
            if kept.levels[i] == kept.levels[j]
        )

    assert highest_overlap(diverse) <= 0.5 < highest_overlap(plain)


def test_exhaustive_search_keeps_the_best_of_every_level() -> None:
    scorer = CountingScorer(classes=2)
    result = search(
        scorer, (1,), search="exhaustive", recrop_every=math.inf, beam_width=3, num_levels=4
    )
    assert len(scorer.calls) == 1
    frame = (0, 0, 300 * 10**6, 200 * 10**6)
    for level in range(1, 5):
        windows = [w for w in all_windows((5, 4)) if 9 - w[2] - w[3] == level]
        best = sorted((noise((*frame, *w), 2)[1] for w in windows), reverse=True)[:3]
        assert result.kept[0].scores[result.kept[0].levels == level].tolist() == best


@pytest.mark.parametrize("kind", ["beam", "exhaustive"])
def test_without_a_number_of_levels_the_search_ends_at_single_cells(kind: str) -> None:
    """A grid of 5 x 4 cells loses four columns and three rows."""
    result = search(CountingScorer(), search=kind, recrop_every=math.inf, num_levels=None)
    assert result.kept[0].levels.max() == 7
    smallest = result.kept[0].boxes[result.kept[0].levels == 7]
    assert (smallest[:, 2:] - smallest[:, :2]).tolist() == [[60, 50]] * len(smallest)


def test_ties_go_to_the_upper_then_the_left_region() -> None:
    kept = search(CountingScorer(fill=0.5), num_levels=1, beam_width=4).kept[0]
    assert kept.boxes.tolist() == [
        [0, 0, 300, 150],
        [0, 0, 240, 200],
        [60, 0, 300, 200],
        [0, 50, 300, 200],
    ]


def test_zero_classes_ask_nothing_of_the_scorer() -> None:
    scorer = CountingScorer()
    result = search(scorer, ())
    assert scorer.crops == []
    assert result.kept == ()
    assert heat_maps(result).values.shape == (0, 171, 256)


@pytest.mark.parametrize("fill", [np.nan, -np.inf, np.inf])
def test_scores_that_are_no_numbers_are_never_kept(fill) -> None:
    result = search(CountingScorer(fill=fill))
    assert result.kept[0].boxes.shape == (0, 4)
    assert result.num_crops == 1
    assert not heat_maps(result).values.any()


def test_negative_scores_leave_no_heat() -> None:
    result = search(CountingScorer(fill=-0.25), num_levels=3)
    assert len(result.kept[0].scores) == 4 + 8 + 8
    assert not heat_maps(result).values.any()


def test_a_grid_of_one_cell_has_nothing_to_search() -> None:
    scorer = CountingScorer((1, 1))
    result = search(scorer)
    assert result.kept[0].scores.size == 0


@pytest.mark.parametrize("image_size", [(1, 1), (30000, 20), (3, 700)])
def test_odd_image_sizes_have_maps_that_cover_them(image_size) -> None:
    result = search(CountingScorer(), (0, 2), image_size)
    assert (result.kept[0].boxes >= 0).all()
    assert (result.kept[0].boxes <= np.tile(image_size, 2)).all()
    maps = heat_maps(result)
    assert maps.transform.image_size == image_size
    assert max(maps.values.shape[1:]) == min(max(image_size), 256)
    assert maps.values.reshape(2, -1).max(axis=1).min() > 0
    assert maps.values.max() <= 1


def test_a_scorer_that_loses_windows_is_told_so() -> None:
    scorer = CountingScorer()
    scorer.score_windows = lambda *_: np.zeros((1, 3))
    with pytest.raises(ValueError, match="5 windows were given scores of shape"):
        search(scorer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_width": 0}, "beam_width is 0"),
        ({"num_levels": 0}, "num_levels is 0"),
        ({"recrop_every": 1.5}, "recrop_every is 1.5"),
        ({"recrop_every": 0}, "recrop_every is 0"),
        ({"recrop_every": math.nan}, "recrop_every is nan"),
        ({"search": "exhaustive"}, "cannot re-crop every 1 levels"),
        ({"diverse_iou": 0}, "diverse_iou is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message) -> None:
    with pytest.raises(SettingError, match=message):
        BeamSettings(**settings)


def test_crop_pixels_round_outwards_and_keep_at_least_one_pixel() -> None:
    assert crop_pixels((1.2, 0.0, 5.1, 3.9), (10, 4)) == (1, 0, 6, 4)
    assert crop_pixels((10.0, 4.0, 10.0, 4.0), (10, 4)) == (9, 3, 10, 4)
    assert crop_pixels((-3.0, 2.0, 2.0, 2.0), (10, 4)) == (0, 2, 2, 3)


def test_cuts_on_different_axes_commute_exactly() -> None:
    grid = (7, 6)
    first = window_region(window_region(WHOLE_IMAGE, (1, 0, 6, 6), grid), (0, 0, 7, 5), grid)
    second = window_region(window_region(WHOLE_IMAGE, (0, 0, 7, 5), grid), (1, 0, 6, 6), grid)
    assert first == second
    assert region_key(first) == region_key(second)
    assert region_box(first, (70, 60)) == (10, 0, 70, 50)


def test_contrast_is_the_mean_inside_minus_the_mean_of_the_ring(random) -> None:
    maps = random.normal(size=(2, 5, 7))
    windows = np.array(all_windows((7, 5)))
    scores = contrast_window_scores(maps, windows)
    for (x, y, width, height), row in zip(windows, scores, strict=True):
        inside = np.zeros((5, 7), dtype=bool)
        inside[y : y + height, x : x + width] = True
        ring = np.zeros((5, 7), dtype=bool)
        ring[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1] = True
        ring &= ~inside
        expected = maps[:, inside].mean(1) - maps[:, ring].mean(1) if ring.any() else 0.0
        assert row == pytest.approx(expected)


def test_contrast_recovers_a_rectangle_that_the_mean_does_not() -> None:
    maps = np.full((1, 1, 7, 9), -1.0)
    maps[0, 0, 2:5, 3:8] = 1.0
    maps[0, 0, 3, 5] = 1.5
    score = partial(class_map_scores, score=contrast_window_scores, activation="sigmoid")
    scorer = MapScorer(lambda _: maps, (9, 7), score)
    kept = search(
        scorer,
        image_size=(90, 70),
        search="exhaustive",
        recrop_every=math.inf,
        num_levels=14,
        beam_width=5,
    ).kept[0]
    assert kept.boxes[kept.scores.argmax()].tolist() == [30, 20, 80, 50]
