"""Hits and trials per class in; their quotient, per class, over all and with its bootstrap, out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np

from weakloc.geometry import FloatArray
from weakloc.metrics.arrays import ClassIndex
from weakloc.metrics.average_precision import ratio
from weakloc.metrics.result import Detail, MetricResult
from weakloc.metrics.uncertainty import (
    DEFAULT_RESAMPLING,
    ResampledSums,
    Resampling,
    interval_of,
    mean_of_defined,
)

Averaging: TypeAlias = Literal["classes", "trials"]


class ClassShares:
    """Counts hits among trials for every class; a class without a trial is left out."""

    def __init__(self, classes: ClassIndex, *, resampling: Resampling = DEFAULT_RESAMPLING) -> None:
        self.classes = classes
        self._sums = ResampledSums(2 * len(classes), resampling=resampling)

    def add(self, image_name: str, hits: Mapping[int, int], trials: Mapping[int, int]) -> None:
        """Numbers of hits and trials by class index; classes not named have none."""
        counts = np.zeros((2, len(self.classes)))
        for row, numbers in zip(counts, (hits, trials), strict=True):
            for class_index, number in numbers.items():
                row[class_index] = number
        self._sums.add(image_name, counts)

    def merge(self, other: ClassShares) -> None:
        if self.classes.names != other.classes.names:
            raise ValueError("shares of different classes cannot be merged")
        self._sums.merge(other._sums)

    def result(
        self,
        name: str,
        convention: str,
        *,
        averaging: Averaging,
        hidden_supervision: int = 0,
        details: Mapping[str, Detail] | None = None,
    ) -> MetricResult:
        """The mean over classes of their shares, or all hits over all trials."""
        hits, trials = _halves(self._sums.total)
        per_class = ratio(hits, trials)  # (C,)
        tried = ~np.isnan(per_class)
        value = float(_average(hits, trials, averaging)) if tried.any() else None
        replicates = self._sums.evaluate(lambda sums: _average(*_halves(sums), averaging))
        names = self.classes.names
        return MetricResult(
            name=name,
            value=value,
            convention=f"{convention}, mean over {averaging}",
            num_images=self._sums.num_images,
            hidden_supervision=hidden_supervision,
            interval=interval_of(replicates) if tried.any() else None,
            per_class={names[c]: float(per_class[c]) for c in np.flatnonzero(tried)},
            left_out=tuple(names[c] for c in np.flatnonzero(~tried)),
            details={"num_trials": int(trials.sum()), **(details or {})},
            unavailable=None if tried.any() else "there is nothing to find on these images",
            replicates=replicates,
            image_digest=self._sums.image_digest,
        )


def _average(hits: FloatArray, trials: FloatArray, averaging: Averaging) -> FloatArray:
    """Over the last axis."""
    if averaging == "classes":
        return mean_of_defined(ratio(hits, trials))
    return ratio(hits.sum(axis=-1), trials.sum(axis=-1))


def _halves(sums: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Hits and trials, over the last axis."""
    half = sums.shape[-1] // 2
    return sums[..., :half], sums[..., half:]
