"""Does a paper's claim hold here? One rule for all claims, written once.

For every seed the claimed difference is taken: better cell minus worse cell, minus the margin. The
claim "holds" where the mean of these differences is above zero and the seeds agree, "does not hold"
where it is below zero and they agree, and is "undecided" otherwise. The seeds agree where there are
at least three and all differences have the sign of their mean, or where the 95 % t-interval of the
mean excludes zero. One seed never decides, nor does a difference below a tenth of a point. What
could not be measured is "not testable here".

Three seeds agree by chance alone one time in four: a verdict is a reading of the table, no proof.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from weakloc.recipes.recipe import Finding

Verdict: TypeAlias = Literal["holds", "does not hold", "undecided", "not testable here"]
LEAST_SEEDS = 3
LEAST_DIFFERENCE = 0.001  # tables show no less
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; above, 2.23 is enough.
_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


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
    count = len(differences)
    if count < 2:
        return False
    if count >= LEAST_SEEDS and all(difference * mean > 0 for difference in differences):
        return True
    quantile = _T_QUANTILES[min(count - 1, len(_T_QUANTILES)) - 1]
    return abs(mean) > quantile * float(np.std(differences, ddof=1)) / math.sqrt(count)
