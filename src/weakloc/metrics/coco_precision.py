"""Predicted and drawn boxes in; COCO's average precision and recall over all sizes out."""

from __future__ import annotations

import itertools

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.arrays import ClassIndex
from weakloc.metrics.average_precision import rank_sorted
from weakloc.metrics.box_matching import (
    FALSE_ALARM,
    FOUND,
    IGNORED,
    FlatDetections,
    FlatTruth,
    ImageBoxes,
    class_order,
    flatten,
)
from weakloc.metrics.box_precision import count_objects, image_boxes
from weakloc.metrics.ranking import (
    ClassPrecisions,
    RankedClasses,
    RankingConvention,
    class_precisions,
    class_recalls,
    precision_result,
)
from weakloc.metrics.records import ImageRecords
from weakloc.metrics.result import MetricResult
from weakloc.metrics.uncertainty import DEFAULT_RESAMPLING, Resampling
from weakloc.structures import Prediction, Sample

COCO_IOUS = np.linspace(0.5, 0.95, 10)  # the evaluator's own numbers, 0.6000000000000001 included


class CocoPrecision:
    """COCO's AP (101 recalls, IoU 0.50 to 0.95), AP50, AP75 and average recall, area "all".

    Crowds swallow any number of detections and are compared by the share of the detection inside
    them. Difficult objects count as objects outside the area range do: matched, not counted.
    """

    def __init__(
        self,
        classes: ClassIndex,
        *,
        max_detections: int = 100,
        resampling: Resampling = DEFAULT_RESAMPLING,
    ) -> None:
        self.classes = classes
        self.max_detections = max_detections
        self.convention = RankingConvention("coco", "stable", resampling)
        self._records: ImageRecords[ImageBoxes] = ImageRecords()

    def update(self, sample: Sample, prediction: Prediction) -> None:
        self._records.add(sample.name, image_boxes(sample, prediction, self.classes))

    def merge(self, other: CocoPrecision) -> None:
        self._records.merge(other._records)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        names, records = self._records.sorted()
        detections, truth = flatten(records)
        ranked = rank_coco(
            detections, truth, names, self.classes.names, max_detections=self.max_detections
        )
        precisions = [class_precisions(each, self.convention) for each in ranked]
        wanted = {
            "coco_ap": (range(len(COCO_IOUS)), "0.50 to 0.95"),
            "coco_ap_50": ((0,), "0.50"),
            "coco_ap_75": ((5,), "0.75"),
        }
        results = [
            precision_result(
                name,
                _mean([precisions[t] for t in chosen]),
                ranked[0],
                convention=self._described(ious),
                hidden_supervision=hidden_supervision,
            )
            for name, (chosen, ious) in wanted.items()
        ]
        recall = precision_result(
            "coco_ar",
            _mean([class_recalls(each, self.convention) for each in ranked]),
            ranked[0],
            convention=self._described("0.50 to 0.95"),
            hidden_supervision=hidden_supervision,
        )
        return (*results, recall)

    def _described(self, ious: str) -> str:
        return f"IoU {ious}, {self.max_detections} detections an image and class, all areas"


def rank_coco(
    detections: FlatDetections,
    truth: FlatTruth,
    image_names: tuple[str, ...],
    class_names: tuple[str, ...],
    *,
    max_detections: int,
) -> list[RankedClasses]:
    """The rankings of all classes at each of the ten IoU thresholds."""
    order = class_order(detections.placed.classes, detections.scores)
    verdicts = _coco_verdicts(detections, truth, max_detections)[:, order]  # (T, D)
    num_classes = len(class_names)
    ends = np.searchsorted(detections.placed.classes[order], np.arange(num_classes + 1))
    positives = count_objects(truth, num_images=len(image_names), num_classes=num_classes)
    return [
        RankedClasses(
            rankings=[
                rank_sorted(
                    detections.scores[order[start:end]],
                    verdict[start:end],
                    ties="stable",
                    image=detections.placed.images[order[start:end]],
                )
                for start, end in itertools.pairwise(ends)
            ],
            positives=positives,
            image_names=image_names,
            class_names=class_names,
        )
        for verdict in verdicts
    ]


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
        values=np.mean([each.values for each in precisions], axis=0),
        replicates=np.mean([each.replicates for each in precisions], axis=0),
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
    place = 0
    for d in range(len(boxes)):
        place = place + 1 if d > 0 and groups[d, 0] == groups[d - 1, 0] else 0
        if place >= max_detections:
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
