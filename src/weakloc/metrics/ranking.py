"""Rankings of all classes in; the per-class and mean average precision with its bootstrap out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.metrics.average_precision import Definition, Ranking, Ties, ranked_precision, ratio
from weakloc.metrics.result import Detail, MetricResult
from weakloc.metrics.uncertainty import (
    DEFAULT_RESAMPLING,
    Resampling,
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
    resampling: Resampling = DEFAULT_RESAMPLING

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
    return precision_result(
        name,
        class_precisions(ranked, convention),
        ranked,
        convention=f"{described}; {convention}",
        hidden_supervision=hidden_supervision,
        details=details,
    )


@dataclass(frozen=True)
class ClassPrecisions:
    """Average precision of each class, NaN where it has no positive, and of each resample."""

    values: NDArray[np.float64]  # (C,)
    replicates: NDArray[np.float64]  # (C, B)


def class_precisions(ranked: RankedClasses, convention: RankingConvention) -> ClassPrecisions:
    once = np.ones((len(ranked.image_names), 1), dtype=np.uint8)
    weights = resample_weights(ranked.image_names, resampling=convention.resampling)
    return ClassPrecisions(
        values=_weighted_precisions(ranked, convention, once)[:, 0],
        replicates=_weighted_precisions(ranked, convention, weights),
    )


def class_recalls(ranked: RankedClasses, convention: RankingConvention) -> ClassPrecisions:
    """The share of each class's positives that its whole ranking finds."""
    num_images = len(ranked.image_names)
    found = np.stack(
        [
            np.bincount(ranking.image[ranking.positive], minlength=num_images)
            for ranking in ranked.rankings
        ],
        axis=1,
    )  # (images, C)
    weights = resample_weights(ranked.image_names, resampling=convention.resampling)
    return ClassPrecisions(
        values=ratio(found.sum(axis=0), ranked.positives.sum(axis=0)),
        replicates=ratio(
            _weighted_positives(found, weights), _weighted_positives(ranked.positives, weights)
        ),
    )


def precision_result(
    name: str,
    precisions: ClassPrecisions,
    ranked: RankedClasses,
    *,
    convention: str,
    hidden_supervision: int = 0,
    details: Mapping[str, Detail] | None = None,
) -> MetricResult:
    defined = ~np.isnan(precisions.values)
    names = ranked.class_names
    replicates = mean_of_defined(precisions.replicates.T)  # (B,)
    return MetricResult(
        name=name,
        value=float(precisions.values[defined].mean()) if defined.any() else None,
        convention=convention,
        num_images=len(ranked.image_names),
        hidden_supervision=hidden_supervision,
        interval=interval_of(replicates),
        per_class={names[c]: float(precisions.values[c]) for c in np.flatnonzero(defined).tolist()},
        left_out=tuple(names[c] for c in np.flatnonzero(~defined).tolist()),
        details=dict(details or {}),
        unavailable=None if defined.any() else "no class has a positive",
        replicates=replicates,
        image_digest=digest(ranked.image_names),
    )


def _weighted_precisions(
    ranked: RankedClasses, convention: RankingConvention, weights: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """(C, replicates)"""
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
