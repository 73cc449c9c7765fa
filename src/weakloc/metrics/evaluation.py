"""Cases in; every metric that they support, with baselines beside it, out.

evaluation = Evaluation(setup, truth=truth_kinds(samples), predicted=predicted_kinds(predictions))
for sample, prediction in pair_predictions(predictions, samples, setup.classes):
    evaluation.update(setup.case(sample, prediction))
results = evaluation.results(hidden_supervision=0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, TypeAlias

import numpy as np

from weakloc.extensions import Choices
from weakloc.metrics.baselines import BASELINES, baseline_case
from weakloc.metrics.boxes import BoxPrecision, CocoPrecision
from weakloc.metrics.case import Case, MetricSetup
from weakloc.metrics.hits import (
    LOCALIZATION,
    accuracy,
    corloc,
    image_corloc,
    instance_recall,
    pointing_accuracy,
    single_object_localization,
)
from weakloc.metrics.image_rankings import (
    TOLERANCES,
    ClassificationPrecision,
    PointConvention,
    PointPrecision,
)
from weakloc.metrics.max_box import READINGS, MapConvention, MaxBoxAccuracy
from weakloc.metrics.pixels import MeanIoU, PixelPrecision
from weakloc.metrics.result import MetricResult
from weakloc.metrics.uncertainty import Difference, paired_difference
from weakloc.structures import PRESENT, Prediction, Sample

TruthKind: TypeAlias = Literal["tags", "one tag", "boxes", "masks"]
PredictedKind: TypeAlias = Literal["scores", "points", "boxes", "masks", "maps"]

_MISSING_TRUTH: Mapping[TruthKind, str] = {
    "tags": "the data set has no tags",
    "one tag": "some images have several tags, or none",
    "boxes": "no boxes are drawn in this data set",
    "masks": "no masks are drawn in this data set",
}


class Accumulator(Protocol):
    """What one metric keeps of all cases; its results count the boxes that it tuned itself by."""

    def update(self, case: Case) -> None: ...

    def compute(self) -> tuple[MetricResult, ...]: ...


@dataclass(frozen=True)
class Metric:
    """A line of the catalogue; `headlines` are the names of the numbers it yields by default."""

    headlines: tuple[str, ...]
    truth: Set[TruthKind]
    predicted: Set[PredictedKind]
    make: Callable[[MetricSetup], Accumulator]

    def unavailable(
        self, truth: Iterable[TruthKind], predicted: Iterable[PredictedKind]
    ) -> str | None:
        """Why it cannot be computed, or None."""
        reasons = [_MISSING_TRUTH[kind] for kind in sorted(self.truth - set(truth))]
        reasons += [
            f"the predictions hold no {kind}" for kind in sorted(self.predicted - set(predicted))
        ]
        return "; ".join(reasons) or None


def max_box_metric(reading: MapConvention) -> Metric:
    return Metric((reading.name,), {"boxes"}, {"maps"}, lambda _: MaxBoxAccuracy(reading))


def _point_metric(points: PointConvention, predicted: Set[PredictedKind]) -> Metric:
    return Metric((points.name,), {"boxes"}, predicted, partial(PointPrecision, points=points))


_BUILT_IN: Mapping[str, Metric] = {
    "classification": Metric(
        ("classification_map",), {"tags"}, {"scores"}, ClassificationPrecision
    ),
    "accuracy": Metric(
        ("top_1_accuracy", "top_5_accuracy", "mean_class_accuracy"),
        {"one tag"},
        {"scores"},
        accuracy,
    ),
    "points": _point_metric(PointConvention(), {"points", "scores"}),
    "points_18px": _point_metric(PointConvention(TOLERANCES["oquab"]), {"points", "scores"}),
    "points_by_heat": _point_metric(PointConvention(rank_by="heat"), {"points"}),
    "pointing": Metric(("pointing_accuracy",), {"boxes"}, {"points"}, pointing_accuracy),
    "boxes": Metric(("box_map_50",), {"boxes"}, {"boxes"}, BoxPrecision),
    "coco": Metric(
        ("coco_ap", "coco_ap_50", "coco_ap_75", "coco_ar"), {"boxes"}, {"boxes"}, CocoPrecision
    ),
    "corloc": Metric(("corloc",), {"boxes"}, {"boxes"}, corloc),
    "image_corloc": Metric(("image_corloc",), {"boxes"}, {"boxes"}, image_corloc),
    "recall": Metric(
        ("instance_recall", "multi_instance_recall"), {"boxes"}, {"boxes"}, instance_recall
    ),
    "single_object": Metric(
        tuple(LOCALIZATION), {"boxes", "one tag"}, {"boxes", "scores"}, single_object_localization
    ),
    "segmentation": Metric(("mean_iou",), {"masks"}, {"masks"}, MeanIoU),
    "segmentation_tags_given": Metric(
        ("mean_iou_tags_given",), {"masks", "tags"}, {"masks"}, partial(MeanIoU, knowing="tags")
    ),
    # Of whole score maps, which predictions do not hold: for runs, not for files.
    **{reading.name: max_box_metric(reading) for reading in READINGS},
    "pixels": Metric(("px_ap",), {"masks"}, {"maps"}, lambda _: PixelPrecision()),
}
METRICS: Mapping[str, Metric] = Choices("metrics", _BUILT_IN)


def truth_kinds(samples: Iterable[Sample]) -> frozenset[TruthKind]:
    """What the samples' truth can answer."""
    samples = list(samples)
    num_tags = [np.count_nonzero(sample.labels == PRESENT) for sample in samples]
    drawn = [sample.drawn for sample in samples]
    holds: dict[TruthKind, bool] = {
        "tags": any(num_tags),
        "one tag": set(num_tags) == {1},
        "boxes": any(truth.boxes for truth in drawn),
        "masks": any(truth.masks or truth.segmentation_path for truth in drawn),
    }
    return frozenset(kind for kind, is_there in holds.items() if is_there)


def predicted_kinds(predictions: Sequence[Prediction]) -> frozenset[PredictedKind]:
    """What at least one of the predictions holds."""
    kinds: tuple[PredictedKind, ...] = ("scores", "points", "boxes", "masks")
    return frozenset(
        kind for kind in kinds if any(getattr(prediction, kind) for prediction in predictions)
    )


class Evaluation:
    """All accumulators of one run and of its baselines; why numbers are `unavailable`."""

    def __init__(
        self,
        setup: MetricSetup,
        *,
        truth: Iterable[TruthKind],
        predicted: Iterable[PredictedKind],
        metrics: Sequence[str],
    ) -> None:
        self.setup = setup
        truth, predicted = frozenset(truth), frozenset(predicted)
        reasons = {name: METRICS[name].unavailable(truth, predicted) for name in metrics}
        self._metrics = [METRICS[name] for name, reason in reasons.items() if reason is None]
        self.unavailable: Mapping[str, str] = {
            headline: reason
            for name, reason in reasons.items()
            if reason is not None
            for headline in METRICS[name].headlines
        }
        self._of_run = [metric.make(setup) for metric in self._metrics]
        # Chance answers for scores, the other baselines for places. Equal scores are one group, so
        # that the average precision of chance is the frequency of the class.
        grouped = replace(setup, ranking=replace(setup.ranking, ties="grouped"))
        self._of_baselines = {
            name: [
                metric.make(grouped if name == "chance" else setup)
                for metric in self._metrics
                if (metric.predicted == {"scores"}) == (name == "chance")
            ]
            for name in BASELINES
        }

    def update(self, case: Case) -> None:
        for accumulator in self._of_run:
            accumulator.update(case)
        for name, accumulators in self._of_baselines.items():
            if accumulators:
                trivial = baseline_case(name, case)
                for accumulator in accumulators:
                    accumulator.update(trivial)

    def results(
        self, *, hidden_supervision: int = 0, in_training: int = 0
    ) -> tuple[MetricResult, ...]:
        """The run's numbers, with the baselines' of the same names.

        `in_training` is the hidden supervision of numbers that no threshold has a part in.
        """
        baselines: dict[str, dict[str, float]] = {}
        for name, accumulators in self._of_baselines.items():
            for accumulator in accumulators:
                for result in accumulator.compute():
                    if result.value is not None:
                        baselines.setdefault(result.name, {})[name] = result.value
        return tuple(
            replace(
                result,
                baselines=baselines.get(result.name, {}),
                hidden_supervision=result.hidden_supervision
                + (in_training if metric.predicted == {"maps"} else hidden_supervision),
            )
            for metric, accumulator in zip(self._metrics, self._of_run, strict=True)
            for result in accumulator.compute()
        )


def compare_results(
    first: Iterable[MetricResult], second: Iterable[MetricResult]
) -> tuple[Difference, ...]:
    """First minus second for every number that both have, resampled in pairs."""
    others = {result.name: result for result in second if result.value is not None}
    return tuple(
        paired_difference(result, others[result.name])
        for result in first
        if result.value is not None and result.name in others
    )


def reading_differences(results: Sequence[MetricResult]) -> dict[str, float]:
    """Compatible minus clean reading, for each number that was measured both ways."""
    values = {result.name: result.value for result in results if result.value is not None}
    pairs = {name: f"{name}_compatible" for name in values}
    return {name: values[pair] - values[name] for name, pair in pairs.items() if pair in values}
