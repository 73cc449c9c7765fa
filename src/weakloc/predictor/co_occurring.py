"""Class probabilities in, the same knowing which classes were tagged together out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.geometry import FloatArray
from weakloc.localize.rescoring import rescore


@dataclass(frozen=True)
class Rescoring:
    """s'(i) = (s(i) + alpha * sum_j p(i|j) s(j)) / (1 + alpha * sum_j p(i|j)).

    Bency et al. 2016, Eq. 2 to 4, whose sum is divided by the greatest value it can have: every
    class ranks the images as the sum does, and the result still lies between 0 and 1.
    """

    shares: FloatArray  # (C, C) p(i|j), zero diagonal
    alpha: float

    def __call__(self, probabilities: NDArray[np.float64]) -> FloatArray:
        greatest = 1.0 + self.alpha * self.shares.sum(axis=1)
        return np.asarray(rescore(probabilities, self.shares, alpha=self.alpha) / greatest)


def shares_from_counts(together: NDArray[np.integer]) -> FloatArray:
    """p(i|j) = N_ij / N_j from counts of images with both classes, N_j on the diagonal.

    Exact where no tag is unknown; an image of class j where i is unknown counts as one without.
    """
    counts = together.astype(np.float64)
    of_class = np.diag(counts)
    shares: FloatArray = np.zeros_like(counts)
    np.divide(counts, of_class[None, :], out=shares, where=of_class[None, :] > 0)
    np.fill_diagonal(shares, 0.0)
    return shares
