"""Label images and masks in; mean IoU from one confusion matrix, and PxAP of maps, out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.errors import PredictionsError
from weakloc.geometry import FloatArray, IntArray, nearest_cells
from weakloc.metrics.average_precision import grouped_precisions
from weakloc.metrics.case import (
    VOID,
    Case,
    ClassIndex,
    ImageTruth,
    LabelPixels,
    MetricSetup,
    ScoreMap,
    paint_truth,
)
from weakloc.metrics.max_box import SIDE, normalize_map
from weakloc.metrics.result import MetricResult
from weakloc.metrics.uncertainty import ImageDraw, ResampledSums, mean_of_defined, measured, ratio
from weakloc.rle import decode_mask
from weakloc.structures import ABSENT, PRESENT, Prediction


def paint_masks(
    prediction: Prediction, classes: ClassIndex, *, allowed: Iterable[int] | None = None
) -> LabelPixels:
    """Each pixel gets the class of the best-scored mask over it; of equal ones the first."""
    labels = np.zeros((prediction.height, prediction.width), dtype=np.uint8)
    known = range(len(classes)) if allowed is None else set(allowed)
    best_first = sorted(prediction.masks, key=lambda mask: -mask.score)
    for mask in reversed(best_first):
        c = classes.index_of(mask.class_name, image=prediction.image)
        if c in known:
            labels[decode_mask(mask.rle)] = 1 + c
    return labels


def drawn_pixels(truth: ImageTruth, class_index: int) -> LabelPixels | None:
    """1 on the class, VOID where it cannot be told, 0 elsewhere.

    Of the label image where there is one; else of the objects of the class, void on its crowds
    beyond them, and None without them.
    """
    drawn = truth.sample.drawn
    if drawn.segmentation_path is None:
        mine = [mask for mask in drawn.masks if mask.class_index == class_index]
        return paint_truth([replace(mask, class_index=0) for mask in mine])
    labels = truth.labels
    return np.where(labels == VOID, VOID, labels == 1 + class_index).astype(np.uint8)


Knowing: TypeAlias = Literal["nothing", "tags"]


class MeanIoU:
    """IoU of background and classes over all pixels of the set, and its mean.

    A class that is neither drawn nor predicted anywhere is left out. Knowing the tags, masks of
    other classes become background: an easier task, with a name of its own.
    """

    def __init__(self, setup: MetricSetup, *, knowing: Knowing = "nothing") -> None:
        classes = setup.classes
        if len(classes) + 1 > VOID:
            raise ValueError(f"label arrays hold at most {VOID - 1} classes, not {len(classes)}")
        self.classes = classes
        self.knowing = knowing
        self.names = ("background", *classes.names)
        self._sums = ResampledSums(3 * len(self.names))

    def update(self, case: Case) -> None:
        """The predicted masks against the drawn labels; an image without them is left out."""
        truth = case.truth.labels
        if truth is None:
            if (case.tags != ABSENT).any():
                return
            truth = np.zeros((case.prediction.height, case.prediction.width), dtype=np.uint8)
        allowed = None
        if self.knowing == "tags":
            allowed = np.flatnonzero(case.tags == PRESENT).tolist()
        self.add(case.draw, paint_masks(case.prediction, self.classes, allowed=allowed), truth)

    def add(self, draw: ImageDraw, predicted: LabelPixels, truth: LabelPixels) -> None:
        if predicted.shape != truth.shape:
            raise PredictionsError(
                f"the prediction is {predicted.shape[1]} x {predicted.shape[0]}, the drawn "
                f"labels are {truth.shape[1]} x {truth.shape[0]}",
                location=draw.image,
            )
        confusion = confusion_of(predicted, truth, len(self.names))
        parts = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
        self._sums.add(draw, np.concatenate(parts))

    def compute(self) -> tuple[MetricResult, ...]:
        total = self._sums.total
        right, _, drawn = np.split(total, 3)
        result = measured(
            "mean_iou" if self.knowing == "nothing" else "mean_iou_tags_given",
            self._sums.evaluate(lambda sums: mean_of_defined(_ious(sums))),
            self._sums,
            convention=f"all pixels of the set, with background, knowing {self.knowing}",
            lacking="no pixel is counted",
            per_class=dict(zip(self.names, _ious(total).tolist(), strict=True)),
            details={"pixel_accuracy": float(right.sum() / drawn.sum()) if drawn.any() else None},
        )
        return (result,)


def confusion_of(predicted: LabelPixels, truth: LabelPixels, num_labels: int) -> IntArray:
    """Counts of (drawn, predicted) pairs; void pixels are left out."""
    is_counted = truth != VOID
    pairs = truth[is_counted].astype(np.int64) * num_labels + predicted[is_counted]
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def _ious(sums: FloatArray) -> FloatArray:
    shared, predicted, drawn = np.split(sums, 3, axis=-1)
    return ratio(shared, predicted + drawn - shared)


# Bins of scores in [0, 1), one for exactly 1, and an empty one.
EDGES = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])


class PixelPrecision:
    """Sums two histograms of scores, of object pixels and of others; memory is their length.

    Each map is normalised to [0, 1] by itself. Large objects weigh more than small ones.
    """

    def __init__(self) -> None:
        self._sums = ResampledSums(2 * (EDGES.size - 1))

    def update(self, case: Case) -> None:
        """Compares at 224 x 224; leaves out classes of which no mask is drawn."""
        for class_map, draw in zip(case.maps, case.map_draws, strict=True):
            drawn = drawn_pixels(case.truth, class_map.class_index)
            if drawn is not None and (drawn == 1).any():
                pixels = drawn[nearest_cells(drawn.shape, (SIDE, SIDE))]
                self.add(draw, class_map.scores, pixels)

    def add(self, draw: ImageDraw, score_map: ScoreMap, truth: LabelPixels) -> None:
        """A map and its mask of the same shape: 1 object, 0 background, 255 not counted."""
        normalized = normalize_map(score_map, image=draw.image)
        self._sums.add(draw, count_pixels(normalized, truth))

    def compute(self) -> tuple[MetricResult, ...]:
        others, objects = np.split(self._sums.total, 2)
        result = measured(
            "px_ap",
            # Of others first, then of objects.
            self._sums.evaluate(lambda sums: grouped_precisions(*np.split(sums, 2, axis=-1)[::-1])),
            self._sums,
            convention=f"all pixels, {EDGES.size - 3} thresholds, each map from 0 to 1",
            lacking="no pixel belongs to an object",
            per_class={},
            details={"num_object_pixels": int(objects.sum()), "num_others": int(others.sum())},
        )
        return (result,)


def count_pixels(normalized_map: ScoreMap, truth: LabelPixels) -> IntArray:
    """Histograms (2, bins) of the scores of pixels that are 0 and 1, exactly numpy.histogram's."""
    scores = np.ascontiguousarray(normalized_map).ravel()
    pixels = np.ascontiguousarray(truth).ravel()
    return np.asarray(_count_pixels(scores, pixels, EDGES, 1.0 / EDGES[1]))


@njit(cache=True, nogil=True)
def _count_pixels(
    scores: NDArray[np.floating[Any]], pixels: NDArray[np.uint8], edges: FloatArray, per_unit: float
) -> IntArray:
    counts = np.zeros((2, edges.size - 1), dtype=np.int64)
    for n in range(scores.size):
        if pixels[n] == VOID or not edges[0] <= scores[n] < edges[-1]:
            continue
        k = int(scores[n] * per_unit)  # off by one at most
        while scores[n] < edges[k]:
            k -= 1
        while scores[n] >= edges[k + 1]:
            k += 1
        counts[int(pixels[n] == 1), k] += 1
    return counts
