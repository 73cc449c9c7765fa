"""Samples and predictions in; every metric that they support, with baselines beside it, out.

evaluation = Evaluation(setup, truth=truth_kinds(samples), said=said_kinds(predictions))
for sample, prediction in pair_predictions(predictions, samples, setup.classes):
    evaluation.update(sample, prediction)
report = evaluation.report(hidden_supervision=0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np

from weakloc.errors import PredictionsError
from weakloc.extensions import Choices
from weakloc.metrics.arrays import ClassIndex
from weakloc.metrics.average_precision import RankingConvention
from weakloc.metrics.baselines import BASELINES, baseline_prediction
from weakloc.metrics.boxes import BoxPrecision, CocoPrecision, InstanceRecall
from weakloc.metrics.classification import Accuracy, ClassificationPrecision
from weakloc.metrics.hits import CorLoc, ImageCorLoc, SingleObjectLocalization
from weakloc.metrics.max_box import MAX_BOX_ACC, MAX_BOX_ACC_V2, MapConvention
from weakloc.metrics.pixels import MeanIoU
from weakloc.metrics.points import TOLERANCES, PointConvention, PointingAccuracy, PointPrecision
from weakloc.metrics.uncertainty import (
    NO_RESAMPLING,
    Difference,
    MetricResult,
    Resampling,
    paired_difference,
)
from weakloc.structures import PRESENT, Prediction, Sample

TruthKind: TypeAlias = Literal["tags", "one tag", "boxes", "masks"]
SaidKind: TypeAlias = Literal["scores", "points", "boxes", "masks"]

_MISSING_TRUTH: Mapping[TruthKind, str] = {
    "tags": "the data set has no tags",
    "one tag": "some images have several tags, or none",
    "boxes": "no boxes are drawn in this data set",
    "masks": "no masks are drawn in this data set",
}


@dataclass(frozen=True)
class Setup:
    """What every accumulator is made from."""

    classes: ClassIndex
    ranking: RankingConvention = field(default_factory=RankingConvention)
    segmentation_values: Mapping[int, int] = field(default_factory=dict)

    @property
    def resampling(self) -> Resampling:
        return self.ranking.resampling


class PredictionAccumulator(Protocol):
    """An accumulator that is fed with samples and their predictions."""

    def update(self, sample: Sample, prediction: Prediction) -> None: ...

    def merge(self, other: Self) -> None: ...

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]: ...


@dataclass(frozen=True)
class Metric:
    """A line of the catalogue; `headlines` are the names of the numbers it yields."""

    description: str
    headlines: tuple[str, ...]
    truth: frozenset[TruthKind]
    said: frozenset[SaidKind]
    make: Callable[[Setup], PredictionAccumulator]

    def unavailable(self, truth: Iterable[TruthKind], said: Iterable[SaidKind]) -> str | None:
        """Why it cannot be computed, or None."""
        reasons = [_MISSING_TRUTH[kind] for kind in sorted(self.truth - set(truth))]
        reasons += [f"the predictions hold no {kind}" for kind in sorted(self.said - set(said))]
        return "; ".join(reasons) or None


def _metric(
    description: str,
    headlines: tuple[str, ...],
    truth: set[TruthKind],
    said: set[SaidKind],
    make: Callable[[Setup], PredictionAccumulator],
) -> Metric:
    return Metric(description, headlines, frozenset(truth), frozenset(said), make)


_BUILT_IN: Mapping[str, Metric] = {
    "classification": _metric(
        "mean average precision of the class scores",
        ("classification_map",),
        {"tags"},
        {"scores"},
        lambda setup: ClassificationPrecision(setup.classes, setup.ranking),
    ),
    "accuracy": _metric(
        "how often the best-scored class, or one of five, is the true one",
        ("top_1_accuracy", "top_5_accuracy", "mean_class_accuracy"),
        {"one tag"},
        {"scores"},
        lambda setup: Accuracy(setup.classes, resampling=setup.resampling),
    ),
    "points": _metric(
        "average precision of points inside objects, images ranked by class score",
        ("point_map",),
        {"boxes"},
        {"points", "scores"},
        lambda setup: PointPrecision(setup.classes, convention=setup.ranking),
    ),
    "points_18px": _metric(
        "the same with the 18 pixels of tolerance of Oquab et al.",
        ("point_map_18px",),
        {"boxes"},
        {"points", "scores"},
        lambda setup: PointPrecision(
            setup.classes, PointConvention(TOLERANCES["oquab"]), setup.ranking
        ),
    ),
    "points_by_heat": _metric(
        "average precision of points inside objects, ranked by the heat at the points",
        ("point_map_by_heat",),
        {"boxes"},
        {"points"},
        lambda setup: PointPrecision(setup.classes, PointConvention(rank_by="heat"), setup.ranking),
    ),
    "pointing": _metric(
        "the pointing game: points of the classes that are there, 15 pixels of tolerance",
        ("pointing_accuracy",),
        {"boxes"},
        {"points"},
        lambda setup: PointingAccuracy(setup.classes, resampling=setup.resampling),
    ),
    "boxes": _metric(
        "Pascal VOC's average precision of boxes at IoU 0.5",
        ("box_map_50",),
        {"boxes"},
        {"boxes"},
        lambda setup: BoxPrecision(setup.classes, convention=setup.ranking),
    ),
    "coco": _metric(
        "COCO's average precision and recall of boxes",
        ("coco_ap", "coco_ap_50", "coco_ap_75", "coco_ar"),
        {"boxes"},
        {"boxes"},
        lambda setup: CocoPrecision(setup.classes, resampling=setup.resampling),
    ),
    "corloc": _metric(
        "how often the best box of a class that is there overlaps an object",
        ("corloc",),
        {"boxes"},
        {"boxes"},
        lambda setup: CorLoc(setup.classes, resampling=setup.resampling),
    ),
    "image_corloc": _metric(
        "how often the best box of an image overlaps any object, whatever the class",
        ("image_corloc",),
        {"boxes"},
        {"boxes"},
        lambda setup: ImageCorLoc(setup.classes, resampling=setup.resampling),
    ),
    "recall": _metric(
        "the share of objects found, and that on images with several of a class",
        ("instance_recall", "multi_instance_recall"),
        {"boxes"},
        {"boxes"},
        lambda setup: InstanceRecall(setup.classes, resampling=setup.resampling),
    ),
    "single_object": _metric(
        "GT-known, Top-1 and Top-5 localisation",
        ("gt_known_loc", "top_1_loc", "top_5_loc", "top_5_loc_first_box", "first_box_loc"),
        {"boxes", "one tag"},
        {"boxes", "scores"},
        lambda setup: SingleObjectLocalization(setup.classes, resampling=setup.resampling),
    ),
    "segmentation": _metric(
        "mean IoU of masks over all pixels, background included",
        ("mean_iou",),
        {"masks"},
        {"masks"},
        lambda setup: MeanIoU(
            setup.classes,
            segmentation_values=setup.segmentation_values,
            resampling=setup.resampling,
        ),
    ),
    "segmentation_tags_given": _metric(
        "the same when masks of classes that are not tagged are dropped",
        ("mean_iou_tags_given",),
        {"masks", "tags"},
        {"masks"},
        lambda setup: MeanIoU(
            setup.classes,
            knowing="tags",
            segmentation_values=setup.segmentation_values,
            resampling=setup.resampling,
        ),
    ),
}
METRICS: Mapping[str, Metric] = Choices("metrics", _BUILT_IN)

# Metrics of whole score maps, which predictions do not hold: for runs, not for files.
MAP_CONVENTIONS: Mapping[str, MapConvention] = {
    convention.name: convention
    for base in (MAX_BOX_ACC, MAX_BOX_ACC_V2)
    for convention in (
        base,
        replace(base, reading="compatible"),
        replace(base, resolution="original"),
        replace(base, reading="compatible", resolution="original"),
    )
}


def truth_kinds(samples: Iterable[Sample]) -> frozenset[TruthKind]:
    """What the samples' truth can answer."""
    kinds: set[TruthKind] = set()
    have_one_tag, num_samples = True, 0
    for sample in samples:
        num_samples += 1
        num_present = int(np.count_nonzero(sample.labels == PRESENT))
        have_one_tag &= num_present == 1
        if num_present:
            kinds.add("tags")
        if sample.truth is not None and sample.truth.boxes:
            kinds.add("boxes")
        if sample.truth is not None and (sample.truth.masks or sample.truth.segmentation_path):
            kinds.add("masks")
    if have_one_tag and num_samples:
        kinds.add("one tag")
    return frozenset(kinds)


def said_kinds(predictions: Iterable[Prediction]) -> frozenset[SaidKind]:
    """What at least one of the predictions holds."""
    kinds: set[SaidKind] = set()
    for prediction in predictions:
        held: dict[SaidKind, bool] = {
            "scores": bool(prediction.scores),
            "points": bool(prediction.points),
            "boxes": bool(prediction.boxes),
            "masks": bool(prediction.masks),
        }
        kinds |= {kind for kind, is_held in held.items() if is_held}
    return frozenset(kinds)


SCHEMA = "weakloc.metrics/1"
_RUN = "run"


@dataclass(frozen=True)
class Report:
    """The run's numbers, the baselines' of the same names, and why others are missing."""

    results: tuple[MetricResult, ...]
    baselines: Mapping[str, Mapping[str, float]]  # number -> baseline -> value
    unavailable: Mapping[str, str]  # number -> reason

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "metrics": [
                {**result.to_json(), "baselines": dict(self.baselines.get(result.name, {}))}
                for result in self.results
            ],
            "unavailable": dict(self.unavailable),
        }


class Evaluation:
    """All accumulators of one run and of its baselines; mergeable as they are."""

    def __init__(
        self,
        setup: Setup,
        *,
        truth: Iterable[TruthKind],
        said: Iterable[SaidKind],
        metrics: Sequence[str] = tuple(METRICS),
        baselines: Sequence[str] = BASELINES,
    ) -> None:
        self.setup = setup
        truth, said = frozenset(truth), frozenset(said)
        reasons = {name: METRICS[name].unavailable(truth, said) for name in metrics}
        usable = {name: METRICS[name] for name, reason in reasons.items() if reason is None}
        self._unavailable = {
            headline: reason
            for name, reason in reasons.items()
            if reason is not None
            for headline in METRICS[name].headlines
        }
        self._of: dict[str, dict[str, PredictionAccumulator]] = {
            _RUN: {name: metric.make(setup) for name, metric in usable.items()}
        }
        for baseline in baselines:
            self._of[baseline] = _baseline_accumulators(baseline, usable, setup)

    def update(self, sample: Sample, prediction: Prediction) -> None:
        for name, accumulators in self._of.items():
            said = prediction
            if name != _RUN:
                if not accumulators:
                    continue
                said = baseline_prediction(name, prediction, seed=self.setup.resampling.seed)
            for accumulator in accumulators.values():
                accumulator.update(sample, said)

    def merge(self, other: Evaluation) -> None:
        if {name: set(each) for name, each in self._of.items()} != {
            name: set(each) for name, each in other._of.items()
        }:
            raise PredictionsError("evaluations of different metrics cannot be merged")
        for name, accumulators in self._of.items():
            for metric, accumulator in accumulators.items():
                accumulator.merge(other._of[name][metric])

    def report(self, *, hidden_supervision: int = 0) -> Report:
        results: list[MetricResult] = []
        for accumulator in self._of[_RUN].values():
            results += accumulator.compute(hidden_supervision=hidden_supervision)
        baselines: dict[str, dict[str, float]] = {}
        for name, accumulators in self._of.items():
            for accumulator in accumulators.values() if name != _RUN else ():
                for result in accumulator.compute():
                    if result.value is not None:
                        baselines.setdefault(result.name, {})[name] = result.value
        return Report(tuple(results), baselines, dict(self._unavailable))


def compare_reports(first: Report, second: Report) -> tuple[Difference, ...]:
    """First minus second for every number that both have, resampled in pairs."""
    others = {result.name: result for result in second.results if result.value is not None}
    return tuple(
        paired_difference(result, others[result.name])
        for result in first.results
        if result.value is not None and result.name in others
    )


def _baseline_accumulators(
    baseline: str, metrics: Mapping[str, Metric], setup: Setup
) -> dict[str, PredictionAccumulator]:
    """Chance answers for scores, the other baselines for places; without resamples."""
    plain = replace(setup, ranking=replace(setup.ranking, resampling=NO_RESAMPLING))
    if baseline == "chance":
        # Equal scores as one group: the average precision is the frequency of the class.
        grouped = replace(plain, ranking=replace(plain.ranking, ties="grouped"))
        wanted = {name: each for name, each in metrics.items() if each.said == {"scores"}}
        return {name: metric.make(grouped) for name, metric in wanted.items()}
    wanted = {name: each for name, each in metrics.items() if each.said != {"scores"}}
    return {name: metric.make(plain) for name, metric in wanted.items()}
