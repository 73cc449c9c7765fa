"""Beam search of Bency et al. 2016 against its equations, and against slow code written here.

Check names (BEAM-01, ...) are those of the project's specification.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from scipy import ndimage

from weakloc.localize.beam_search import (
    WHOLE_IMAGE,
    BeamSettings,
    KeptRegions,
    SearchResult,
    all_windows,
    beam_search,
    eq6_children,
    heat_maps,
    one_side_children,
    region_box,
    window_level,
    window_region,
)
from weakloc.localize.places import (
    BoxLimits,
    Peak,
    PointMap,
    find_boxes,
    locate_point,
    pixel_centers,
)
from weakloc.predictor.beam_heat import (
    GridHeadScorer,
    MapScorer,
    all_spans,
    class_map_scores,
    contrast_window_scores,
    linear_window_scores,
    resample_windows,
    resampling_matrices,
    table_scores,
)
from weakloc.structures import ScoreMaps

EVERYTHING = 10**6
STAY = math.inf


@dataclass
class FunctionScorer:
    """Scores windows of one grid from a function, and counts every request."""

    score: Callable[[tuple[int, int, int, int]], list[float]]
    grid_size: tuple[int, int] = (6, 6)
    scored: list[tuple[int, tuple[int, int, int, int]]] = field(default_factory=list)
    crops: list[tuple[float, ...]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    def read_crops(self, boxes_in_image):
        first = len(self.crops)
        self.crops += [tuple(box) for box in boxes_in_image]
        return list(range(first, len(self.crops)))

    def score_windows(self, grids, owners, windows):
        requests = [
            (grids[o], tuple(int(v) for v in w)) for o, w in zip(owners, windows, strict=True)
        ]
        self.scored += requests
        self.calls.append(len(requests))
        return np.array([self.score(window) for _, window in requests])


def random_scorer(
    random: np.random.Generator, grid_size=(6, 6), classes: int = 1
) -> FunctionScorer:
    table = {window: random.random(classes) for window in all_windows(grid_size)}
    return FunctionScorer(lambda window: list(table[window]), grid_size)


def search(scorer, image_size=(60, 90), classes=(0,), **settings) -> SearchResult:
    chosen = {"recrop_every": STAY, **settings}
    return beam_search(scorer, image_size, class_indices=classes, settings=BeamSettings(**chosen))


def test_beam_01_children_lose_one_row_or_one_column() -> None:
    assert set(one_side_children((0, 0, 6, 6))) == {
        (0, 0, 5, 6), (1, 0, 5, 6), (0, 0, 6, 5), (0, 1, 6, 5),
    }  # fmt: skip
    assert set(one_side_children((1, 2, 3, 1))) == {(1, 2, 2, 1), (2, 2, 2, 1)}
    assert one_side_children((4, 2, 1, 1)) == []


def test_beam_02_equation_6_has_nine_members_inside_the_parent() -> None:
    children = eq6_children((0, 0, 6, 6))
    assert len(set(children)) == len(children) == 9
    assert (0, 0, 6, 6) in children
    for x, y, width, height in children:
        assert x >= 0 <= y
        assert x + width <= 6 >= y + height
        assert width in {5, 6}
        assert height in {5, 6}
    assert set(eq6_children((2, 3, 1, 2))) == {(2, 3, 1, 2), (2, 3, 1, 1), (2, 4, 1, 1)}


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (6, [1, 4, 10, 20, 35, 56, 70, 76, 73, 60, 36]),
        (7, [1, 4, 10, 20, 35, 56, 84, 104, 115, 116, 106, 84, 49]),
    ],
)
def test_beam_03_distinct_windows_per_level(side: int, expected: list[int]) -> None:
    level = {(0, 0, side, side)}
    counts = []
    while level:
        counts.append(len(level))
        level = {child for window in level for child in one_side_children(window)}
    assert counts == expected
    levels = [window_level(window, (side, side)) for window in all_windows((side, side))]
    assert np.bincount(levels).tolist() == expected


@pytest.mark.parametrize("grid_size", [(6, 6), (5, 3)])
def test_beam_04_an_unlimited_beam_visits_every_window_once(random, grid_size) -> None:
    scorer = random_scorer(random, grid_size)
    result = search(scorer, beam_width=EVERYTHING, num_levels=sum(grid_size) - 2)
    windows = all_windows(grid_size)
    assert result.num_windows == len(windows) - 1
    assert sorted(window for _, window in scorer.scored) == sorted(windows)
    best = max(windows[1:], key=scorer.score)
    top = np.argmax(result.kept[0].scores)
    expected = region_box(window_region(WHOLE_IMAGE, best, grid_size), (60, 90))
    assert result.kept[0].boxes[top] == pytest.approx(expected)
    exhaustive = search(
        scorer, search="exhaustive", beam_width=EVERYTHING, num_levels=sum(grid_size) - 2
    )
    assert exhaustive.kept[0].scores == pytest.approx(result.kept[0].scores)
    assert exhaustive.kept[0].boxes == pytest.approx(result.kept[0].boxes)


def test_beam_05_width_one_is_greedy_descent(random) -> None:
    scorer = random_scorer(random)
    result = search(scorer, beam_width=1)
    window, greedy = (0, 0, 6, 6), []
    for _ in range(10):
        window = max(one_side_children(window), key=scorer.score)
        greedy.append(scorer.score(window)[0])
    assert result.kept[0].scores.tolist() == greedy
    assert result.num_windows <= 40
    assert max(scorer.calls) <= 4 + 1  # the whole image goes with the first level


def test_beam_06_evaluations_are_bounded_and_never_repeated(random) -> None:
    for _ in range(20):
        scorer = random_scorer(random)
        result = search(scorer)
        assert result.num_windows <= 258
        assert len(set(scorer.scored)) == len(scorer.scored) == result.num_windows + 1
        assert len(scorer.calls) == 10


def test_beam_07_an_unlimited_beam_finds_at_least_what_a_narrow_one_does(random) -> None:
    for width in (1, 2, 8, 16):
        scorer = random_scorer(random)
        narrow = search(scorer, beam_width=width).kept[0].scores.max()
        assert search(scorer, beam_width=EVERYTHING).kept[0].scores.max() >= narrow


def test_the_beam_equals_a_plain_loop_over_its_definition(random) -> None:
    scorer = random_scorer(random, (7, 4))
    beam, expected = [(0, 0, 7, 4)], []
    for _ in range(7):
        candidates = {child for window in beam for child in one_side_children(window)}
        beam = sorted(candidates, key=lambda w: (-scorer.score(w)[0], w[1], w[0], w[3], w[2]))[:3]
        expected += [(x * 10, y * 20, (x + w) * 10, (y + h) * 20) for x, y, w, h in beam]
    result = search(scorer, image_size=(70, 80), beam_width=3, num_levels=7)
    assert result.kept[0].boxes == pytest.approx(np.array(expected))


def fully_connected_head(random: np.random.Generator, channels: int, side: int, classes: int):
    weights = random.normal(size=(channels * side * side, classes)).astype(np.float32)

    def score(grids):
        return 1 / (1 + np.exp(-np.tanh(grids).reshape(len(grids), -1) @ weights))

    return score


def test_beam_08_the_full_window_has_the_plain_classification_score(random) -> None:
    grid = random.normal(size=(5, 6, 6)).astype(np.float32)
    head = fully_connected_head(random, 5, 6, 3)
    for interpolation in ("half_pixel", "align_corners"):
        stretched = resample_windows(grid, np.array([[0, 0, 6, 6]]), interpolation)
        assert np.array_equal(stretched[0], grid)
        scorer = GridHeadScorer(lambda _: grid[None], head, (6, 6), interpolation)
        scores = scorer.score_windows([grid], np.array([0]), np.array([[0, 0, 6, 6]]))
        assert scores[0] == pytest.approx(head(grid[None])[0], abs=1e-6)


def test_beam_09_interpolation_conventions() -> None:
    start, length = np.array([0]), np.array([5])
    ramp = np.array([0.0, 1, 2, 3, 4, 99])  # the sixth cell is outside of the window
    half_pixel = resampling_matrices(start, length, 6, "half_pixel")[0] @ ramp
    assert half_pixel == pytest.approx([0, 0.75, 1.5833333, 2.4166667, 3.25, 4])
    align_corners = resampling_matrices(start, length, 6, "align_corners")[0] @ ramp
    assert align_corners == pytest.approx([0, 0.8, 1.6, 2.4, 3.2, 4])
    for interpolation in ("half_pixel", "align_corners"):
        for x, y, width, height in all_windows((4, 3)):
            window = np.array([[x, y, width, height]])
            constant = resample_windows(np.full((1, 3, 4), 2.5), window, interpolation)
            assert constant == pytest.approx(2.5)
        grid = np.arange(12.0).reshape(1, 3, 4)
        row = resample_windows(grid, np.array([[0, 1, 4, 1]]), interpolation)
        assert row[0, 0] == pytest.approx(np.tile(grid[0, 1], (3, 1)))


def test_half_pixel_resampling_equals_opencv(random) -> None:
    cv2 = pytest.importorskip("cv2")
    grid = random.normal(size=(2, 5, 7)).astype(np.float32)
    windows = np.array([[1, 0, 3, 4], [6, 2, 1, 3], [0, 4, 7, 1], [2, 1, 4, 2]])
    stretched = resample_windows(grid, windows)
    for (x, y, width, height), result in zip(windows, stretched, strict=True):
        for channel in range(2):
            patch = np.ascontiguousarray(grid[channel, y : y + height, x : x + width])
            expected = cv2.resize(patch, (7, 5), interpolation=cv2.INTER_LINEAR)
            assert result[channel] == pytest.approx(expected, abs=1e-5)


def test_beam_10_scoring_together_equals_scoring_one_by_one(random) -> None:
    grids = random.normal(size=(3, 5, 6, 6)).astype(np.float32)
    windows = np.array(all_windows((6, 6)))[random.permutation(441)[:60]]
    owners = random.integers(0, 3, size=60)
    head = fully_connected_head(random, 5, 6, 4)
    likely = partial(class_map_scores, activation="sigmoid")
    for scorer in (
        GridHeadScorer(lambda _: grids, head, (6, 6)),
        MapScorer(lambda _: grids, (6, 6), partial(likely, score=linear_window_scores)),
        MapScorer(lambda _: grids, (6, 6), partial(likely, score=contrast_window_scores)),
    ):
        together = scorer.score_windows(list(grids), owners, windows)
        single = [
            scorer.score_windows([grids[owner]], np.array([0]), window[None])[0]
            for owner, window in zip(owners, windows, strict=True)
        ]
        assert together == pytest.approx(np.array(single), abs=1e-5)


def test_a_table_holds_the_score_of_every_window(random) -> None:
    columns, rows = 5, 4
    spans_down, spans_across = all_spans(rows), all_spans(columns)
    assert len(spans_down[0]) == 10
    assert len(spans_across[0]) == 15
    tables = np.zeros((2, 10, 15, 4))
    for i, (top, height) in enumerate(zip(*spans_down, strict=True)):
        for j, (left, width) in enumerate(zip(*spans_across, strict=True)):
            tables[:, i, j] = left, top, width, height
    tables[1] *= -1
    windows = np.array(all_windows((columns, rows)))
    owners = random.integers(0, 2, size=len(windows))
    size = columns, rows
    scorer = MapScorer(lambda _: tables, size, partial(table_scores, grid_size=size))
    scores = scorer.score_windows(scorer.read_crops(np.zeros((2, 4))), owners, windows)
    assert np.array_equal(scores, windows * np.where(owners == 1, -1, 1)[:, None])


def test_the_many_windows_of_a_large_grid_are_resampled_in_parts(random) -> None:
    grid = random.normal(size=(128, 12, 12)).astype(np.float32)
    windows = np.array(all_windows((12, 12)))[::10]
    sizes = []

    def score(grids):
        sizes.append(grids.nbytes)
        return grids.mean(axis=(2, 3))[:, :3]

    scorer = GridHeadScorer(lambda _: grid[None], score, (12, 12))
    scores = scorer.score_windows([grid], np.zeros(len(windows), dtype=int), windows)
    assert max(sizes) <= 2**24 < sum(sizes)
    expected = [linear_window_scores(grid[:3], window[None])[0] for window in windows]
    assert scores == pytest.approx(np.array(expected), abs=1e-5)


def test_beam_11_regions_compose_by_equation_5() -> None:
    first = window_region(WHOLE_IMAGE, (0, 0, 5, 6), (6, 6))
    second = window_region(first, (1, 0, 5, 6), (6, 6))
    left, top, right, bottom = region_box(second, (600, 600))
    assert (left, top) == pytest.approx((83.3333333, 0))
    assert (right - left, bottom - top) == pytest.approx((416.6666667, 600))


@dataclass(frozen=True)
class CropScorer:
    """Every window becomes a crop; `score` takes (N, 4) image boxes."""

    score: Callable[[np.ndarray], np.ndarray]
    grid_size: tuple[int, int]

    def read_crops(self, boxes_in_image):
        return list(boxes_in_image)

    def score_windows(self, grids, owners, windows):
        frames = np.stack([grids[owner] for owner in owners])  # (N, 4)
        cells = (frames[:, 2:] - frames[:, :2]) / np.asarray(self.grid_size)
        starts = frames[:, :2] + windows[:, :2] * cells
        return self.score(np.concatenate([starts, starts + windows[:, 2:] * cells], axis=1))


def summed_heat(result: SearchResult) -> np.ndarray:
    """The paper's sum of the kept scores, from their mean."""
    return heat_maps(result).values[0] * len(result.kept[0].scores)


def brightness_scorer(image: np.ndarray, side: int = 6) -> CropScorer:
    sums = np.pad(image, ((1, 0), (1, 0))).cumsum(0).cumsum(1)

    def score(boxes):
        corners = np.rint(boxes).astype(int)
        left, top, right, bottom = corners.T
        total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return (total / np.maximum((right - left) * (bottom - top), 1))[:, None]

    return CropScorer(score, (side, side))


def iou(first, second) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    overlap = np.prod(np.maximum(sides, 0))
    areas = [np.prod(np.subtract(box[2:], box[:2])) for box in (first, second)]
    return overlap / (sum(areas) - overlap)


def test_beam_12_recropping_converges_onto_a_bright_square() -> None:
    image = np.zeros((480, 640))
    image[150:330, 320:560] = 1
    square = np.array([320, 150, 560, 330.0])
    kept = search(brightness_scorer(image), (640, 480), recrop_every=1).kept[0]
    first, last = kept.boxes[kept.levels == 1][0], kept.boxes[kept.levels == 10][0]
    assert iou(last, square) > 0.6 > iou(first, square)


def test_beam_13_recropping_costs_sixty_nine_crops(random) -> None:
    scorer = FunctionScorer(lambda _: [random.random()])
    result = search(scorer, recrop_every=1)
    assert result.num_crops == len(scorer.crops) == len(set(scorer.crops)) == 1 + 4 + 8 * 8
    assert len(scorer.calls) == 10


def kept_one(boxes, scores) -> SearchResult:
    levels = np.ones(len(scores), dtype=np.int64)
    kept = KeptRegions(0, np.array(boxes, dtype=float), np.array(scores), levels)
    return SearchResult((60, 40), (kept,), 1, 1)


def test_beam_14_heat_is_the_sum_of_the_kept_scores() -> None:
    single = summed_heat(kept_one([(10, 5, 30, 25)], [0.7]))
    expected = np.zeros((40, 60))
    expected[5:25, 10:30] = 0.7
    assert single == pytest.approx(expected)
    two = summed_heat(kept_one([(10, 5, 30, 25), (20, 0, 60, 10)], [0.7, 0.2]))
    expected[0:10, 20:60] += 0.2
    assert two == pytest.approx(expected)
    assert two.sum() == pytest.approx(0.7 * 400 + 0.2 * 400, rel=1e-5)


def test_beam_15_a_single_box_has_its_own_score_as_mean_heat() -> None:
    heat = heat_maps(kept_one([(10, 5, 30, 25)], [0.7])).values[0]
    assert heat[5:25, 10:30].mean() == pytest.approx(0.7)
    (found,) = find_boxes(
        heat, heat_maps(kept_one([(10, 5, 30, 25)], [0.7])).transform,
        threshold=0.5, threshold_mode="relu_max", score="raw_mean",
    )  # fmt: skip
    assert found.box == (10, 5, 30, 25)
    assert found.score == pytest.approx(0.7)
    three = heat_maps(kept_one([(10, 5, 30, 25)] * 3, [0.2, 0.4, 0.9])).values[0]
    assert three[5:25, 10:30].mean() == pytest.approx(0.5)


def two_peaks(first=(0, 0), second=(5, 5)) -> FunctionScorer:
    cells = np.full((6, 6), -2.0)
    cells[first] = cells[second] = 4.0

    def score(window):
        x, y, width, height = window
        return [1 / (1 + math.exp(-cells[y : y + height, x : x + width].mean()))]

    return FunctionScorer(score)


def blobs(heat: np.ndarray, threshold: float) -> list[set[tuple[int, int]]]:
    labels, count = ndimage.label(heat / heat.max() > threshold, np.ones((3, 3)))
    return [set(map(tuple, np.argwhere(labels == index + 1))) for index in range(count)]


@pytest.mark.parametrize("peaks", [((0, 0), (5, 5)), ((1, 1), (4, 4))])
def test_beam_16_a_shared_beam_finds_two_instances(peaks) -> None:
    wide = summed_heat(search(two_peaks(*peaks), (6, 6)))
    found = blobs(wide, 0.5)
    assert len(found) == 2
    assert sum(peaks[0] in blob and peaks[1] not in blob for blob in found) == 1
    assert sum(peaks[1] in blob and peaks[0] not in blob for blob in found) == 1
    greedy = heat_maps(search(two_peaks(*peaks), (6, 6), beam_width=1)).values[0]
    (only,) = blobs(greedy, 0.5)
    assert len(only & set(peaks)) == 1


def test_beam_16_summing_every_window_puts_the_maximum_into_the_centre() -> None:
    result = search(two_peaks(), (6, 6), beam_width=EVERYTHING)
    heat = summed_heat(result)
    assert {tuple(cell) for cell in np.argwhere(heat == heat.max())} <= {
        (row, column) for row in (2, 3) for column in (2, 3)
    }
    assert not any({(0, 0), (5, 5)} & blob for blob in blobs(heat, 0.7))


def test_beam_17_a_higher_threshold_never_enlarges_the_foreground(random) -> None:
    result = search(random_scorer(random), (60, 90))
    heat = summed_heat(result)
    areas = [(heat > share * heat.max()).sum() for share in np.linspace(0, 1, 21)]
    assert all(lower >= higher for lower, higher in itertools.pairwise(areas))
    union = np.zeros(heat.shape, dtype=bool)
    for left, top, right, bottom in result.kept[0].boxes:
        union[round(top) : round(bottom), round(left) : round(right)] = True
    assert np.array_equal(heat > 0, union)
    assert areas[-1] == 0


def test_beam_17_no_blob_is_a_legal_answer(random) -> None:
    maps = heat_maps(search(random_scorer(random), (60, 90)))
    options = {"threshold_mode": "relu_max", "score": "raw_mean", "limits": BoxLimits(min_area=0.0)}
    assert find_boxes(maps.values[0], maps.transform, threshold=1.0, **options) == []
    union = find_boxes(maps.values[0], maps.transform, threshold=0.0, **options)
    labels, count = ndimage.label(maps.values[0] > 0, np.ones((3, 3)))
    tight = [(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in ndimage.find_objects(labels)]
    assert sorted(found.box for found in union) == sorted(tight)
    assert count == len(union)


def test_beam_18_averaged_heads_score_the_mean_of_the_class_map(random) -> None:
    y, x = np.mgrid[0:9, 0:7] / 9.0
    smooth = np.stack([np.sin(2 * x + y), np.cos(x - 2 * y)])
    windows = np.array(all_windows((7, 9)))
    scores = linear_window_scores(smooth, windows)
    means = [
        smooth[:, y : y + height, x : x + width].mean(axis=(1, 2))
        for x, y, width, height in windows
    ]
    assert scores == pytest.approx(np.array(means), abs=0.03)
    noisy = random.normal(size=(1, 9, 7))
    best = windows[linear_window_scores(noisy, windows)[:, 0].argmax()]
    assert best[2:].tolist() == [1, 1]
    assert noisy[0, best[1], best[0]] == noisy.max()


def test_a_collapsed_linear_head_equals_resampling_pooling_and_classifying(random) -> None:
    grid = random.normal(size=(8, 5, 7))
    weights, bias = random.normal(size=(8, 3)), random.normal(size=3)
    windows = np.array(all_windows((7, 5)))[::7]
    for interpolation in ("half_pixel", "align_corners"):
        pooled = resample_windows(grid, windows, interpolation).mean(axis=(2, 3))
        class_maps = np.einsum("tij,tc->cij", grid, weights) + bias[:, None, None]
        collapsed = linear_window_scores(class_maps, windows, interpolation)
        assert collapsed == pytest.approx(pooled @ weights + bias)


def test_beam_21_the_point_is_the_centre_of_the_largest_plateau_and_lies_on_it() -> None:
    def point_of(heat: ScoreMaps) -> Peak:
        within = pixel_centers(heat.transform.image_size)
        return locate_point(PointMap(heat.values[0], heat.transform, within), "plateau")

    point = point_of(heat_maps(kept_one([(0, 0, 40, 30), (20, 10, 60, 40)], [0.4, 0.6])))
    assert (point.x, point.y) == pytest.approx((30, 20), abs=0.5)
    ring = [(10, 10, 50, 14), (10, 26, 50, 30), (10, 14, 14, 26), (46, 14, 50, 26)]
    point = point_of(heat_maps(kept_one(ring, [0.5] * 4)))
    assert any(
        left <= point.x < right and top <= point.y < bottom for left, top, right, bottom in ring
    )
