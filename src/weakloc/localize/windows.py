"""Windows of a grid: the regions of the image they stand for, and their class scores.

Windows are (N, 4) arrays of (x, y, width, height) in cells. Scores are (N, C), one column a class.
The three scorers turn plain callables on arrays into what `beam_search` asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.geometry import BoxLTRB, FloatArray, IntArray, Size, clip_box
from weakloc.localize.maps import probabilities
from weakloc.structures import Activation

Window: TypeAlias = tuple[int, int, int, int]  # (x, y, width, height) in cells
GridSize: TypeAlias = tuple[int, int]  # (columns, rows)
GridValues: TypeAlias = NDArray[np.floating]  # (C, rows, columns)
ChildRule: TypeAlias = Literal["one_side", "eq6"]
Interpolation: TypeAlias = Literal["half_pixel", "align_corners"]
WindowScore: TypeAlias = Literal["linear", "contrast"]
WindowScores: TypeAlias = Callable[[GridValues, IntArray], GridValues]
_VALUES_AT_ONCE = 2**22


class Region(NamedTuple):
    """A rectangle as exact shares of the image's width and height."""

    x: Fraction
    y: Fraction
    width: Fraction
    height: Fraction


class RegionKey(NamedTuple):
    """A region in floats, ordered as ties are broken: top, left, height, width."""

    y: float
    x: float
    height: float
    width: float


WHOLE_IMAGE = Region(Fraction(0), Fraction(0), Fraction(1), Fraction(1))


def one_side_children(window: Window) -> list[Window]:
    """Bency et al., Section 3.3: Eq. 6 restricted to one row or one column less."""
    x, y, width, height = window
    narrower = [(x, y, width - 1, height), (x + 1, y, width - 1, height)] if width > 1 else []
    lower = [(x, y, width, height - 1), (x, y + 1, width, height - 1)] if height > 1 else []
    return narrower + lower


def eq6_children(window: Window) -> list[Window]:
    """All of Eq. 6: each side as it is or one shorter, the window itself included."""
    x, y, width, height = window
    spans_x = [(x, width)] + ([(x, width - 1), (x + 1, width - 1)] if width > 1 else [])
    spans_y = [(y, height)] + ([(y, height - 1), (y + 1, height - 1)] if height > 1 else [])
    return [(x, y, width, height) for y, height in spans_y for x, width in spans_x]


CHILDREN: dict[ChildRule, Callable[[Window], list[Window]]] = {
    "one_side": one_side_children,
    "eq6": eq6_children,
}


@lru_cache(maxsize=8)
def all_windows(grid_size: GridSize) -> tuple[Window, ...]:
    """Every window of the grid, largest first: 441 on 6 x 6 cells, 784 on 7 x 7."""
    columns, rows = grid_size
    windows = [
        (x, y, width, height)
        for width in range(1, columns + 1)
        for height in range(1, rows + 1)
        for x in range(columns - width + 1)
        for y in range(rows - height + 1)
    ]
    return tuple(sorted(windows, key=lambda window: (window_level(window, grid_size), window)))


def window_level(window: Window, grid_size: GridSize) -> int:
    """Rows and columns cut away so far; the full grid is level 0."""
    return grid_size[0] + grid_size[1] - window[2] - window[3]


def window_region(frame: Region, window: Window, grid_size: GridSize) -> Region:
    """The part of the frame that a window of its grid stands for (Eq. 5)."""
    x, y, width, height = window
    cell_width, cell_height = frame.width / grid_size[0], frame.height / grid_size[1]
    return Region(
        frame.x + x * cell_width,
        frame.y + y * cell_height,
        width * cell_width,
        height * cell_height,
    )


def region_key(region: Region) -> RegionKey:
    return RegionKey(float(region.y), float(region.x), float(region.height), float(region.width))


def window_key(frame: Region, window: Window, grid_size: GridSize) -> RegionKey:
    """The key of a window's region; division rounds as the exact fraction does, but is quick."""
    if frame is not WHOLE_IMAGE:
        return region_key(window_region(frame, window, grid_size))
    (x, y, width, height), (columns, rows) = window, grid_size
    return RegionKey(y / rows, x / columns, height / rows, width / columns)


def region_box(region: Region, image_size: Size) -> BoxLTRB:
    """The region in the image frame, free of accumulated rounding."""
    width, height = image_size
    return (
        float(region.x) * width,
        float(region.y) * height,
        float(region.x + region.width) * width,
        float(region.y + region.height) * height,
    )


def key_iou(first: RegionKey, second: RegionKey) -> float:
    overlap_width = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    overlap_height = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    overlap = max(overlap_width, 0.0) * max(overlap_height, 0.0)
    union = first.width * first.height + second.width * second.height - overlap
    return overlap / union


def crop_pixels(box_in_image: BoxLTRB, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The whole pixels to cut out for a box: start rounded down, end up, at least one pixel."""
    left, top, right, bottom = clip_box(box_in_image, image_size)
    first_column = min(math.floor(left), image_size[0] - 1)
    first_row = min(math.floor(top), image_size[1] - 1)
    return (
        first_column,
        first_row,
        max(math.ceil(right), first_column + 1),
        max(math.ceil(bottom), first_row + 1),
    )


def resampling_matrices(
    starts: IntArray, lengths: IntArray, cells: int, interpolation: Interpolation = "half_pixel"
) -> FloatArray:
    """Bilinear weights, (N, cells, cells), that stretch each span of an axis to the whole axis.

    Row i holds output cell i's weights on the grid's cells. A full span gives the identity.
    """
    outputs = np.arange(cells)
    if interpolation == "half_pixel":
        positions = (outputs + 0.5) * lengths[:, None] / cells - 0.5
    else:
        positions = outputs * (lengths[:, None] - 1) / max(cells - 1, 1)
    positions = np.clip(positions, 0, lengths[:, None] - 1)
    lower = np.floor(positions).astype(np.int64)
    upper = np.minimum(lower + 1, lengths[:, None] - 1)
    shares = positions - lower
    matrices = np.zeros((len(starts), cells, cells))
    spans = np.arange(len(starts))[:, None]
    matrices[spans, outputs, starts[:, None] + lower] += 1 - shares
    matrices[spans, outputs, starts[:, None] + upper] += shares
    return matrices


def resample_windows(
    grid: GridValues, windows: IntArray, interpolation: Interpolation = "half_pixel"
) -> GridValues:
    """Each window of a (T, rows, columns) grid stretched to the whole: (N, T, rows, columns)."""
    _, rows, columns = grid.shape
    vertical = resampling_matrices(windows[:, 1], windows[:, 3], rows, interpolation)
    horizontal = resampling_matrices(windows[:, 0], windows[:, 2], columns, interpolation)
    vertical, horizontal = vertical.astype(grid.dtype), horizontal.astype(grid.dtype)
    stretched = np.matmul(vertical[:, None], grid[None])  # (N, T, rows, columns)
    return np.asarray(np.matmul(stretched, horizontal.transpose(0, 2, 1)[:, None]))


def linear_window_scores(
    class_maps: GridValues, windows: IntArray, interpolation: Interpolation = "half_pixel"
) -> FloatArray:
    """Mean of the stretched window of (C, rows, columns) maps, as one weight matrix over cells.

    Resampling, average pooling and a linear classifier commute: with the classifier already
    applied to each cell (bias included), this is the class logit of the window.
    """
    classes, rows, columns = class_maps.shape
    vertical = resampling_matrices(windows[:, 1], windows[:, 3], rows, interpolation).mean(axis=1)
    horizontal = resampling_matrices(windows[:, 0], windows[:, 2], columns, interpolation)
    weights = vertical[:, :, None] * horizontal.mean(axis=1)[:, None, :]  # (N, rows, columns)
    cells = class_maps.reshape(classes, rows * columns).astype(np.float64)
    return np.asarray(weights.reshape(len(windows), rows * columns) @ cells.T)


def contrast_window_scores(class_maps: GridValues, windows: IntArray) -> FloatArray:
    """Mean inside minus mean of the ring one cell wide around the window, cut at the border.

    The full grid has no ring and scores 0. Unlike the mean alone, it does not prefer single cells.
    """
    classes, rows, columns = class_maps.shape
    sums = np.zeros((classes, rows + 1, columns + 1))  # over all cells above and to the left
    sums[:, 1:, 1:] = class_maps.astype(np.float64).cumsum(axis=1).cumsum(axis=2)
    x, y, width, height = windows.T
    inside, area = _window_sums(sums, x, y, x + width, y + height), width * height
    left, top = np.maximum(x - 1, 0), np.maximum(y - 1, 0)
    right, bottom = np.minimum(x + width + 1, columns), np.minimum(y + height + 1, rows)
    ring_area = (right - left) * (bottom - top) - area
    ring = _window_sums(sums, left, top, right, bottom) - inside
    difference = inside / area[:, None] - ring / np.maximum(ring_area, 1)[:, None]
    return np.asarray(np.where(ring_area[:, None] > 0, difference, 0.0))


def _window_sums(
    sums: FloatArray, left: IntArray, top: IntArray, right: IntArray, bottom: IntArray
) -> FloatArray:
    inside = sums[:, bottom, right] - sums[:, top, right] - sums[:, bottom, left]
    return np.asarray((inside + sums[:, top, left]).T)  # (N, C)


@dataclass(frozen=True)
class ClassMapScorer:
    """For heads that are linear after average pooling: windows of class maps, no head call.

    `read_crops` gives the logit maps of crops, (C, rows, columns) each. `linear` is the head
    itself, exact; but on one fixed map the best mean is always a single cell, so searches without
    re-cropping want `contrast`.
    """

    read_crops: Callable[[FloatArray], Sequence[GridValues]]
    grid_size: GridSize
    window_score: WindowScore = "linear"
    interpolation: Interpolation = "half_pixel"
    activation: Activation = "sigmoid"

    def score_windows(
        self, grids: Sequence[GridValues], owners: IntArray, windows: IntArray
    ) -> FloatArray:
        score: WindowScores = partial(linear_window_scores, interpolation=self.interpolation)
        if self.window_score == "contrast":
            score = contrast_window_scores
        scores = _by_owner(grids, owners, windows, score).astype(np.float64)
        # Equal windows must tie: rounding noise of the sums would order them at random.
        return probabilities(scores, self.activation).astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class GridHeadScorer:
    """For heads on a fixed grid (fully connected layers): resample windows, then ask the head.

    All 6,084 windows of 12 x 12 cells would be gigabytes at once, so they go in parts.
    `read_crops` gives grids (T, rows, columns); `score_grids` takes an array of them,
    (N, T, rows, columns), and gives class scores (N, C).
    """

    read_crops: Callable[[FloatArray], Sequence[GridValues]]
    score_grids: Callable[[GridValues], FloatArray]
    grid_size: GridSize
    interpolation: Interpolation = "half_pixel"

    def score_windows(
        self, grids: Sequence[GridValues], owners: IntArray, windows: IntArray
    ) -> FloatArray:
        resample = partial(resample_windows, interpolation=self.interpolation)
        at_once = max(1, _VALUES_AT_ONCE // grids[0].size)
        parts = [slice(start, start + at_once) for start in range(0, len(windows), at_once)]
        return np.concatenate(
            [
                self.score_grids(_by_owner(grids, owners[part], windows[part], resample))
                for part in parts
            ]
        )


def all_spans(cells: int) -> tuple[IntArray, IntArray]:
    """Starts and lengths of all spans of an axis, the shortest first, each length from the left."""
    starts = [np.arange(cells - length + 1) for length in range(1, cells + 1)]
    lengths = np.repeat(np.arange(1, cells + 1), np.arange(cells, 0, -1))
    return np.concatenate(starts), lengths


def span_places(starts: IntArray, lengths: IntArray, cells: int) -> IntArray:
    """Where spans stand in `all_spans`."""
    shorter = lengths - 1
    places: IntArray = shorter * (cells + 1) - shorter * lengths // 2 + starts
    return places


@dataclass(frozen=True)
class TableScorer:
    """For heads that score all windows of a grid for little more than one.

    `read_crops` gives (spans of rows, spans of columns, C) for each crop: the class scores of
    every window, spans as in `all_spans`.
    """

    read_crops: Callable[[FloatArray], Sequence[GridValues]]
    grid_size: GridSize

    def score_windows(
        self, grids: Sequence[GridValues], owners: IntArray, windows: IntArray
    ) -> FloatArray:
        columns, rows = self.grid_size
        across = span_places(windows[:, 0], windows[:, 2], columns)
        down = span_places(windows[:, 1], windows[:, 3], rows)
        scores = np.empty((len(windows), grids[0].shape[-1]))
        for owner in np.unique(owners):
            of_grid = owners == owner
            scores[of_grid] = grids[owner][down[of_grid], across[of_grid]]
        return scores


def _by_owner(
    grids: Sequence[GridValues],
    owners: IntArray,
    windows: IntArray,
    compute: WindowScores,
) -> GridValues:
    """`compute` once per grid, rows back in the order of the windows."""
    order = np.argsort(owners, kind="stable")
    distinct, firsts = np.unique(owners[order], return_index=True)
    groups = np.split(order, firsts[1:])
    parts = [
        compute(grids[owner], windows[group]) for owner, group in zip(distinct, groups, strict=True)
    ]
    return np.concatenate(parts)[np.argsort(order, kind="stable")]
