"""Class scores and tags in; average precision and accuracies out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weakloc.metrics.arrays import ClassIndex, ImageRecords, class_scores, place_of, single_label
from weakloc.metrics.average_precision import (
    DEFAULT_RANKING,
    RankedClasses,
    RankingConvention,
    mean_average_precision,
    rank,
)
from weakloc.metrics.uncertainty import (
    DEFAULT_RESAMPLING,
    ClassShares,
    MetricResult,
    Resampling,
)
from weakloc.structures import PRESENT, Prediction, Sample


class ClassificationPrecision:
    """Average precision of every class's ranking of the images; unknown tags are skipped."""

    def __init__(
        self, classes: ClassIndex, convention: RankingConvention = DEFAULT_RANKING
    ) -> None:
        self.classes = classes
        self.convention = convention
        self._rows: ImageRecords[tuple[NDArray[np.float64], NDArray[np.int8]]] = ImageRecords()

    def update(self, sample: Sample, prediction: Prediction) -> None:
        row = (class_scores(prediction, self.classes), np.asarray(sample.labels, dtype=np.int8))
        self._rows.add(sample.name, row)

    def merge(self, other: ClassificationPrecision) -> None:
        self._rows.merge(other._rows)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        names, rows = self._rows.sorted()
        num_classes = len(self.classes)
        scores = np.array([row[0] for row in rows]).reshape(-1, num_classes)
        labels = np.array([row[1] for row in rows], dtype=np.int8).reshape(-1, num_classes)
        ranked = rank_images(scores, labels, names, self.classes, self.convention)
        result = mean_average_precision(
            "classification_map",
            ranked,
            self.convention,
            described="images ranked by class score, unknown tags skipped",
            hidden_supervision=hidden_supervision,
        )
        return (result,)


class Accuracy:
    """Top-1 and top-5 accuracy on images with one tag; equal scores go to the earlier class."""

    def __init__(self, classes: ClassIndex, *, resampling: Resampling = DEFAULT_RESAMPLING) -> None:
        self.classes = classes
        self._top = {
            k: ClassShares(classes, resampling=resampling)
            for k in (1, 5)
            if k == 1 or len(classes) > k  # five guesses among five classes tell nothing
        }

    def update(self, sample: Sample, prediction: Prediction) -> None:
        label = single_label(sample)
        place = place_of(class_scores(prediction, self.classes), label)
        for k, shares in self._top.items():
            shares.add(sample.name, {label: int(place < k)}, {label: 1})

    def merge(self, other: Accuracy) -> None:
        for k, shares in self._top.items():
            shares.merge(other._top[k])

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        overall = tuple(
            shares.result(
                f"top_{k}_accuracy",
                f"true class among the {k} highest scores",
                averaging="trials",
                hidden_supervision=hidden_supervision,
            )
            for k, shares in self._top.items()
        )
        balanced = self._top[1].result(
            "mean_class_accuracy",
            "true class has the highest score",
            averaging="classes",
            hidden_supervision=hidden_supervision,
        )
        return (*overall, balanced)


def rank_images(
    scores: NDArray[np.float64],
    labels: NDArray[np.int8],
    image_names: tuple[str, ...],
    classes: ClassIndex,
    convention: RankingConvention,
) -> RankedClasses:
    """One ranking a class from (images, C) scores and labels, where each image counts once."""
    image = np.arange(len(image_names))
    return RankedClasses(
        rankings=[
            rank(scores[:, c], labels[:, c], ties=convention.ties, image=image)
            for c in range(len(classes))
        ],
        positives=(labels == PRESENT).astype(np.int64),
        image_names=image_names,
        class_names=classes.names,
    )
