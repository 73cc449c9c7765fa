"""Predicted and drawn boxes in; Pascal VOC's average precision at any IoU, and recall, out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.average_precision import (
    DEFAULT_RANKING,
    ClassPrecisions,
    RankedClasses,
    Ranking,
    RankingConvention,
    Ties,
    class_precisions,
    class_recalls,
    mean_average_precision,
    precision_result,
    rank_sorted,
)
from weakloc.metrics.case import Case, ClassIndex, DetectionArrays, TruthArrays
from weakloc.metrics.result import MetricResult
from weakloc.metrics.uncertainty import ImageRecords

Edges: TypeAlias = Literal["half-open", "inclusive"]
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
    edges: Edges = "half-open"

    def __post_init__(self) -> None:
        if not 0.0 <= self.iou <= 1.0:
            raise ValueError(f"an IoU threshold lies in [0, 1], not at {self.iou}")

    @property
    def is_inclusive(self) -> bool:
        return self.edges == "inclusive"

    def passes(self, ious: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(ious > self.iou if self.comparison == ">" else ious >= self.iou)

    def __str__(self) -> str:
        return f"IoU {self.comparison} {self.iou:g}, {self.edges} boxes"

    @property
    def suffix(self) -> str:
        """Of the names of what is counted by it."""
        return "_inclusive" if self.is_inclusive else ""


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
    objects: IntArray  # (N,) the object of a FOUND detection, else -1


def flatten(records: Sequence[ImageBoxes]) -> tuple[FlatDetections, FlatTruth]:
    """The boxes of many images as rows of one table each."""
    detected = [record.detections for record in records]
    drawn = [record.truth for record in records]
    detections = FlatDetections(
        placed=_flat_boxes(detected),
        scores=np.concatenate([part.scores for part in detected] or [np.empty(0)]),
        judged=np.concatenate([record.judged for record in records] or [np.empty(0, bool)]),
    )
    truth = FlatTruth(
        placed=_flat_boxes(drawn),
        ignored=np.concatenate([part.ignored for part in drawn] or [np.empty(0, bool)]),
        crowd=np.concatenate([part.crowd for part in drawn] or [np.empty(0, bool)]),
    )
    return detections, truth


def _flat_boxes(parts: Sequence[DetectionArrays] | Sequence[TruthArrays]) -> FlatBoxes:
    return FlatBoxes(
        classes=np.concatenate([part.classes for part in parts] or [np.empty(0, np.int64)]),
        images=np.repeat(np.arange(len(parts)), [len(part.classes) for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts] or [np.empty((0, 4))]),
    )


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


class BoxPrecision:
    """Average precision of boxes by Pascal VOC's matching.

    Difficult objects and crowds are neither found nor missed. Detections of a class that is
    unknown on the image, or present there but not drawn, are left out: nobody can judge them.
    """

    def __init__(
        self,
        classes: ClassIndex,
        overlap: OverlapConvention = DEFAULT_OVERLAP,
        convention: RankingConvention = DEFAULT_RANKING,
    ) -> None:
        self.classes = classes
        self.overlap = overlap
        self.convention = convention
        self._records: ImageRecords[ImageBoxes] = ImageRecords()

    def update(self, case: Case) -> None:
        self._records.add(case.draw, case_boxes(case))

    def compute(self) -> tuple[MetricResult, ...]:
        images, records = self._records.sorted()
        detections, truth = flatten(records)
        num_classes = len(self.classes)
        ranked = RankedClasses(
            rankings=rank_detections(
                detections, truth, num_classes, overlap=self.overlap, ties=self.convention.ties
            ),
            positives=count_objects(truth, num_images=len(records), num_classes=num_classes),
            images=images,
            class_names=self.classes.names,
        )
        return mean_average_precision(
            f"box_map_{round(100 * self.overlap.iou)}{self.overlap.suffix}",
            ranked,
            self.convention,
            described=str(self.overlap),
            details={
                "num_detections": len(detections.scores),
                "num_objects": int((~truth.ignored).sum()),
            },
        )


def case_boxes(case: Case) -> ImageBoxes:
    return ImageBoxes(case.detections, case.truth.objects, case.judged)


def rank_detections(
    detections: FlatDetections,
    truth: FlatTruth,
    num_classes: int,
    *,
    overlap: OverlapConvention = DEFAULT_OVERLAP,
    ties: Ties = "stable",
) -> list[Ranking]:
    """One ranking a class, best detection first."""
    matches = match_boxes(detections, truth, overlap)
    return _rank_verdicts(detections, matches.order, matches.verdicts, num_classes, ties)


def _rank_verdicts(
    detections: FlatDetections,
    order: IntArray,
    verdicts: NDArray[np.int8],
    num_classes: int,
    ties: Ties,
) -> list[Ranking]:
    """One ranking a class of verdicts that are in order."""
    ends = np.searchsorted(detections.placed.classes[order], np.arange(num_classes + 1))
    scores, images = detections.scores[order], detections.placed.images[order]
    return [
        rank_sorted(scores[start:end], verdicts[start:end], ties=ties, image=images[start:end])
        for start, end in itertools.pairwise(ends)
    ]


def count_objects(truth: FlatTruth, *, num_images: int, num_classes: int) -> IntArray:
    """Objects to be found: (images, C)."""
    counts = np.zeros((num_images, num_classes), dtype=np.int64)
    certain = ~truth.ignored
    np.add.at(counts, (truth.placed.images[certain], truth.placed.classes[certain]), 1)
    return counts


COCO_IOUS = np.linspace(0.5, 0.95, 10)  # the evaluator's own numbers, 0.6000000000000001 included


class CocoPrecision:
    """COCO's AP (101 recalls, IoU 0.50 to 0.95), AP50, AP75 and average recall, area "all".

    Crowds swallow any number of detections and are compared by the share of the detection inside
    them. Difficult objects count as objects outside the area range do: matched, not counted.
    """

    def __init__(self, classes: ClassIndex, *, max_detections: int = 100) -> None:
        self.classes = classes
        self.max_detections = max_detections
        self._records: ImageRecords[ImageBoxes] = ImageRecords()

    def update(self, case: Case) -> None:
        self._records.add(case.draw, case_boxes(case))

    def compute(self) -> tuple[MetricResult, ...]:
        images, records = self._records.sorted()
        detections, truth = flatten(records)
        num_images, num_classes = len(records), len(self.classes)
        positives = count_objects(truth, num_images=num_images, num_classes=num_classes)
        ranked = [
            RankedClasses(rankings, positives, images, self.classes.names)
            for rankings in rank_coco(
                detections, truth, num_classes, max_detections=self.max_detections
            )
        ]
        precisions = [class_precisions(classes, "coco") for classes in ranked]
        ious = "0.50 to 0.95"
        numbers = {
            "coco_ap": (precisions, ious),
            "coco_ap_50": (precisions[:1], "0.50"),
            "coco_ap_75": (precisions[5:6], "0.75"),
            "coco_ar": ([class_recalls(classes) for classes in ranked], ious),
        }
        return tuple(
            precision_result(
                name,
                _mean(chosen),
                ranked[0],
                convention=f"IoU {described}, {self.max_detections} detections an image and "
                "class, all areas",
            )
            for name, (chosen, described) in numbers.items()
        )


def rank_coco(
    detections: FlatDetections, truth: FlatTruth, num_classes: int, *, max_detections: int
) -> list[list[Ranking]]:
    """The rankings of all classes at each of the ten IoU thresholds."""
    order = class_order(detections.placed.classes, detections.scores)
    verdicts = _coco_verdicts(detections, truth, max_detections)[:, order]  # (T, D)
    return [_rank_verdicts(detections, order, row, num_classes, "stable") for row in verdicts]


def _coco_verdicts(
    detections: FlatDetections, truth: FlatTruth, max_detections: int
) -> NDArray[np.int8]:
    """(T, D) in the order of the input; detections beyond the limit are IGNORED."""
    placed, drawn = detections.placed, truth.placed
    by_group = np.lexsort((-detections.scores, placed.images, placed.classes))
    objects = np.lexsort((truth.ignored, drawn.images, drawn.classes))  # ignored ones last
    # Distinct classes and images share no key.
    stride = max(placed.images.max(initial=0), drawn.images.max(initial=0)) + 1
    keys = (placed.classes * stride + placed.images)[by_group]
    object_keys = (drawn.classes * stride + drawn.images)[objects]
    first = np.searchsorted(object_keys, keys, "left")
    last = np.searchsorted(object_keys, keys, "right")
    verdicts = np.empty((len(COCO_IOUS), len(keys)), dtype=np.int8)
    verdicts[:, by_group] = _match_groups(
        np.stack([keys, first, last], axis=1).astype(np.int64),
        placed.boxes[by_group],
        drawn.boxes[objects],
        np.stack([truth.ignored, truth.crowd], axis=1)[objects],
        max_detections,
    )
    verdicts[:, ~detections.judged] = IGNORED
    return verdicts


def _mean(precisions: list[ClassPrecisions]) -> ClassPrecisions:
    """Over IoU thresholds."""
    return ClassPrecisions(
        values=np.mean([level.values for level in precisions], axis=0),
        replicates=np.mean([level.replicates for level in precisions], axis=0),
    )


@njit(cache=True, nogil=True)
def _match_groups(
    groups: IntArray,
    boxes: FloatArray,
    objects: FloatArray,
    flags: NDArray[np.bool_],
    max_detections: int,
) -> NDArray[np.int8]:
    """COCO's greedy matching within one class of one image at a time.

    `groups` is (D, 3): the group of each detection and the range of its objects; `flags` is
    (G, 2): ignored, crowd.
    """
    verdicts = np.full((COCO_IOUS.size, len(boxes)), FALSE_ALARM, dtype=np.int8)
    is_found = np.zeros((COCO_IOUS.size, len(objects)), dtype=np.bool_)
    position = 0
    for d in range(len(boxes)):
        position = position + 1 if d > 0 and groups[d, 0] == groups[d - 1, 0] else 0
        if position >= max_detections:
            verdicts[:, d] = IGNORED
            continue
        begin, end = groups[d, 1], groups[d, 2]
        overlaps = np.empty(end - begin)
        for g in range(begin, end):
            overlaps[g - begin] = _coco_overlap(boxes[d], objects[g], flags[g, 1])
        for t in range(COCO_IOUS.size):
            g = _choose(overlaps, is_found[t, begin:end], flags[begin:end], COCO_IOUS[t])
            if g >= 0:
                is_found[t, begin + g] = True
                verdicts[t, d] = IGNORED if flags[begin + g, 0] else FOUND
    return verdicts


@njit(cache=True, nogil=True)
def _choose(
    overlaps: FloatArray, is_found: NDArray[np.bool_], flags: NDArray[np.bool_], iou: float
) -> int:
    """The free object with the largest overlap, the later of equal ones; ignored ones last."""
    best, chosen = min(iou, 1 - 1e-10), -1
    for g in range(overlaps.size):
        if is_found[g] and not flags[g, 1]:
            continue
        if chosen >= 0 and not flags[chosen, 0] and flags[g, 0]:
            break
        if overlaps[g] >= best:
            best, chosen = overlaps[g], g
    return chosen


@njit(cache=True, nogil=True)
def _coco_overlap(box: FloatArray, drawn: FloatArray, is_crowd: bool) -> float:
    width = min(box[2], drawn[2]) - max(box[0], drawn[0])
    height = min(box[3], drawn[3]) - max(box[1], drawn[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    whole = (box[2] - box[0]) * (box[3] - box[1])
    if not is_crowd:
        whole += (drawn[2] - drawn[0]) * (drawn[3] - drawn[1]) - shared
    return float(shared / whole)
