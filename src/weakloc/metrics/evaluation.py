"""Samples and predictions in; every metric that they support, with baselines beside it, out.

evaluation = Evaluation(setup, truth=truth_kinds(samples), said=said_kinds(predictions))
for sample, prediction in pair_predictions(predictions, samples, setup.classes):
    evaluation.update(sample, prediction)
report = evaluation.report(hidden_supervision=0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weakloc.errors import PredictionsError
from weakloc.metrics.baselines import BASELINES, baseline_prediction
from weakloc.metrics.catalogue import (
    METRICS,
    Metric,
    PredictionAccumulator,
    SaidKind,
    Setup,
    TruthKind,
)
from weakloc.metrics.result import MetricResult
from weakloc.metrics.uncertainty import NO_RESAMPLING, Difference, paired_difference
from weakloc.structures import Prediction, Sample

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
