"""Beam search over windows of an image with a trained network as the scorer of windows.

Windows are (N, 4) arrays of (x, y, width, height) in cells. Scores are (N, C), one column a class.
The scorers turn plain callables on arrays into what `beam_search` asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from weakloc.geometry import BoxLTRB, FloatArray, IntArray, clip_box
from weakloc.localize.beam_search import (
    BeamSettings,
    GridSize,
    Interpolation,
    SearchResult,
    WindowScorer,
    beam_search,
    heat_maps,
)
from weakloc.localize.maps import probabilities
from weakloc.model.network import GridHead
from weakloc.predictor.views import Floats, NetworkSource, SeenImage
from weakloc.settings import Look
from weakloc.structures import Activation, ScoreMaps

GridValues: TypeAlias = NDArray[np.floating]  # (C, rows, columns)
WindowScores: TypeAlias = Callable[[GridValues, IntArray], GridValues]
_VALUES_AT_ONCE = 2**22
CROPS_AT_ONCE = 8  # larger float32 batches are slower on a CPU


@dataclass(frozen=True)
class BeamHeat:
    """Makes the heat of the classes of an image by searching for them."""

    source: NetworkSource
    search: BeamSettings

    def __call__(self, image: SeenImage, classes: Sequence[int], look: Look) -> ScoreMaps:
        return heat_maps(self.search_image(image, classes), long_side=look.map_side)

    def search_image(self, image: SeenImage, classes: Sequence[int]) -> SearchResult:
        return beam_search(
            self._scorer(image.picture),
            image.picture.size,
            class_indices=list(classes),
            settings=self.search,
        )

    def _scorer(self, picture: Image.Image) -> WindowScorer[Any]:
        size = self.source.preprocessing.fixed_size
        assert size is not None, "beam search crops to a fixed input size"
        grid_size = self.source.network.backbone.map_size(size)
        head = self.source.network.head
        is_fixed = self.search.recrop_every > self.search.levels_on(grid_size)
        if isinstance(head, GridHead) and is_fixed:
            look_up = partial(table_scores, grid_size=grid_size)
            return MapScorer(partial(self._read_tables, head, picture), grid_size, look_up)
        if isinstance(head, GridHead):
            return GridHeadScorer(
                partial(self._read_grids, head, picture),
                partial(self._score_grids, head),
                grid_size,
                interpolation=self.search.interpolation,
            )
        # On one fixed map the best mean is always a single cell.
        score: WindowScores = contrast_window_scores
        if not is_fixed:
            score = partial(linear_window_scores, interpolation=self.search.interpolation)
        likely = partial(class_map_scores, score=score, activation=self.source.activation)
        return MapScorer(partial(self._read_class_maps, picture), grid_size, likely)

    def _crops(self, picture: Image.Image, boxes_in_image: FloatArray) -> Sequence[torch.Tensor]:
        """Parts of the picture, warped to the network's input, in batches."""
        crops = [
            picture.crop(crop_pixels((left, top, right, bottom), picture.size))
            for left, top, right, bottom in boxes_in_image.tolist()
        ]
        inputs = [self.source.preprocessing.apply(crop)[0] for crop in crops]
        return torch.split(torch.stack(inputs), CROPS_AT_ONCE)

    def _read_class_maps(self, picture: Image.Image, boxes_in_image: FloatArray) -> list[Floats]:
        chunks = self._crops(picture, boxes_in_image)
        return [maps for chunk in chunks for maps in self.source.read(chunk).maps]

    @torch.inference_mode()
    def _read_grids(
        self, head: GridHead, picture: Image.Image, boxes_in_image: FloatArray
    ) -> list[Floats]:
        chunks = self._crops(picture, boxes_in_image)
        features = torch.cat([self.source.read_features(chunk) for chunk in chunks])
        return list(head.reduce(features).float().cpu().numpy())

    @torch.inference_mode()
    def _read_tables(
        self, head: GridHead, picture: Image.Image, boxes_in_image: FloatArray
    ) -> list[FloatArray]:
        grids = map(torch.from_numpy, self._read_grids(head, picture, boxes_in_image))
        cells = head.grid_side
        matrices = resampling_matrices(*all_spans(cells), cells, self.search.interpolation)
        spans = torch.from_numpy(matrices).float().to(self.source.device)
        tables = [head.score_spans(grid.to(self.source.device), spans, spans) for grid in grids]
        return list(probabilities(torch.stack(tables).cpu().numpy(), self.source.activation))

    @torch.inference_mode()
    def _score_grids(self, head: GridHead, grids: Floats) -> FloatArray:
        scores = head.score_narrow(torch.from_numpy(grids).to(self.source.device))
        return probabilities(scores.float().cpu().numpy(), self.source.activation)


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


def class_map_scores(
    class_maps: GridValues, windows: IntArray, *, score: WindowScores, activation: Activation
) -> FloatArray:
    """For heads that are linear after average pooling: probabilities (N, C), no head call."""
    # Equal windows must tie: rounding noise of the sums would order them at random.
    likely = probabilities(score(class_maps, windows), activation).astype(np.float32)
    return likely.astype(np.float64)


def table_scores(table: GridValues, windows: IntArray, *, grid_size: GridSize) -> GridValues:
    """For heads that score all windows of a grid for little more than one.

    The table holds the class scores of every window, (spans of rows, spans of columns, C), spans as
    in `all_spans`.
    """
    columns, rows = grid_size
    across = span_places(windows[:, 0], windows[:, 2], columns)
    down = span_places(windows[:, 1], windows[:, 3], rows)
    return table[down, across]


@dataclass(frozen=True)
class MapScorer:
    """Windows of one map a crop, each with a score of its own.

    `read_crops` gives the maps of crops, `score` class scores (N, C) of windows of one.
    """

    read_crops: Callable[[FloatArray], Sequence[GridValues]]
    grid_size: GridSize
    score: WindowScores

    def score_windows(
        self, grids: Sequence[GridValues], owners: IntArray, windows: IntArray
    ) -> FloatArray:
        return np.asarray(_by_owner(grids, owners, windows, self.score), dtype=np.float64)


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


def _by_owner(
    grids: Sequence[GridValues], owners: IntArray, windows: IntArray, compute: WindowScores
) -> GridValues:
    """`compute` once per grid, rows back in the order of the windows."""
    order = np.argsort(owners, kind="stable")
    distinct, firsts = np.unique(owners[order], return_index=True)
    groups = np.split(order, firsts[1:])
    parts = [
        compute(grids[owner], windows[group]) for owner, group in zip(distinct, groups, strict=True)
    ]
    return np.concatenate(parts)[np.argsort(order, kind="stable")]
