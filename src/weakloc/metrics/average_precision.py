"""Scores and labels of one ranking in; its average precision, by any published definition, out.

`voc12` integrates the monotone envelope of precision over recall (VOC 2010 and later); `voc07` is
the mean of that envelope at recall 0, 0.1, ..., 1; `coco` the same at 101 recalls; `nonint` is the
mean over positives of the precision at their rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.result import Detail, MetricResult
from weakloc.metrics.uncertainty import SetDraw, mean_of_defined, measured, ratio
from weakloc.structures import LabelMatrix

Definition: TypeAlias = Literal["voc12", "voc07", "nonint", "coco"]
Ties: TypeAlias = Literal["stable", "grouped"]

# The recalls at which the envelope is read. k / 10 rather than numpy.arange's 0.30000000000000004,
# so that three of ten positives do reach recall 0.3; for COCO the very numbers of its evaluator.
_SAMPLED_RECALLS: dict[str, FloatArray] = {
    "voc07": np.arange(11) / 10.0,
    "coco": np.linspace(0.0, 1.0, 101),
}
_NO_RECALLS = np.empty(0)
_POSITIVE, _READ, _PLAIN = 1, 2, 4


@dataclass(frozen=True)
class Ranking:
    """One class's detections from best to worst, ignored ones left out.

    `ends_group` marks the ranks at which precision is read: all of them, or the last of each
    group of equal scores.
    """

    positive: NDArray[np.bool_]  # (N,)
    ends_group: NDArray[np.bool_]  # (N,)
    image: IntArray  # (N,) the row of `weights` that counts it


def rank(
    scores: ArrayLike,
    labels: NDArray[np.signedinteger[Any]],
    *,
    ties: Ties = "stable",
    image: IntArray | None = None,
) -> Ranking:
    """Sorts by descending score, equal scores in input order, and drops the ignored."""
    score = np.asarray(scores, dtype=np.float64).ravel()
    if np.isnan(score).any():
        raise ValueError("scores must not hold NaN")
    order = np.argsort(-score, kind="stable")
    order = order[labels[order] != 0]
    score = score[order]
    ends_group = np.ones(score.size, dtype=np.bool_)
    if ties == "grouped":
        ends_group[:-1] = score[:-1] != score[1:]
    counted_by = np.zeros(score.size, dtype=np.int64) if image is None else image[order]
    return Ranking(labels[order] > 0, ends_group, counted_by)


def ranked_precision(
    ranking: Ranking,
    num_positives: FloatArray,
    *,
    definition: Definition = "voc12",
    weights: NDArray[np.uint8] | None = None,
) -> FloatArray:
    """Average precision under each of B weightings of the images: (B,), NaN without positives.

    `weights` is (images, B), how often a resample draws the image; None is every image once.
    """
    if weights is None:
        images = int(ranking.image.max(initial=-1)) + 1
        weights = np.ones((images, 1), dtype=np.uint8)
    marks = ranking.positive * _POSITIVE + ranking.ends_group * _READ
    marks += _PLAIN * (definition == "nonint")
    positives = num_positives.astype(np.float64)
    recalls = _SAMPLED_RECALLS.get(definition, _NO_RECALLS)
    area = _area(marks.astype(np.uint8), ranking.image, weights, positives, recalls)
    if recalls.size:
        area = area * positives / recalls.size
    return ratio(area, positives)


def grouped_precisions(positives: ArrayLike, negatives: ArrayLike) -> FloatArray:
    """Non-interpolated average precision of score histograms, (..., bins) each: (...).

    Bins are in ascending order of score; empty ones add nothing. NaN where nothing is positive.
    """
    positive = np.asarray(positives, dtype=np.float64)[..., ::-1]  # best bin first
    num_found = np.cumsum(positive, axis=-1)
    taken = num_found + np.cumsum(np.asarray(negatives, dtype=np.float64)[..., ::-1], axis=-1)
    precision = np.divide(num_found, taken, out=np.zeros_like(num_found), where=taken > 0)
    return ratio((precision * positive).sum(axis=-1), num_found[..., -1])


@njit(cache=True, nogil=True)
def _area(
    marks: NDArray[np.uint8],
    image: IntArray,
    weights: NDArray[np.uint8],
    num_positives: FloatArray,
    recalls: FloatArray,
) -> FloatArray:
    """Precision summed over the positives, as is or under its envelope; or over given recalls.

    The walk goes from the worst rank to the best, so that the envelope is a running maximum.
    """
    num_found, taken = _tallies(marks, image, weights)
    precision, area = np.zeros(num_found.size), np.zeros(num_found.size)
    # Recalls that the walk has not yet come down to.
    unread = np.searchsorted(recalls, num_found / np.maximum(num_positives, 1.0), "right")
    for position in range(image.size - 1, -1, -1):
        row = weights[image[position]]
        if marks[position] & _READ:
            is_plain = marks[position] & _PLAIN > 0
            for b in range(num_found.size):
                here = num_found[b] / max(taken[b], 1.0)
                precision[b] = here if is_plain else max(here, precision[b])
        if marks[position] & _POSITIVE and not recalls.size:
            for b in range(num_found.size):
                area[b] += precision[b] * row[b]
                num_found[b] -= row[b]
        elif marks[position] & _POSITIVE:
            for b in range(num_found.size):
                num_found[b] -= row[b]
                recall = num_found[b] / max(num_positives[b], 1.0)
                while unread[b] > 0 and recalls[unread[b] - 1] > recall:
                    area[b] += precision[b]
                    unread[b] -= 1
        for b in range(num_found.size):
            taken[b] -= row[b]
    return area + precision * unread


@njit(cache=True, nogil=True)
def _tallies(
    marks: NDArray[np.uint8], image: IntArray, weights: NDArray[np.uint8]
) -> tuple[FloatArray, FloatArray]:
    """Positives found and all detections taken at the worst rank, for every weighting."""
    num_found, taken = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for position in range(image.size):
        row = weights[image[position]]
        for b in range(row.size):
            taken[b] += row[b]
            if marks[position] & _POSITIVE:
                num_found[b] += row[b]
    return num_found, taken


@dataclass(frozen=True, slots=True)
class RankingConvention:
    """How a ranking becomes numbers: one for each definition, all of the same ranking."""

    definitions: tuple[Definition, ...] = ("voc12",)
    ties: Ties = "stable"


@dataclass(frozen=True)
class RankedClasses:
    """One ranking a class over the same images, and the positives that each resample holds."""

    rankings: Sequence[Ranking]  # C
    num_positives: FloatArray  # (C, 1 + B)
    images: SetDraw
    class_names: Sequence[str]


def mean_average_precision(
    name: str,
    ranked: RankedClasses,
    convention: RankingConvention,
    *,
    described: str,
    details: Mapping[str, Detail],
) -> tuple[MetricResult, ...]:
    """By each definition, the mean over the classes that have a positive; the others are listed.

    All but `voc12` stand in the number's name.
    """
    return tuple(
        precision_result(
            name if definition == "voc12" else f"{name}_{definition}",
            class_precisions(ranked, definition),
            ranked,
            convention=f"{described}; {definition}, {convention.ties} ties",
            details=details,
        )
        for definition in convention.definitions
    )


def class_precisions(ranked: RankedClasses, definition: Definition) -> FloatArray:
    """Average precision, NaN without a positive, in the set and in each resample: (C, 1 + B)"""
    positives, weights = ranked.num_positives, ranked.images.weights
    return np.stack(
        [
            ranked_precision(ranking, positives[c], definition=definition, weights=weights)
            for c, ranking in enumerate(ranked.rankings)
        ]
    )


def class_recalls(ranked: RankedClasses) -> FloatArray:
    """The share of each class's positives that its whole ranking finds: (C, 1 + B)"""
    num_found = np.stack(
        [
            np.bincount(ranking.image[ranking.positive], minlength=ranked.images.num_images)
            for ranking in ranked.rankings
        ],
        axis=1,
    )  # (images, C)
    return ratio(ranked.images.sums(num_found), ranked.num_positives)


def precision_result(
    name: str,
    precisions: FloatArray,
    ranked: RankedClasses,
    *,
    convention: str,
    details: Mapping[str, Detail],
) -> MetricResult:
    return measured(
        name,
        mean_of_defined(precisions.T),
        ranked.images,
        convention=convention,
        lacking="no class has a positive",
        per_class=dict(zip(ranked.class_names, precisions[:, 0].tolist(), strict=True)),
        details=details,
    )


def tag_mean_average_precision(scores: FloatArray, labels: LabelMatrix) -> float:
    """Over the classes that some image shows; NaN where there is none."""
    num_positives = (labels > 0).sum(axis=0, dtype=np.float64)
    defined = [
        ranked_precision(rank(scores[:, c], labels[:, c]), num_positives[c : c + 1])[0]
        for c in np.flatnonzero(num_positives).tolist()
    ]
    return float(np.mean(defined)) if defined else float("nan")
