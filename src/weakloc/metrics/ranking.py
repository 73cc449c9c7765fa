"""Rankings of all classes in; the per-class and mean average precision with its bootstrap out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.metrics.average_precision import Definition, Ranking, Ties, ranked_precision
from weakloc.metrics.result import Detail, MetricResult
from weakloc.metrics.uncertainty import (
    NUM_REPLICATES,
    digest,
    interval_of,
    mean_of_defined,
    resample_weights,
)

_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class RankingConvention:
    """How a ranking becomes a number, and how its uncertainty is drawn."""

    definition: Definition = "voc12"
    ties: Ties = "stable"
    num_replicates: int = NUM_REPLICATES
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.definition}, {self.ties} ties"


DEFAULT_RANKING = RankingConvention()


@dataclass(frozen=True)
class RankedClasses:
    """One ranking a class over the same images, and the positives each image holds."""

    rankings: Sequence[Ranking]  # C
    positives: NDArray[np.int64]  # (images, C)
    image_names: Sequence[str]
    class_names: Sequence[str]


def mean_average_precision(
    name: str,
    ranked: RankedClasses,
    convention: RankingConvention,
    *,
    described: str,
    hidden_supervision: int = 0,
    details: Mapping[str, Detail] | None = None,
) -> MetricResult:
    """Mean over the classes that have a positive; the others are left out and listed."""
    precisions = _per_class(ranked, convention, None)[:, 0]  # (C,)
    defined = ~np.isnan(precisions)
    names = ranked.class_names
    replicates = np.empty(0)
    if convention.num_replicates and defined.any():
        weights = resample_weights(
            ranked.image_names, num_replicates=convention.num_replicates, seed=convention.seed
        )
        replicates = mean_of_defined(_per_class(ranked, convention, weights).T)
    return MetricResult(
        name=name,
        value=float(precisions[defined].mean()) if defined.any() else None,
        convention=f"{described}; {convention}",
        num_images=len(ranked.image_names),
        hidden_supervision=hidden_supervision,
        interval=interval_of(replicates),
        per_class={names[c]: float(precisions[c]) for c in np.flatnonzero(defined).tolist()},
        left_out=tuple(names[c] for c in np.flatnonzero(~defined).tolist()),
        details=dict(details or {}),
        unavailable=None if defined.any() else "no class has a positive",
        replicates=replicates,
        image_digest=digest(ranked.image_names),
    )


def _per_class(
    ranked: RankedClasses, convention: RankingConvention, weights: NDArray[np.uint8] | None
) -> NDArray[np.float64]:
    """(C, replicates)"""
    if weights is None:
        weights = np.ones((len(ranked.image_names), 1), dtype=np.uint8)
    positives = _weighted_positives(ranked.positives, weights)
    return np.stack(
        [
            ranked_precision(
                ranking, positives[c], definition=convention.definition, weights=weights
            )
            for c, ranking in enumerate(ranked.rankings)
        ]
    )


def _weighted_positives(
    positives: NDArray[np.int64], weights: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """(C, replicates), by blocks of images: the weights as floats would not fit."""
    total = np.zeros((positives.shape[1], weights.shape[1]))
    for start in range(0, len(weights), _BLOCK):
        block = slice(start, start + _BLOCK)
        total += positives[block].T.astype(np.float64) @ weights[block].astype(np.float64)
    return total
