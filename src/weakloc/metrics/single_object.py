"""Boxes of images with one tag in; GT-known, Top-1 and Top-5 localisation out.

GT-known takes the box of the true class. Top-1 and Top-5 ask that the true class be among the
best guesses and that its own box hits; where the guess is right its box is the true class's box,
so that the published variants "box of the predicted class" and "box of the true class" agree.
They part where a method draws one box only, that of its first guess: `top_5_loc_first_box`.
"""

from __future__ import annotations

from typing import NamedTuple

from weakloc.metrics.arrays import (
    ClassIndex,
    class_scores,
    detection_arrays,
    single_label,
    truth_arrays,
)
from weakloc.metrics.box_matching import DEFAULT_OVERLAP, OverlapConvention
from weakloc.metrics.classification import place_of
from weakloc.metrics.corloc import best_box_hits
from weakloc.metrics.result import MetricResult
from weakloc.metrics.shares import ClassShares
from weakloc.metrics.uncertainty import DEFAULT_RESAMPLING, Resampling
from weakloc.structures import Prediction, Sample


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
