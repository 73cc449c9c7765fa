"""The single best box in; correct localisation, per class or per image, out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from weakloc.geometry import FloatArray, box_ious
from weakloc.metrics.arrays import ClassIndex, DetectionArrays, detection_arrays, truth_arrays
from weakloc.metrics.box_matching import DEFAULT_OVERLAP, OverlapConvention
from weakloc.metrics.result import MetricResult
from weakloc.metrics.shares import ClassShares
from weakloc.metrics.uncertainty import DEFAULT_RESAMPLING, Resampling
from weakloc.structures import Prediction, Sample

# Published thresholds: the papers' own text, and the strict inequality of the detection code.
CORLOC_OVERLAPS: Mapping[str, OverlapConvention] = {
    "default": DEFAULT_OVERLAP,
    "devkit": OverlapConvention(0.5, ">", "inclusive"),
}


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
