"""A function that says of one case what is hit of what could be; rates over all images out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weakloc.geometry import FloatArray, box_ious
from weakloc.metrics.boxes import match_boxes
from weakloc.metrics.case import Case, MetricSetup, OverlapConvention
from weakloc.metrics.image_rankings import TOLERANCES
from weakloc.metrics.result import MetricResult
from weakloc.metrics.uncertainty import ImageDraw, ResampledSums, mean_of_defined, measured, ratio

Averaging: TypeAlias = Literal["classes", "trials"]
# Hits and trials of one image, each (C,) or, where several rates are counted, (rates, C).
HitsAndTrials: TypeAlias = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True, slots=True)
class Rate:
    """A number made of hits and trials: the mean over classes, or all hits over all trials."""

    name: str
    convention: str
    averaging: Averaging


class HitRates:
    """Sums hits and trials of every class; a class without a trial is left out."""

    def __init__(
        self,
        class_names: Sequence[str],
        rates: Sequence[Rate],
        count: Callable[[Case], HitsAndTrials],
    ) -> None:
        self.class_names = tuple(class_names)
        self.rates = rates
        self._count = count
        self._totals = np.zeros((2, len(rates), len(self.class_names)))
        # Over trials the classes count as one: resamples of each would be what fills the memory.
        self._sums = [
            ResampledSums(2 * (len(class_names) if rate.averaging == "classes" else 1))
            for rate in rates
        ]

    def update(self, case: Case) -> None:
        self.add(case.draw, *self._count(case))

    def add(self, draw: ImageDraw, hits: ArrayLike, trials: ArrayLike) -> None:
        counts = np.empty_like(self._totals)
        counts[0], counts[1] = hits, trials
        self._totals += counts
        for rate, sums, of_rate in zip(self.rates, self._sums, counts.swapaxes(0, 1), strict=True):
            sums.add(draw, of_rate if rate.averaging == "classes" else of_rate.sum(axis=-1))

    def compute(self) -> tuple[MetricResult, ...]:
        return tuple(
            measured(
                rate.name,
                sums.evaluate(lambda block: mean_of_defined(ratio(*np.split(block, 2, axis=-1)))),
                sums,
                convention=f"{rate.convention}, mean over {rate.averaging}",
                lacking="there is nothing to find on these images",
                per_class=dict(zip(self.class_names, ratio(hits, trials).tolist(), strict=True)),
                details={"num_trials": int(trials.sum())},
            )
            for rate, sums, hits, trials in zip(self.rates, self._sums, *self._totals, strict=True)
        )


def accuracy(setup: MetricSetup) -> HitRates:
    """Top-1 and top-5 accuracy on images with one tag; equal scores go to the earlier class."""
    classes = setup.classes
    guesses = (1, 5) if len(classes) > 5 else (1,)  # five guesses among five classes tell nothing
    rates = [
        Rate(f"top_{k}_accuracy", f"true class among the {k} highest scores", "trials")
        for k in guesses
    ]
    balanced = Rate("mean_class_accuracy", "true class has the highest score", "classes")

    def count(case: Case) -> HitsAndTrials:
        is_class = _one_hot(case)
        return [(case.rank_of_class < k) * is_class for k in (*guesses, 1)], is_class

    return HitRates(classes.names, [*rates, balanced], count)


def corloc(setup: MetricSetup) -> HitRates:
    """For each class, over the images that hold it: does its best box overlap an object of it?

    Difficult objects count. The mean is over classes.
    """
    classes, overlap = setup.classes, setup.overlap

    def count(case: Case) -> HitsAndTrials:
        is_drawn = _drawn_classes(case)
        hits = np.zeros(len(classes))
        for c in np.flatnonzero(is_drawn).tolist():
            hits[c] = best_box_hits(case, c, case.truth.objects.boxes_of(c), overlap)
        return hits, is_drawn

    rate = Rate(f"corloc{overlap.suffix}", f"{overlap}, best box of each class present", "classes")
    return HitRates(classes.names, [rate], count)


def image_corloc(setup: MetricSetup) -> HitRates:
    """One box an image, whatever its class: does it overlap any object, whatever its class?

    The number of unsupervised object discovery; not comparable with `corloc`.
    """
    overlap = setup.overlap

    def count(case: Case) -> HitsAndTrials:
        objects = case.truth.objects.boxes
        return best_box_hits(case, None, objects, overlap), len(objects) > 0

    meaning = f"{overlap}, best box of the image, classes disregarded"
    return HitRates(["any"], [Rate(f"image_corloc{overlap.suffix}", meaning, "trials")], count)


def instance_recall(setup: MetricSetup) -> HitRates:
    """The share of drawn objects that some box of their class finds, one box an object.

    The second number counts only images that hold several objects of the class, where a method
    that outlines one region per class must miss some.
    """
    classes, overlap = setup.classes, setup.overlap

    def count(case: Case) -> HitsAndTrials:
        truth = case.truth.objects
        objects, reached = truth.classes, match_boxes(case.detections, truth, overlap).objects
        hits = np.bincount(objects[reached[reached >= 0]], minlength=len(classes))
        trials = np.bincount(objects[~truth.ignored], minlength=len(classes))
        is_several = trials >= 2
        return [hits, hits * is_several], [trials, trials * is_several]

    several = f"{overlap}, images with several of the class"
    rates = [
        Rate(f"instance_recall{overlap.suffix}", f"{overlap}, all objects", "trials"),
        Rate(f"multi_instance_recall{overlap.suffix}", several, "trials"),
    ]
    return HitRates(classes.names, rates, count)


LOCALIZATION = {
    "gt_known_loc": "box of the true class",
    "top_1_loc": "true class is the first guess, its box hits",
    "top_5_loc": "true class among five guesses, its own box hits",
    "top_5_loc_first_box": "true class among five guesses, the box of the first guess hits",
    "first_box_loc": "the box of the first guess hits, right or wrong",
}


def single_object_localization(setup: MetricSetup) -> HitRates:
    """The localisation accuracies of images that hold one class."""
    classes, overlap = setup.classes, setup.overlap
    rates = {
        name: Rate(name + overlap.suffix, f"{overlap}, {meaning}", "trials")
        for name, meaning in LOCALIZATION.items()
        if len(classes) > 5 or not name.startswith("top_5")  # five guesses of five tell nothing
    }

    def count(case: Case) -> HitsAndTrials:
        c, rank = case.truth.only_class, case.rank_of_class
        objects = case.truth.objects.boxes_of(c)
        known = best_box_hits(case, c, objects, overlap)
        first = best_box_hits(case, int(case.scores.argmax()), objects, overlap)
        hits = {
            "gt_known_loc": known,
            "top_1_loc": known and rank < 1,
            "top_5_loc": known and rank < 5,
            "top_5_loc_first_box": first and rank < 5,
            "first_box_loc": first,
        }
        is_class = _one_hot(case)
        return [hits[name] * is_class for name in rates], is_class * (len(objects) > 0)

    return HitRates(classes.names, [*rates.values()], count)


def pointing_accuracy(setup: MetricSetup) -> HitRates:
    """The pointing game: for each tag of an image, does the class's point lie in a box of it?

    Knows the tags, needs no ranking, counts difficult objects; not comparable with `point_map`.
    """
    classes, tolerance = setup.classes, TOLERANCES["pointing_game"]

    def count(case: Case) -> HitsAndTrials:
        is_drawn = _drawn_classes(case)
        hits = np.zeros(len(classes))
        for c, point in case.best_points.items():
            left, top, right, bottom = case.truth.objects.boxes_of(c).T
            across = (left - tolerance <= point.x) & (point.x <= right + tolerance)
            down = (top - tolerance <= point.y) & (point.y <= bottom + tolerance)
            hits[c] = (across & down).any()
        return hits, is_drawn

    rate = Rate("pointing_accuracy", f"classes given, tolerance {tolerance:g} px", "classes")
    return HitRates(classes.names, [rate], count)


def best_box_hits(
    case: Case, class_index: int | None, objects: FloatArray, overlap: OverlapConvention
) -> bool:
    """Whether the first of the best boxes of the class, None for any, overlaps an object."""
    detections = case.detections
    of_class = detections.classes == class_index if class_index is not None else slice(None)
    scores, boxes = detections.scores[of_class], detections.boxes[of_class]
    if not len(scores):
        return False
    ious = box_ious(boxes[np.argmax(scores)], objects, inclusive=overlap.is_inclusive)
    return bool((ious >= overlap.iou).any())


def _one_hot(case: Case) -> NDArray[np.bool_]:
    """(C,) true at the only class present."""
    return np.asarray(np.arange(len(case.classes)) == case.truth.only_class)


def _drawn_classes(case: Case) -> NDArray[np.bool_]:
    """(C,) true at the classes of which an object is drawn."""
    return np.asarray(np.isin(np.arange(len(case.classes)), case.truth.objects.classes))
