"""Predicted and drawn boxes in; Pascal VOC's average precision at any IoU, and recall, out."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.average_precision import (
    RankedClasses,
    Ranking,
    Ties,
    class_precisions,
    class_recalls,
    mean_average_precision,
    precision_result,
    rank,
)
from weakloc.metrics.case import (
    FALSE_ALARM,
    FOUND,
    IGNORED,
    Case,
    DetectionArrays,
    MetricSetup,
    OverlapConvention,
    TruthArrays,
)
from weakloc.metrics.result import MetricResult
from weakloc.metrics.uncertainty import ImageRecords

ImageBoxes: TypeAlias = tuple[DetectionArrays, TruthArrays]


Table = TypeVar("Table", DetectionArrays, TruthArrays)


class Matches(NamedTuple):
    """For each detection, by class and then by falling score: `order` leads to the input."""

    order: IntArray  # (D,)
    verdicts: NDArray[np.int8]  # (D,)
    objects: IntArray  # (D,) the object of a FOUND detection, else -1


_NOTHING = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4))
_NO_BOXES = (
    DetectionArrays(*_NOTHING, np.empty(0), np.empty(0, np.bool_)),
    TruthArrays(*_NOTHING, np.empty(0, np.bool_), np.empty(0, np.bool_)),
)


def flatten(records: Sequence[ImageBoxes]) -> ImageBoxes:
    """The boxes of many images as rows of one table each, which numbers the images."""
    detections, truth = zip(*(records or [_NO_BOXES]), strict=True)
    return _stack(detections), _stack(truth)


def _stack(tables: Sequence[Table]) -> Table:
    columns: list[Any] = [np.concatenate(column) for column in zip(*tables, strict=True)]
    numbers = np.repeat(np.arange(len(tables)), [len(part.classes) for part in tables])
    return type(tables[0])(*columns)._replace(images=numbers)


def rows(table: Table, order: IntArray) -> Table:
    columns: list[Any] = [column[order] for column in table]
    return type(table)(*columns)


def match_boxes(
    detections: DetectionArrays, truth: TruthArrays, overlap: OverlapConvention
) -> Matches:
    """Pascal VOC's rule: each detection faces the object it overlaps most, taken or not.

    The first to reach an object finds it, later ones are false alarms; ignored objects swallow
    any number.
    """
    order = class_order(detections)
    objects = np.lexsort((truth.images, truth.classes))
    drawn, extra = rows(truth, objects), 1.0 if overlap.is_inclusive else 0.0
    groups = _groups(rows(detections, order), drawn)
    verdicts, nearest = _match(detections.boxes[order], drawn, groups, overlap.iou, extra)
    is_found = (verdicts == FOUND) & detections.judged[order]
    reached = np.full(order.size, -1)
    reached[is_found] = objects[nearest[is_found]]
    verdicts[~detections.judged[order]] = IGNORED
    return Matches(order, verdicts, reached)


def class_order(detections: DetectionArrays) -> IntArray:
    """By class, then by falling score, then by position."""
    falling = np.argsort(-detections.scores, kind="stable")
    classes = detections.classes[falling].astype(np.uint16)  # radix sort
    return np.asarray(falling[np.argsort(classes, kind="stable")])


def _groups(detections: DetectionArrays, truth: TruthArrays) -> IntArray:
    """Class and image of each detection as one number, first and last object of it: (D, 3)

    The truth is sorted by class and then by image.
    """
    stride = max(detections.images.max(initial=0), truth.images.max(initial=0)) + 1
    keys = detections.classes * stride + detections.images
    object_keys = truth.classes * stride + truth.images
    first = np.searchsorted(object_keys, keys, "left")
    return np.stack([keys, first, np.searchsorted(object_keys, keys, "right")], axis=1)


@njit(cache=True, nogil=True)
def _match(
    boxes: FloatArray, truth: TruthArrays, groups: IntArray, iou: float, extra: float
) -> tuple[NDArray[np.int8], IntArray]:
    """Verdict of each detection and the first of the objects that it overlaps most."""
    verdicts = np.full(len(boxes), FALSE_ALARM, dtype=np.int8)
    nearest = np.full(len(boxes), -1)
    is_found = np.zeros(len(truth.boxes), dtype=np.bool_)
    for d in range(len(boxes)):
        best = -1.0
        for g in range(groups[d, 1], groups[d, 2]):
            overlap = box_overlap(boxes[d], truth.boxes[g], extra, False)
            if overlap > best:
                best, nearest[d] = overlap, g
        if best >= iou and truth.ignored[nearest[d]]:
            verdicts[d] = IGNORED
        elif best >= iou and not is_found[nearest[d]]:
            is_found[nearest[d]] = True
            verdicts[d] = FOUND
    return verdicts, nearest


@njit(cache=True, nogil=True)
def box_overlap(box: FloatArray, drawn: FloatArray, extra: float, is_crowd: bool) -> float:
    """The IoU; of a crowd, which part of the box it covers."""
    width = min(box[2], drawn[2]) - max(box[0], drawn[0]) + extra
    height = min(box[3], drawn[3]) - max(box[1], drawn[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    area = (box[2] - box[0] + extra) * (box[3] - box[1] + extra)
    other = (drawn[2] - drawn[0] + extra) * (drawn[3] - drawn[1] + extra)
    return float(shared / (area if is_crowd else area + other - shared))


class BoxRanking(ABC):
    """Keeps the boxes of every image, predicted and drawn."""

    def __init__(self, setup: MetricSetup) -> None:
        self.setup = setup
        self._records: ImageRecords[ImageBoxes] = ImageRecords()

    def update(self, case: Case) -> None:
        self._records.add(case.draw, (case.detections, case.truth.objects))

    @abstractmethod
    def compute(self) -> tuple[MetricResult, ...]: ...


class BoxPrecision(BoxRanking):
    """Average precision of boxes by Pascal VOC's matching.

    Difficult objects and crowds are neither found nor missed. Detections of a class that is
    unknown on the image, or present there but not drawn, are left out: nobody can judge them.
    """

    def compute(self) -> tuple[MetricResult, ...]:
        images, records = self._records.sorted()
        detections, truth = flatten(records)
        classes, overlap, ranking = self.setup.classes, self.setup.overlap, self.setup.ranking
        order, verdicts, _ = match_boxes(detections, truth, overlap)
        positives = count_objects(truth, num_images=len(records), num_classes=len(classes))
        ranked = RankedClasses(
            rankings=rank_verdicts(detections, order, verdicts, len(classes), ranking.ties),
            num_positives=images.sums(positives),
            images=images,
            class_names=classes.names,
        )
        return mean_average_precision(
            f"box_map_{round(100 * overlap.iou)}{overlap.suffix}",
            ranked,
            ranking,
            described=str(overlap),
            details={
                "num_detections": len(detections.scores),
                "num_objects": int((~truth.ignored).sum()),
            },
        )


def rank_verdicts(
    detections: DetectionArrays,
    order: IntArray,
    verdicts: NDArray[np.int8],
    num_classes: int,
    ties: Ties,
) -> list[Ranking]:
    """One ranking a class of verdicts that are in order."""
    ends = np.searchsorted(detections.classes[order], np.arange(num_classes + 1))
    scores, images = detections.scores[order], detections.images[order]
    return [
        rank(scores[start:end], verdicts[start:end], ties=ties, image=images[start:end])
        for start, end in itertools.pairwise(ends)
    ]


def count_objects(truth: TruthArrays, *, num_images: int, num_classes: int) -> IntArray:
    """Objects to be found: (images, C)."""
    counts = np.zeros((num_images, num_classes), dtype=np.int64)
    certain = ~truth.ignored
    np.add.at(counts, (truth.images[certain], truth.classes[certain]), 1)
    return counts


MOST_DETECTIONS = 100
COCO_IOUS = np.linspace(0.5, 0.95, 10)  # the evaluator's own numbers, 0.6000000000000001 included


class CocoPrecision(BoxRanking):
    """COCO's AP (101 recalls, IoU 0.50 to 0.95), AP50, AP75 and average recall, area "all".

    Crowds swallow any number of detections and are compared by the share of the detection inside
    them. Difficult objects count as objects outside the area range do: matched, not counted.
    """

    def compute(self) -> tuple[MetricResult, ...]:
        images, records = self._records.sorted()
        detections, truth = flatten(records)
        num_images, num_classes = len(records), len(self.setup.classes)
        positives = count_objects(truth, num_images=num_images, num_classes=num_classes)
        num_positives = images.sums(positives)  # (C, 1 + B)
        precisions, recalls = np.zeros_like(num_positives), np.zeros_like(num_positives)
        named = {}  # of all ten together only the sums are kept
        for iou, rankings in zip(COCO_IOUS, rank_coco(detections, truth, num_classes), strict=True):
            ranked = RankedClasses(rankings, num_positives, images, self.setup.classes.names)
            at_iou = class_precisions(ranked, "coco")
            precisions, recalls = precisions + at_iou, recalls + class_recalls(ranked)
            if iou in (0.5, 0.75):
                named[f"coco_ap_{100 * iou:.0f}"] = at_iou, f"{iou:.2f}"
        numbers = {
            "coco_ap": (precisions / len(COCO_IOUS), "0.50 to 0.95"),
            **named,
            "coco_ar": (recalls / len(COCO_IOUS), "0.50 to 0.95"),
        }
        limit = f"{MOST_DETECTIONS} detections an image and class, all areas"
        return tuple(
            precision_result(name, values, ranked, convention=f"IoU {ious}, {limit}", details={})
            for name, (values, ious) in numbers.items()
        )


def rank_coco(
    detections: DetectionArrays, truth: TruthArrays, num_classes: int
) -> list[list[Ranking]]:
    """The rankings of all classes at each of the ten IoU thresholds."""
    order = class_order(detections)
    by_group = np.lexsort((-detections.scores, detections.images, detections.classes))
    objects = np.lexsort((truth.ignored, truth.images, truth.classes))  # ignored ones last
    verdicts = np.empty((len(COCO_IOUS), len(order)), dtype=np.int8)
    verdicts[:, by_group] = _match_groups(
        _groups(rows(detections, by_group), rows(truth, objects)),
        detections.boxes[by_group],
        truth.boxes[objects],
        np.stack([truth.ignored, truth.crowd], axis=1)[objects],
    )
    verdicts[:, ~detections.judged] = IGNORED
    verdicts = verdicts[:, order]  # (T, D)
    return [rank_verdicts(detections, order, row, num_classes, "stable") for row in verdicts]


@njit(cache=True, nogil=True)
def _match_groups(
    groups: IntArray, boxes: FloatArray, objects: FloatArray, flags: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """COCO's greedy matching within one class of one image at a time.

    `flags` are (G, 2): ignored, crowd.
    """
    verdicts = np.full((COCO_IOUS.size, len(boxes)), FALSE_ALARM, dtype=np.int8)
    is_found = np.zeros((COCO_IOUS.size, len(objects)), dtype=np.bool_)
    position = 0
    for d in range(len(boxes)):
        position = position + 1 if d > 0 and groups[d, 0] == groups[d - 1, 0] else 0
        if position >= MOST_DETECTIONS:
            verdicts[:, d] = IGNORED
            continue
        begin, end = groups[d, 1], groups[d, 2]
        overlaps = np.empty(end - begin)
        for g in range(begin, end):
            overlaps[g - begin] = box_overlap(boxes[d], objects[g], 0.0, flags[g, 1])
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
