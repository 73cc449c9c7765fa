"""One score map in; the same map normalised, and cut into the levels that thresholds tell apart."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.errors import PredictionsError
from weakloc.geometry import FloatArray

ScoreMap: TypeAlias = NDArray[np.floating[Any]]


def normalize_map(score_map: ScoreMap, *, where: str) -> ScoreMap:
    """Minimum to 0 and maximum to 1, in the precision of the map; a constant map is all 0."""
    if score_map.ndim != 2 or score_map.size == 0:
        raise ValueError(f"a score map is (height, width), not {score_map.shape}")
    lowest, highest = float(score_map.min()), float(score_map.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise PredictionsError(
            "the score map holds values that are not finite",
            where=where,
            remedy="Look at the network: training may have diverged",
        )
    lifted = score_map - score_map.min()
    return lifted / lifted.max() if highest > lowest else np.zeros_like(lifted)


def floor_to_bytes(normalized_map: ScoreMap) -> NDArray[np.uint8]:
    """floor(255 s), in the precision of the map."""
    return (normalized_map * 255).astype(np.uint8)


def count_below(normalized_map: ScoreMap, thresholds: FloatArray) -> NDArray[np.uint8]:
    """How many of at most 255 even, rising thresholds lie strictly below each score.

    Then `score > thresholds[k]` exactly where the count is greater than k.
    """
    if not 2 <= thresholds.size <= 255:
        raise ValueError(f"levels need 2 to 255 thresholds, not {thresholds.size}")
    scores = np.ascontiguousarray(normalized_map, dtype=np.float64)
    return np.asarray(_count_below(scores, thresholds, 1.0 / thresholds[1]))


@njit(cache=True, nogil=True)
def _count_below(scores: FloatArray, thresholds: FloatArray, per_unit: float) -> NDArray[np.uint8]:
    counts = np.empty(scores.shape, dtype=np.uint8)
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            score = scores[i, j]
            k = min(int(score * per_unit), thresholds.size)  # off by one at most
            while k < thresholds.size and thresholds[k] < score:
                k += 1
            while k > 0 and thresholds[k - 1] >= score:
                k -= 1
            counts[i, j] = k
    return counts
