"""The single best box in; correct localisation, per class or per image, out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from weakloc.geometry import FloatArray, box_ious
from weakloc.metrics.arrays import (
    ClassIndex,
    DetectionArrays,
    class_scores,
    detection_arrays,
    place_of,
    single_label,
    truth_arrays,
)
from weakloc.metrics.boxes import DEFAULT_OVERLAP, OverlapConvention
from weakloc.metrics.uncertainty import DEFAULT_RESAMPLING, ClassShares, MetricResult, Resampling
from weakloc.structures import Prediction, Sample


class CorLoc:
    """For each class, over the images that hold it: does its best box overlap an object of it?

    Difficult objects count. The mean is over classes.
    """

    def __init__(
        self,
        classes: ClassIndex,
        overlap: OverlapConvention = DEFAULT_OVERLAP,
        *,
        resampling: Resampling = DEFAULT_RESAMPLING,
    ) -> None:
        self.classes = classes
        self.overlap = overlap
        self._shares = ClassShares(classes, resampling=resampling)

    def update(self, sample: Sample, prediction: Prediction) -> None:
        detections = detection_arrays(prediction, self.classes)
        truth = truth_arrays(sample)
        hits = {
            c: int(best_box_hits(detections, c, truth.boxes_of(c), self.overlap))
            for c in np.unique(truth.classes).tolist()
        }
        self._shares.add(sample.name, hits, dict.fromkeys(hits, 1))

    def merge(self, other: CorLoc) -> None:
        self._shares.merge(other._shares)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        result = self._shares.result(
            "corloc",
            f"{self.overlap}, best box of each class present",
            averaging="classes",
            hidden_supervision=hidden_supervision,
        )
        return (result,)


class ImageCorLoc:
    """One box an image, whatever its class: does it overlap any object, whatever its class?

    The number of unsupervised object discovery; not comparable with `corloc`.
    """

    def __init__(
        self,
        classes: ClassIndex,
        overlap: OverlapConvention = DEFAULT_OVERLAP,
        *,
        resampling: Resampling = DEFAULT_RESAMPLING,
    ) -> None:
        self.classes = classes
        self.overlap = overlap
        self._shares = ClassShares(ClassIndex(["any"]), resampling=resampling)

    def update(self, sample: Sample, prediction: Prediction) -> None:
        boxes = truth_arrays(sample).boxes
        detections = detection_arrays(prediction, self.classes)
        hit = False
        if len(detections.scores):
            best = int(np.argmax(detections.scores))
            hit = overlaps_any(detections.boxes[best], boxes, self.overlap)
        self._shares.add(sample.name, {0: int(hit)}, {0: int(len(boxes) > 0)})

    def merge(self, other: ImageCorLoc) -> None:
        self._shares.merge(other._shares)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        result = self._shares.result(
            "image_corloc",
            f"{self.overlap}, best box of the image, classes disregarded",
            averaging="trials",
            hidden_supervision=hidden_supervision,
        )
        return (result,)


def best_box_hits(
    detections: DetectionArrays, class_index: int, objects: FloatArray, overlap: OverlapConvention
) -> bool:
    """Whether the class has a box, and the best of them overlaps one of the objects."""
    best = detections.best_of(class_index)
    return best is not None and overlaps_any(detections.boxes[best], objects, overlap)


def overlaps_any(box: FloatArray, objects: FloatArray, overlap: OverlapConvention) -> bool:
    return bool(overlap.passes(box_ious(box, objects, inclusive=overlap.is_inclusive)).any())


class _Outcome(NamedTuple):
    """What one image adds to each number."""

    gt_known_loc: bool
    top_1_loc: bool
    top_5_loc: bool
    top_5_loc_first_box: bool
    first_box_loc: bool


_MEANING = {
    "gt_known_loc": "box of the true class",
    "top_1_loc": "true class is the first guess, its box hits",
    "top_5_loc": "true class among five guesses, its own box hits",
    "top_5_loc_first_box": "true class among five guesses, the box of the first guess hits",
    "first_box_loc": "the box of the first guess hits, right or wrong",
}


class SingleObjectLocalization:
    """The localisation accuracies of images that hold one class."""

    def __init__(
        self,
        classes: ClassIndex,
        overlap: OverlapConvention = DEFAULT_OVERLAP,
        *,
        resampling: Resampling = DEFAULT_RESAMPLING,
    ) -> None:
        self.classes = classes
        self.overlap = overlap
        needs_five = {"top_5_loc", "top_5_loc_first_box"} if len(classes) <= 5 else set()
        self._shares = {
            name: ClassShares(classes, resampling=resampling)
            for name in _Outcome._fields
            if name not in needs_five  # five guesses among five classes tell nothing
        }

    def update(self, sample: Sample, prediction: Prediction) -> None:
        label = single_label(sample)
        scores = class_scores(prediction, self.classes)
        place = place_of(scores, label)
        detections = detection_arrays(prediction, self.classes)
        objects = truth_arrays(sample).boxes_of(label)
        known = best_box_hits(detections, label, objects, self.overlap)
        first = best_box_hits(detections, int(scores.argmax()), objects, self.overlap)
        outcome = _Outcome(
            gt_known_loc=known,
            top_1_loc=known and place < 1,
            top_5_loc=known and place < 5,
            top_5_loc_first_box=first and place < 5,
            first_box_loc=first,
        )
        is_drawn = int(len(objects) > 0)
        for name, shares in self._shares.items():
            shares.add(sample.name, {label: int(getattr(outcome, name))}, {label: is_drawn})

    def merge(self, other: SingleObjectLocalization) -> None:
        for name, shares in self._shares.items():
            shares.merge(other._shares[name])

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        return tuple(
            shares.result(
                name,
                f"{self.overlap}, {_MEANING[name]}",
                averaging="trials",
                hidden_supervision=hidden_supervision,
            )
            for name, shares in self._shares.items()
        )
