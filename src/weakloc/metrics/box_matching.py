"""Flat arrays of detections and drawn boxes in; which detection finds which object out.

Everything is per class over all images at once, in the order of falling scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.arrays import DetectionArrays, TruthArrays

Edges: TypeAlias = Literal["half_open", "inclusive"]
Comparison: TypeAlias = Literal[">=", ">"]

FOUND, IGNORED, FALSE_ALARM = 1, 0, -1


@dataclass(frozen=True, slots=True)
class OverlapConvention:
    """When two boxes are the same object.

    "inclusive" edges add one pixel to every width and height, as evaluators do that take right
    and bottom for the last pixels inside; boxes are compared as they are given.
    """

    iou: float = 0.5
    comparison: Comparison = ">="
    edges: Edges = "half_open"

    def __post_init__(self) -> None:
        if not 0.0 <= self.iou <= 1.0:
            raise ValueError(f"an IoU threshold lies in [0, 1], not at {self.iou}")

    @property
    def is_inclusive(self) -> bool:
        return self.edges == "inclusive"

    def passes(self, ious: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(ious > self.iou if self.comparison == ">" else ious >= self.iou)

    def __str__(self) -> str:
        return f"IoU {self.comparison} {self.iou:g}, {self.edges.replace('_', '-')} boxes"


DEFAULT_OVERLAP = OverlapConvention()


class FlatBoxes(NamedTuple):
    """Boxes of many images: their class, the number of their image, their sides."""

    classes: IntArray  # (N,)
    images: IntArray  # (N,)
    boxes: FloatArray  # (N, 4)


class FlatDetections(NamedTuple):
    """Detections; `judged` is false where the truth cannot tell right from wrong."""

    placed: FlatBoxes
    scores: FloatArray  # (N,)
    judged: NDArray[np.bool_]  # (N,)


class FlatTruth(NamedTuple):
    """Drawn objects; `ignored` ones may be found without gain or loss."""

    placed: FlatBoxes
    ignored: NDArray[np.bool_]  # (N,)
    crowd: NDArray[np.bool_]  # (N,)


class ImageBoxes(NamedTuple):
    """What one image adds."""

    detections: DetectionArrays
    truth: TruthArrays
    judged: NDArray[np.bool_]  # (D,)


class Matches(NamedTuple):
    """For each detection, by class and then by falling score: `order` leads to the input."""

    order: IntArray  # (N,)
    verdicts: NDArray[np.int8]  # (N,)
    found: IntArray  # (N,) the object of a FOUND detection, else -1


def flatten(records: Sequence[ImageBoxes]) -> tuple[FlatDetections, FlatTruth]:
    found = [record.detections for record in records]
    drawn = [record.truth for record in records]
    detections = FlatDetections(
        placed=_place([(each.classes, each.boxes) for each in found]),
        scores=np.concatenate([each.scores for each in found] or [np.empty(0)]),
        judged=np.concatenate([record.judged for record in records] or [np.empty(0, bool)]),
    )
    truth = FlatTruth(
        placed=_place([(each.classes, each.boxes) for each in drawn]),
        ignored=np.concatenate([each.ignored for each in drawn] or [np.empty(0, bool)]),
        crowd=np.concatenate([each.crowd for each in drawn] or [np.empty(0, bool)]),
    )
    return detections, truth


def match_boxes(
    detections: FlatDetections, truth: FlatTruth, overlap: OverlapConvention = DEFAULT_OVERLAP
) -> Matches:
    """Pascal VOC's rule: each detection faces the object it overlaps most, taken or not.

    The first to reach an object finds it, later ones are false alarms; ignored objects swallow
    any number.
    """
    order = class_order(detections.placed.classes, detections.scores)
    by_class = np.lexsort((truth.placed.images, truth.placed.classes))
    overlaps, nearest = _best_overlaps(
        taken(detections.placed, order),
        taken(truth.placed, by_class),
        1.0 if overlap.is_inclusive else 0.0,
    )
    reached = np.where(overlap.passes(overlaps) & (nearest >= 0), nearest, -1)
    if by_class.size:
        reached = np.where(reached >= 0, by_class[reached], -1)
    verdicts = _verdicts(reached, truth.ignored)
    verdicts[~detections.judged[order]] = IGNORED
    return Matches(order, verdicts, np.where(verdicts == FOUND, reached, -1))


def class_order(classes: IntArray, scores: FloatArray) -> IntArray:
    """By class, then by falling score, then by position."""
    falling = np.argsort(-scores)  # NumPy's unstable sort is several times faster
    _sort_equal_runs(falling, scores)
    return np.asarray(falling[np.argsort(classes[falling].astype(np.uint16), kind="stable")])


def _place(parts: Sequence[tuple[IntArray, FloatArray]]) -> FlatBoxes:
    sizes = np.array([len(classes) for classes, _ in parts], dtype=np.int64)
    return FlatBoxes(
        classes=np.concatenate([classes for classes, _ in parts] or [np.empty(0, np.int64)]),
        images=np.repeat(np.arange(len(parts)), sizes),
        boxes=np.concatenate([boxes for _, boxes in parts] or [np.empty((0, 4))]),
    )


def taken(placed: FlatBoxes, order: IntArray) -> FlatBoxes:
    return FlatBoxes(placed.classes[order], placed.images[order], placed.boxes[order])


@njit(cache=True, nogil=True)
def _sort_equal_runs(order: IntArray, scores: FloatArray) -> None:
    start = 0
    for end in range(1, order.size + 1):
        if end == order.size or scores[order[end]] != scores[order[start]]:
            if end - start > 1:
                order[start:end].sort()
            start = end


@njit(cache=True, nogil=True)
def _best_overlaps(
    detections: FlatBoxes, truth: FlatBoxes, extra: float
) -> tuple[FloatArray, IntArray]:
    """The largest IoU with an object of the same class and image, and the first that has it.

    Both sides are sorted by class, the truth then by image.
    """
    overlaps = np.zeros(detections.classes.size)
    nearest = np.full(detections.classes.size, -1)
    num_images = max(_largest(detections.images), _largest(truth.images)) + 1
    first = np.full(num_images, -1)  # the first object of the current class on each image
    begin, end = 0, 0
    for d in range(detections.classes.size):
        if end == 0 or detections.classes[d] != detections.classes[d - 1]:
            first[truth.images[begin:end]] = -1
            begin = np.searchsorted(truth.classes, detections.classes[d], "left")
            end = np.searchsorted(truth.classes, detections.classes[d], "right")
            for g in range(end - 1, begin - 1, -1):
                first[truth.images[g]] = g
        g = first[detections.images[d]]
        while 0 <= g < end and truth.images[g] == detections.images[d]:
            overlap = _iou(detections.boxes[d], truth.boxes[g], extra)
            if overlap > overlaps[d] or nearest[d] < 0:
                overlaps[d], nearest[d] = overlap, g
            g += 1
    return overlaps, nearest


@njit(cache=True, nogil=True)
def _largest(values: IntArray) -> int:
    return values.max() if values.size else -1


@njit(cache=True, nogil=True)
def _iou(first: FloatArray, second: FloatArray, extra: float) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + extra
    height = min(first[3], second[3]) - max(first[1], second[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    area = (first[2] - first[0] + extra) * (first[3] - first[1] + extra)
    other = (second[2] - second[0] + extra) * (second[3] - second[1] + extra)
    return float(shared / (area + other - shared))


@njit(cache=True, nogil=True)
def _verdicts(reached: IntArray, ignored: NDArray[np.bool_]) -> NDArray[np.int8]:
    verdicts = np.full(reached.size, FALSE_ALARM, dtype=np.int8)
    is_found = np.zeros(ignored.size, dtype=np.bool_)
    for d in range(reached.size):
        g = reached[d]
        if g >= 0 and ignored[g]:
            verdicts[d] = IGNORED
        elif g >= 0 and not is_found[g]:
            is_found[g] = True
            verdicts[d] = FOUND
    return verdicts
