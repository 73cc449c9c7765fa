"""Class scores in; probabilities, and scores that know which classes occur together, out.

Bency et al. 2016, Eq. 2 to 4: p(i|j) = N_ij / N_j and s'(i) = s(i) + alpha * sum_j p(i|j) s(j).
Expect about +1 point of classification mAP on Pascal VOC. Only the ranking of the result is used;
it may exceed 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.geometry import FloatArray, IntArray
from weakloc.structures import Activation, LabelMatrix

ALPHAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True)
class AlphaChoice:
    """The weight of co-occurrence, and the mean average precision it reached on which images."""

    alpha: float
    mean_average_precision: float
    chosen_on: str = ""


def logistic(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """1 / (1 + exp(-z)), in the precision of the logits."""
    # tanh does not overflow, whatever the logit.
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits))


def probabilities(logits: NDArray[np.floating], activation: Activation) -> FloatArray:
    """Class probabilities of (..., C) logits."""
    values = np.asarray(logits, dtype=np.float64)
    if activation == "sigmoid":
        return np.asarray(logistic(values), dtype=np.float64)
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def shares_from_counts(together: IntArray) -> FloatArray:
    """p(i|j) = N_ij / N_j from counts of images with both classes, N_j on the diagonal.

    Exact where no tag is unknown; an image of class j where i is unknown counts as one without.
    """
    counts = together.astype(np.float64)
    of_class = np.diag(counts)
    shares: FloatArray = np.zeros_like(counts)
    np.divide(counts, of_class[None, :], out=shares, where=of_class[None, :] > 0)
    np.fill_diagonal(shares, 0.0)
    return shares


def rescore(scores: NDArray[np.floating], shares: FloatArray, *, alpha: float) -> FloatArray:
    """Scores (..., C), as probabilities, with what the other classes' scores suggest added."""
    return np.asarray(scores + alpha * (scores @ shares.T), dtype=np.float64)


def choose_alpha(
    scores: NDArray[np.floating],
    labels: LabelMatrix,
    shares: FloatArray,
    mean_average_precision: Callable[[FloatArray, LabelMatrix], float],
) -> AlphaChoice:
    """The one of ALPHAS with the best mean average precision on held-out images; the first on ties.

    `mean_average_precision(scores (N, C), labels (N, C))` is told image-level labels only.
    """
    reached = [
        mean_average_precision(rescore(scores, shares, alpha=alpha), labels) for alpha in ALPHAS
    ]
    comparable = np.nan_to_num(np.asarray(reached), nan=-np.inf)
    best = int(np.argmax(comparable))
    return AlphaChoice(alpha=ALPHAS[best], mean_average_precision=float(reached[best]))
