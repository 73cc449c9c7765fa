"""Score maps and masks in; PxAP, the average precision over all pixels of all images, out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.average_precision import grouped_precisions
from weakloc.metrics.masks import VOID, Labels
from weakloc.metrics.result import MetricResult
from weakloc.metrics.score_levels import ScoreMap, normalize_map
from weakloc.metrics.uncertainty import DEFAULT_RESAMPLING, ResampledSums, Resampling, interval_of


class PixelPrecision:
    """Sums two histograms of scores, of object pixels and of others; memory is their length.

    Each map is normalised to [0, 1] by itself. Large objects weigh more than small ones.
    """

    def __init__(
        self,
        *,
        step: float = 0.001,
        resampling: Resampling = DEFAULT_RESAMPLING,
    ) -> None:
        self.edges = histogram_edges(step)
        self._sums = ResampledSums(2 * (self.edges.size - 1), resampling=resampling)

    def update(self, image_name: str, score_map: ScoreMap, truth: Labels) -> None:
        """A map and its mask of the same shape: 1 object, 0 background, 255 not counted."""
        if score_map.shape != truth.shape:
            raise ValueError(f"a map of {score_map.shape} for a mask of {truth.shape}")
        normalized = normalize_map(score_map, where=image_name)
        self._sums.add(image_name, count_pixels(normalized, truth, self.edges))

    def merge(self, other: PixelPrecision) -> None:
        if not np.array_equal(self.edges, other.edges):
            raise ValueError("histograms of different bins cannot be merged")
        self._sums.merge(other._sums)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        value = float(_precision(self._sums.total))
        is_defined = not np.isnan(value)
        replicates = self._sums.evaluate(_precision)
        others, objects = np.split(self._sums.total, 2)
        result = MetricResult(
            name="px_ap",
            value=value if is_defined else None,
            convention=f"all pixels, {self.edges.size - 3} thresholds, each map from 0 to 1",
            num_images=self._sums.num_images,
            hidden_supervision=hidden_supervision,
            interval=interval_of(replicates),
            details={"num_object_pixels": int(objects.sum()), "num_others": int(others.sum())},
            unavailable=None if is_defined else "no pixel belongs to an object",
            replicates=replicates,
            image_digest=self._sums.image_digest,
        )
        return (result,)


def histogram_edges(step: float) -> FloatArray:
    """Bins of scores in [0, 1), one for exactly 1, and an empty one."""
    return np.append(np.arange(0, 1, step), [1.0, 2.0, 3.0])


def count_pixels(normalized_map: ScoreMap, truth: Labels, edges: FloatArray) -> IntArray:
    """Histograms (2, bins) of the scores of pixels that are 0 and 1, exactly numpy.histogram's."""
    scores = np.ascontiguousarray(normalized_map).ravel()
    pixels = np.ascontiguousarray(truth).ravel()
    return np.asarray(_count_pixels(scores, pixels, edges, 1.0 / edges[1]))


def _precision(sums: FloatArray) -> FloatArray:
    """Over the last axis, which holds the histogram of others and then that of objects."""
    others, objects = np.split(sums, 2, axis=-1)
    return grouped_precisions(objects, others)


@njit(cache=True, nogil=True)
def _count_pixels(
    scores: NDArray[np.floating[Any]], pixels: NDArray[np.uint8], edges: FloatArray, per_unit: float
) -> IntArray:
    counts = np.zeros((2, edges.size - 1), dtype=np.int64)
    for n in range(scores.size):
        if pixels[n] == VOID or not edges[0] <= scores[n] < edges[-1]:
            continue
        k = int(scores[n] * per_unit)  # off by one at most
        while scores[n] < edges[k]:
            k -= 1
        while scores[n] >= edges[k + 1]:
            k += 1
        counts[int(pixels[n] == 1), k] += 1
    return counts
