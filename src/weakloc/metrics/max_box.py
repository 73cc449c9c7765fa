"""Score maps and drawn boxes in; MaxBoxAcc and MaxBoxAccV2, all thresholds in one pass, out.

The threshold is one for all images and is the best one on the images that are evaluated: an upper
bound, with all their boxes as hidden supervision. V2 lets it differ between the IoU levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.component_tree import (
    NUM_LEVELS,
    ComponentTree,
    LevelBoxes,
    component_tree,
    hole_level_boxes,
    last_shown,
    level_boxes,
)
from weakloc.errors import PredictionsError
from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.boxes import box_overlap
from weakloc.metrics.case import Case, ClassMap, Levels, MapReading, ScoreMap
from weakloc.metrics.result import Curve, Detail, MetricResult
from weakloc.metrics.uncertainty import ImageDraw, ResampledSums, measured, ratio

SIDE = 224  # of the maps in the published definition

# Neighbours in counterclockwise order as seen on the screen, from the west.
_ROWS = np.array([0, 1, 1, 1, 0, -1, -1, -1])
_COLUMNS = np.array([-1, -1, 0, 1, 1, 1, 0, -1])


def largest_by_contour(map_uint8: NDArray[np.uint8], tree: ComponentTree) -> IntArray:
    """The node with the largest contour area at each of the thresholds 0 to 254, -1 for none.

    Of equal ones the one that starts last: OpenCV lists contours from the bottom of the image
    upwards, and the first maximum is taken.
    """
    shown, sides = level_boxes(tree), tree.box[:, 2:] - tree.box[:, :2]
    most = 2 * (sides - 1).prod(axis=1)
    # First cell, half-open range of thresholds, and greatest area: (N, 4)
    nodes = np.stack([tree.first, shown.first_level, shown.last_level + 1, most], axis=1)
    areas = _contour_areas(np.ascontiguousarray(map_uint8), nodes, np.argsort(-most))
    order = np.lexsort((tree.first, areas))
    return np.asarray(last_shown(shown.first_level, shown.last_level, order))


@njit(cache=True, nogil=True)
def _contour_areas(map_uint8: NDArray[np.uint8], nodes: IntArray, order: IntArray) -> IntArray:
    """Twice the area inside the outer border of each node that may be the largest, else -1."""
    areas, largest = np.full(order.size, -1), np.zeros(NUM_LEVELS, dtype=np.int64)
    for node in order:
        cell, first, last, most = nodes[node]
        if first < last and most >= largest[first:last].min():
            areas[node] = _contour_area(map_uint8, cell, first)
            largest[first:last] = np.maximum(largest[first:last], areas[node])
    return areas


@njit(cache=True, nogil=True)
def _contour_area(map_uint8: NDArray[np.uint8], first_cell: int, threshold: int) -> int:
    """Twice the area inside the outer border that starts at a cell, by border following."""
    width = map_uint8.shape[1]
    start_row, start_column = first_cell // width, first_cell % width
    # Clockwise from the west, the first neighbour is where the border will close.
    back = _next_neighbour(map_uint8, threshold, (start_row, start_column), (0, -1))
    if back < 0:
        return 0
    row, column, direction = start_row, start_column, back
    twice = 0
    while True:
        direction = _next_neighbour(map_uint8, threshold, (row, column), (direction + 1, 1))
        next_row, next_column = row + _ROWS[direction], column + _COLUMNS[direction]
        twice += column * next_row - next_column * row
        closes = next_row == start_row and next_column == start_column
        if closes and (direction + 4) % 8 == back:
            return int(abs(twice))
        row, column, direction = next_row, next_column, (direction + 4) % 8


@njit(cache=True, nogil=True)
def _next_neighbour(
    map_uint8: NDArray[np.uint8], threshold: int, cell: tuple[int, int], turn: tuple[int, int]
) -> int:
    """The first direction to foreground, or -1; `turn` is the one to start with and the step."""
    start, step = turn
    for number in range(8):
        direction = (start + number * step) % 8
        i, j = cell[0] + _ROWS[direction], cell[1] + _COLUMNS[direction]
        inside = 0 <= i < map_uint8.shape[0] and 0 <= j < map_uint8.shape[1]
        if inside and map_uint8[i, j] > threshold:
            return direction
    return -1


def normalize_map(score_map: ScoreMap, *, image: str) -> ScoreMap:
    """Minimum to 0 and maximum to 1, in the precision of the map; a constant map is all 0."""
    lowest, highest = float(score_map.min()), float(score_map.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise PredictionsError(
            "the score map holds values that are not finite",
            location=image,
            remedy="Look at the network: training may have diverged",
        )
    lifted = score_map - score_map.min()
    return lifted / lifted.max() if highest > lowest else np.zeros_like(lifted)


Contours: TypeAlias = Literal["largest", "all"]


@dataclass(frozen=True, slots=True)
class MapConvention:
    """How maps become boxes and boxes become hits.

    "clean": scores above the threshold, as they are; half-open boxes; the largest component has
    the most pixels; a map without foreground has no box. "compatible" is the public evaluator of
    Choe et al. 2020 to the bit: maps floored to bytes; thresholds int(tau * 255); the boxes of hole
    contours count; the largest has the largest contour area; boxes are (x, y, min(x + w, W - 1),
    ...) compared inclusively with drawn boxes cut to whole pixels; no foreground is the box
    (0, 0, 0, 0).
    """

    contours: Contours = "largest"
    ious: tuple[float, ...] = (0.5,)
    reading: MapReading = "clean"
    step: float = 0.01  # between thresholds in [0, 1)

    def __post_init__(self) -> None:
        if self.reading == "clean" and self.thresholds.size > NUM_LEVELS:
            raise ValueError(
                f"a step of {self.step} makes {self.thresholds.size} thresholds; the clean "
                f"reading tells {NUM_LEVELS} apart"
            )

    @property
    def thresholds(self) -> FloatArray:
        return np.arange(0, 1, self.step)

    @property
    def name(self) -> str:
        name = {"largest": "max_box_acc", "all": "max_box_acc_v2"}[self.contours]
        return name + ("_compatible" if self.reading == "compatible" else "")

    def __str__(self) -> str:
        levels = ", ".join(f"{iou:g}" for iou in self.ious)
        return (
            f"{self.reading} reading, {self.contours} contours, IoU >= {levels}, "
            f"{self.thresholds.size} thresholds, maps at {SIDE} x {SIDE}"
        )


MAX_BOX_ACC = MapConvention()
MAX_BOX_ACC_V2 = MapConvention("all", (0.3, 0.5, 0.7))
READINGS: tuple[MapConvention, ...] = tuple(
    replace(base, reading=reading)
    for base in (MAX_BOX_ACC, MAX_BOX_ACC_V2)
    for reading in get_args(MapReading)
)


class MaxBoxAccuracy:
    """The best share of images, over thresholds, on which some box of the map hits."""

    def __init__(self, convention: MapConvention = MAX_BOX_ACC_V2) -> None:
        self.convention = convention
        self._num_objects = 0
        self._sums = ResampledSums(len(convention.ious) * NUM_LEVELS + 1)

    def update(self, case: Case) -> None:
        """Leaves out classes of which no box is drawn."""
        image_size = (case.prediction.width, case.prediction.height)
        for class_map, draw in zip(case.maps, case.map_draws, strict=True):
            objects = case.truth.objects.boxes_of(class_map.class_index)
            if len(objects):
                self.add(draw, class_map, objects, image_size)

    def add(
        self, draw: ImageDraw, class_map: ClassMap, objects: FloatArray, image_size: tuple[int, int]
    ) -> None:
        """One class's map over the whole image, against the drawn boxes of that class.

        Its levels are told apart once for all conventions that read them alike.
        """
        key = self.convention.reading, self.convention.step
        if key not in class_map.levels:
            normalized_map = normalize_map(class_map.scores, image=draw.image)
            class_map.levels[key] = read_levels(normalized_map, self.convention)
        overlaps = best_overlaps(class_map.levels[key], objects, image_size, self.convention)
        hits = overlaps >= np.array(self.convention.ious)[:, None]  # (I, levels)
        self._num_objects += len(objects)
        self._sums.add(draw, np.append(hits, 1))

    def compute(self) -> tuple[MetricResult, ...]:
        convention, sums = self.convention, self._sums
        thresholds = tuple(convention.thresholds.tolist())
        accuracies = self._accuracies(sums.total)  # (I, thresholds)
        details: dict[str, Detail] = {}
        curves: dict[str, Curve] = {}
        for iou, row in zip(convention.ious, accuracies, strict=True) if sums.num_images else ():
            level, best = f"{100 * iou:g}", int(row.argmax())
            details[f"accuracy_{level}"] = float(row[best])
            details[f"threshold_{level}"] = thresholds[best]
            curves[f"accuracy_{level}"] = Curve(thresholds, tuple(row.tolist()))
        result = measured(
            convention.name,
            sums.evaluate(lambda block: self._accuracies(block).max(axis=-1).mean(axis=-1)),
            sums,
            convention=str(convention),
            lacking="no score map was given",
            per_class={},
            details=details,
        )
        return (replace(result, hidden_supervision=self._num_objects, curves=curves),)

    def _accuracies(self, sums: FloatArray) -> FloatArray:
        """(..., I, thresholds) from the sums of hits at every level."""
        thresholds = self.convention.thresholds
        levels = np.arange(thresholds.size)
        if self.convention.reading == "compatible":
            levels = (thresholds * 255).astype(np.int64)
        hits = sums[..., :-1].reshape(*sums.shape[:-1], len(self.convention.ious), NUM_LEVELS)
        return ratio(hits[..., levels], sums[..., -1, None, None])


def read_levels(normalized_map: ScoreMap, convention: MapConvention) -> Levels:
    """Level k is the k-th threshold, or int(tau * 255) = k in the compatible reading.

    A score exceeds the k-th threshold exactly where its level is greater than k.
    """
    if convention.reading == "clean":
        levels = np.searchsorted(convention.thresholds, normalized_map).astype(np.uint8)
    else:
        levels = (normalized_map * 255).astype(np.uint8)  # floored, in the precision of the map
    return Levels(levels, component_tree(levels, 8))


def best_overlaps(
    levels: Levels, objects: FloatArray, image_size: tuple[float, float], convention: MapConvention
) -> FloatArray:
    """The largest IoU between a box of the map and a drawn one, at each of 255 levels."""
    height, width = levels.of_cells.shape
    scale = np.array([width, height, width, height], dtype=np.float64)
    drawn = objects * scale / np.array([*image_size, *image_size], dtype=np.float64)
    frame, extra = [width, height, width, height], 0.0
    if convention.reading == "compatible":
        drawn, frame, extra = np.trunc(drawn), [width, height, width - 1, height - 1], 1.0
    best = np.zeros(NUM_LEVELS)
    for shown in _shown_boxes(levels, convention):
        boxes = np.minimum(shown.boxes, frame).astype(np.float64)
        ranges = shown.first_level, shown.last_level
        best = np.maximum(best, _overlap_per_level(*ranges, boxes, drawn, extra))
    return best


def _shown_boxes(levels: Levels, convention: MapConvention) -> Iterator[LevelBoxes]:
    is_compatible, tree = convention.reading == "compatible", levels.tree
    whole = level_boxes(tree)
    if convention.contours == "all":
        yield whole
        if is_compatible:
            yield hole_level_boxes(levels.of_cells)
    else:
        if is_compatible:
            largest = largest_by_contour(levels.of_cells, tree)
        else:  # the most pixels; of equal ones the one that starts first in row-major order
            order = np.lexsort((-tree.first, tree.area))
            largest = last_shown(whole.first_level, whole.last_level, order)
        shown_at = np.flatnonzero(largest >= 0)
        yield LevelBoxes(shown_at, shown_at, tree.box[largest[shown_at]])
    if is_compatible:  # no foreground
        emptied = np.full(1, levels.of_cells.max()), np.full(1, NUM_LEVELS - 1)
        yield LevelBoxes(*emptied, np.zeros((1, 4)))


@njit(cache=True, nogil=True)
def _overlap_per_level(
    first: IntArray, last: IntArray, boxes: FloatArray, objects: FloatArray, extra: float
) -> FloatArray:
    best = np.zeros(NUM_LEVELS)
    for n in range(first.size):
        overlap = 0.0
        for g in range(len(objects)):
            overlap = max(overlap, box_overlap(boxes[n], objects[g], extra, False))
        for t in range(first[n], last[n] + 1):
            best[t] = max(best[t], overlap)
    return best
