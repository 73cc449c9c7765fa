"""Predicted and drawn boxes in; Pascal VOC's average precision at any IoU, and recall, out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from weakloc.geometry import IntArray
from weakloc.metrics.arrays import ClassIndex, detection_arrays, truth_arrays
from weakloc.metrics.average_precision import Ranking, Ties, rank_sorted
from weakloc.metrics.box_matching import (
    DEFAULT_OVERLAP,
    FlatDetections,
    FlatTruth,
    ImageBoxes,
    OverlapConvention,
    flatten,
    match_boxes,
)
from weakloc.metrics.ranking import (
    DEFAULT_RANKING,
    RankedClasses,
    RankingConvention,
    mean_average_precision,
)
from weakloc.metrics.records import ImageRecords
from weakloc.metrics.result import MetricResult
from weakloc.metrics.shares import ClassShares
from weakloc.metrics.uncertainty import DEFAULT_RESAMPLING, Resampling
from weakloc.structures import ABSENT, Prediction, Sample


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

    def update(self, sample: Sample, prediction: Prediction) -> None:
        self._records.add(sample.name, image_boxes(sample, prediction, self.classes))

    def merge(self, other: BoxPrecision) -> None:
        self._records.merge(other._records)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        names, records = self._records.sorted()
        detections, truth = flatten(records)
        num_classes = len(self.classes)
        ranked = RankedClasses(
            rankings=rank_detections(
                detections, truth, num_classes, overlap=self.overlap, ties=self.convention.ties
            ),
            positives=count_objects(truth, num_images=len(names), num_classes=num_classes),
            image_names=names,
            class_names=self.classes.names,
        )
        result = mean_average_precision(
            f"box_map_{round(100 * self.overlap.iou)}",
            ranked,
            self.convention,
            described=str(self.overlap),
            hidden_supervision=hidden_supervision,
            details={
                "num_detections": len(detections.scores),
                "num_objects": int((~truth.ignored).sum()),
            },
        )
        return (result,)


class InstanceRecall:
    """The share of drawn objects that some box of their class finds, one box an object.

    The second number counts only images that hold several objects of the class, where a method
    that outlines one region per class must miss some.
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
        self._all = ClassShares(classes, resampling=resampling)
        self._several = ClassShares(classes, resampling=resampling)

    def update(self, sample: Sample, prediction: Prediction) -> None:
        detections, truth = flatten([image_boxes(sample, prediction, self.classes)])
        found = match_boxes(detections, truth, self.overlap).found
        num_classes = len(self.classes)
        objects = truth.placed.classes
        hits = np.bincount(objects[found[found >= 0]], minlength=num_classes)
        trials = np.bincount(objects[~truth.ignored], minlength=num_classes)
        self._all.add(sample.name, *_by_class(hits, trials, at_least=1))
        self._several.add(sample.name, *_by_class(hits, trials, at_least=2))

    def merge(self, other: InstanceRecall) -> None:
        self._all.merge(other._all)
        self._several.merge(other._several)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        return tuple(
            shares.result(
                name,
                f"{self.overlap}, {which}",
                averaging="trials",
                hidden_supervision=hidden_supervision,
            )
            for name, which, shares in (
                ("instance_recall", "all objects", self._all),
                ("multi_instance_recall", "images with several of the class", self._several),
            )
        )


def image_boxes(sample: Sample, prediction: Prediction, classes: ClassIndex) -> ImageBoxes:
    detections = detection_arrays(prediction, classes)
    truth = truth_arrays(sample)
    is_drawn = np.isin(detections.classes, truth.classes)
    is_absent = np.asarray(sample.labels)[detections.classes] == ABSENT
    return ImageBoxes(detections, truth, is_drawn | is_absent)


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
    classes = detections.placed.classes[matches.order]
    ends = np.searchsorted(classes, np.arange(num_classes + 1))
    return [
        rank_sorted(
            detections.scores[matches.order[start:end]],
            matches.verdicts[start:end],
            ties=ties,
            image=detections.placed.images[matches.order[start:end]],
        )
        for start, end in itertools.pairwise(ends)
    ]


def count_objects(truth: FlatTruth, *, num_images: int, num_classes: int) -> IntArray:
    """Objects to be found: (images, C)."""
    counts = np.zeros((num_images, num_classes), dtype=np.int64)
    certain = ~truth.ignored
    np.add.at(counts, (truth.placed.images[certain], truth.placed.classes[certain]), 1)
    return counts


def _by_class(
    hits: Sequence[int] | IntArray, trials: Sequence[int] | IntArray, *, at_least: int
) -> tuple[dict[int, int], dict[int, int]]:
    several = {c: int(number) for c, number in enumerate(trials) if number >= at_least}
    return {c: int(hits[c]) for c in several}, several
