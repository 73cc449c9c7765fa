"""The measured cells of a recipe -> rows over the seeds, verdicts, and all of it as JSON."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import stats

from weakloc.errors import DataError
from weakloc.files import read_json
from weakloc.methods import METHODS
from weakloc.papers.cells import Measurement
from weakloc.papers.recipe import Finding, Recipe

Verdict: TypeAlias = Literal["holds", "does not hold", "undecided", "not testable here"]
LEAST_SEEDS = 3
LEAST_DIFFERENCE = 0.001  # tables show no less
SCHEMA = "weakloc.reproduction/1"
PACKAGES = ("weakloc", "torch", "torchvision", "timm", "numpy")


@dataclass(frozen=True)
class Judgement:
    """`differences` are better minus worse of every seed that has both; `reason` says why not."""

    finding: Finding
    verdict: Verdict
    differences: tuple[float, ...]
    reason: str = ""

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.differences)) if self.differences else None


def judge_finding(
    finding: Finding, better: Mapping[int, float], worse: Mapping[int, float], reason: str
) -> Judgement:
    """From the values of the two cells by seed; `reason` is why there are none, if so."""
    seeds = sorted(set(better) & set(worse))
    differences = tuple(better[seed] - worse[seed] for seed in seeds)
    if not differences:
        return Judgement(finding, "not testable here", (), reason or "nothing was measured")
    verdict = verdict_of([difference - finding.margin for difference in differences])
    return Judgement(finding, verdict, differences, "one seed" if len(seeds) == 1 else "")


def verdict_of(differences: Sequence[float]) -> Verdict:
    """Of claimed differences that already have the margin taken off."""
    mean = float(np.mean(differences))
    if abs(mean) < LEAST_DIFFERENCE or not _agree(differences, mean):
        return "undecided"
    return "holds" if mean > 0 else "does not hold"


def _agree(differences: Sequence[float], mean: float) -> bool:
    """All of one sign, or a 95 % interval of their mean that excludes zero."""
    count = len(differences)
    if count < 2:
        return False
    if count >= LEAST_SEEDS and all(difference * mean > 0 for difference in differences):
        return True
    half_width = stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / math.sqrt(count)
    return bool(abs(mean) > half_width)


@dataclass(frozen=True)
class CellResult:
    """One cell: the records of its seeds."""

    cell: str
    records: Sequence[Mapping[str, Any]]

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(name for record in self.records for name in record["values"]))

    def by_seed(self, metric: str) -> dict[int, float]:
        return {
            int(record["seed"]): float(record["values"][metric])
            for record in self.records
            if metric in record["values"]
        }

    def mean(self, metric: str) -> float | None:
        values = list(self.by_seed(metric).values())
        return float(np.mean(values)) if values else None

    def deviation(self, metric: str) -> float | None:
        """Of the sample over the seeds; None for fewer than two."""
        values = list(self.by_seed(metric).values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def searched(self) -> Mapping[str, float]:
        """Windows and crops of a search; the same for all seeds up to ties."""
        counts: Mapping[str, float] = self.records[0].get("searched", {})  # not in older records
        return counts

    @property
    def boxes_used(self) -> int:
        """The most drawn boxes that any seed learned from or tuned its thresholds on."""
        tuned = [min(record["boxes_used"].values(), default=0) for record in self.records]
        learned = [int(record["boxes_learned_from"]) for record in self.records]
        return max(tuned) + max(learned)


@dataclass(frozen=True)
class Results:
    """`missing` and `failures` say why cells or seeds have no numbers."""

    recipe: Recipe
    seeds: tuple[int, ...]
    rows: tuple[CellResult, ...]
    judgements: tuple[Judgement, ...]
    missing: Mapping[str, str]
    failures: Mapping[str, str]

    @classmethod
    def collected(
        cls,
        recipe: Recipe,
        seeds: Iterable[int],
        measurements: Sequence[Measurement],
        missing: Mapping[str, str],
        failures: Mapping[str, str],
    ) -> Results:
        records: dict[str, list[dict[str, Any]]] = {}
        for measurement in measurements:
            if measurement.is_done:
                name = measurement.cell.name
                record = read_json(measurement.path, error=DataError) | {"cell": name}
                records.setdefault(name, []).append(record)
        rows = {name: CellResult(name, of_cell) for name, of_cell in records.items()}
        judgements = [_judged(finding, rows, missing) for finding in recipe.findings]
        return cls(recipe, tuple(seeds), tuple(rows.values()), tuple(judgements), missing, failures)

    def best_baseline(self, metric: str) -> tuple[str, float] | None:
        """The best answer that looks at no image; it is the same for all cells."""
        answers = self.rows[0].records[0]["baselines"].get(metric, {})
        return max(answers.items(), key=lambda pair: pair[1], default=None)

    def is_oracle(self, metric: str) -> bool:
        """Whether the truth that is measured with also chose the threshold."""
        record = self.rows[0].records[0]
        least = min(record["boxes_used"].values(), default=0)
        return int(record["boxes_used"].get(metric, 0)) > least

    @property
    def searched(self) -> tuple[str, ...]:
        """What was counted where windows were searched for."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.searched))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the recipe that could be measured, the papers' own definitions beside ours."""
        measured = {metric for row in self.rows for metric in row.metrics}
        methods = dict.fromkeys(cell.method for cell in self.recipe.cells)
        definitions = [METHODS[name].literal().rules.average_precision for name in methods]
        names = (
            name
            for metric in self.recipe.metrics
            for name in (metric, *(f"{metric}_{definition}" for definition in definitions))
        )
        return tuple(name for name in dict.fromkeys(names) if name in measured)

    @property
    def unmeasured(self) -> dict[str, str]:
        reasons = self.rows[0].records[0]["unavailable"]
        return {
            metric: reasons.get(metric, "not measured")
            for metric in self.recipe.metrics
            if metric not in self.metrics
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "recipe": self.recipe.name,
            "number": self.recipe.number,
            "reference": self.recipe.reference,
            "question": self.recipe.question,
            "seeds": list(self.seeds),
            "versions": {name: version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "cells": [
                {
                    "cell": row.cell,
                    "boxes_used": row.boxes_used,
                    "mean": {metric: row.mean(metric) for metric in row.metrics},
                    "deviation": {metric: row.deviation(metric) for metric in row.metrics},
                    "seeds": [dict(record) for record in row.records],
                }
                for row in self.rows
            ],
            "published": [asdict(numbers) for numbers in self.recipe.published],
            "findings": [
                {
                    **asdict(judgement.finding),
                    "verdict": judgement.verdict,
                    "mean_difference": judgement.mean,
                    "differences": list(judgement.differences),
                    "reason": judgement.reason,
                }
                for judgement in self.judgements
            ],
            "not_tested": dict(self.missing),
            "failed": dict(self.failures),
        }


def _judged(
    finding: Finding, rows: Mapping[str, CellResult], missing: Mapping[str, str]
) -> Judgement:
    sides, reasons = [], []
    for cell, metric in (
        (finding.better, finding.metric),
        (finding.worse, finding.worse_metric or finding.metric),
    ):
        values = rows[cell].by_seed(metric) if cell in rows else {}
        sides.append(values)
        if cell not in rows:
            reasons.append(f"{cell}: {missing.get(cell, 'it failed')}")
        elif not values:
            reason = rows[cell].records[0]["unavailable"].get(metric, "not measured")
            reasons.append(f"no {metric}: {reason}")
    return judge_finding(finding, sides[0], sides[1], next(iter(reasons), ""))
