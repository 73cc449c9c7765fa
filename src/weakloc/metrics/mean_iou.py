"""Label images in; mean intersection over union from one confusion matrix out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.errors import PredictionsError
from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.arrays import ClassIndex
from weakloc.metrics.average_precision import ratio
from weakloc.metrics.masks import VOID, Labels, paint_masks, truth_labels
from weakloc.metrics.result import MetricResult
from weakloc.metrics.uncertainty import (
    DEFAULT_RESAMPLING,
    ResampledSums,
    Resampling,
    interval_of,
    mean_of_defined,
)
from weakloc.structures import ABSENT, PRESENT, Prediction, Sample

Knowing: TypeAlias = Literal["nothing", "tags"]
NO_VALUES: Mapping[int, int] = {}


class MeanIoU:
    """IoU of background and classes over all pixels of the set, and its mean.

    A class that is neither drawn nor predicted anywhere is left out. Knowing the tags, masks of
    other classes become background: an easier task, with a name of its own.
    """

    def __init__(
        self,
        classes: ClassIndex,
        *,
        knowing: Knowing = "nothing",
        segmentation_values: Mapping[int, int] = NO_VALUES,
        resampling: Resampling = DEFAULT_RESAMPLING,
    ) -> None:
        if len(classes) + 1 > VOID:
            raise ValueError(f"label arrays hold at most {VOID - 1} classes, not {len(classes)}")
        self.classes = classes
        self.knowing = knowing
        self.segmentation_values = segmentation_values
        self.names = ("background", *classes.names)
        self._confusion = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        self._sums = ResampledSums(3 * len(self.names), resampling=resampling)

    def update(self, sample: Sample, prediction: Prediction) -> None:
        """The predicted masks against the drawn labels; an image without them is left out."""
        truth = truth_labels(sample, self.segmentation_values)
        if truth is None:
            if (sample.labels != ABSENT).any():
                return
            truth = np.zeros((prediction.height, prediction.width), dtype=np.uint8)
        allowed = None
        if self.knowing == "tags":
            allowed = np.flatnonzero(sample.labels == PRESENT).tolist()
        predicted = paint_masks(prediction, self.classes, allowed=allowed)
        self.add(sample.name, predicted, truth)

    def add(self, image_name: str, predicted: Labels, truth: Labels) -> None:
        if predicted.shape != truth.shape:
            raise PredictionsError(
                f"the prediction is {predicted.shape[1]} x {predicted.shape[0]}, the drawn "
                f"labels are {truth.shape[1]} x {truth.shape[0]}",
                where=image_name,
            )
        num_labels = len(self.names)
        for labels, what in ((predicted, "predicted"), (truth[truth != VOID], "drawn")):
            if labels.size and labels.max() >= num_labels:
                raise ValueError(f"{what} label {labels.max()} with {num_labels - 1} classes")
        confusion = confusion_of(predicted, truth, num_labels)
        self._confusion += confusion
        parts = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
        self._sums.add(image_name, np.concatenate(parts))

    def merge(self, other: MeanIoU) -> None:
        if (self.names, self.knowing) != (other.names, other.knowing):
            raise ValueError("confusions of other classes cannot be merged")
        self._confusion += other._confusion
        self._sums.merge(other._sums)

    @property
    def confusion(self) -> IntArray:
        """Pixels by (drawn, predicted) label: (1 + C, 1 + C)."""
        return self._confusion.copy()

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        ious = _ious(self._sums.total)
        defined = ~np.isnan(ious)
        replicates = self._sums.evaluate(lambda sums: mean_of_defined(_ious(sums)))
        right, counted = int(self._confusion.trace()), int(self._confusion.sum())
        result = MetricResult(
            name="mean_iou" if self.knowing == "nothing" else "mean_iou_tags_given",
            value=float(ious[defined].mean()) if defined.any() else None,
            convention=f"all pixels of the set, with background, knowing {self.knowing}",
            num_images=self._sums.num_images,
            hidden_supervision=hidden_supervision,
            interval=interval_of(replicates),
            per_class={self.names[k]: float(ious[k]) for k in np.flatnonzero(defined).tolist()},
            left_out=tuple(self.names[k] for k in np.flatnonzero(~defined).tolist()),
            details={"pixel_accuracy": right / counted if counted else None},
            unavailable=None if defined.any() else "no pixel is counted",
            replicates=replicates,
            image_digest=self._sums.image_digest,
        )
        return (result,)


def confusion_of(predicted: Labels, truth: Labels, num_labels: int) -> IntArray:
    """Counts of (drawn, predicted) pairs; void pixels are left out."""
    pairs = np.ascontiguousarray(predicted).ravel(), np.ascontiguousarray(truth).ravel()
    return np.asarray(_confusion(*pairs, num_labels))


def _ious(sums: FloatArray) -> FloatArray:
    shared, predicted, drawn = np.split(sums, 3, axis=-1)
    return ratio(shared, predicted + drawn - shared)


@njit(cache=True, nogil=True)
def _confusion(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], num_labels: int) -> IntArray:
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    for n in range(truth.size):
        if truth[n] != VOID:
            counts[truth[n], predicted[n]] += 1
    return counts
