"""Pixel-adaptive refinement (PAR; Ru et al. 2022): maps drawn to the image's edges, no training.

Each pixel becomes a weighted mean of its 8 neighbours at several distances, again and again:

    a = softmax(-(colour difference / (w1 std))^2) + w2 softmax(-(distance / (w1 std))^2)

the first square averaged over the channels, standard deviations over the pixel's own neighbours.
Cheaper than a dense CRF for few classes, and without its two scales to set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.errors import require_setting
from weakloc.localize.maps import Maps

NEIGHBORS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True, slots=True)
class PixelAffinitySettings:
    """`width` is w1 and `position_weight` w2 of the released code; dilations are in pixels."""

    iterations: int = 10
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    width: float = 0.3
    position_weight: float = 0.01

    def __post_init__(self) -> None:
        require = partial(require_setting, self, "pixel affinity")
        require("iterations", self.iterations >= 1, "Use 1 or more")
        far_enough = min(self.dilations, default=0) >= 1
        require("dilations", far_enough, "Name one or more distances of at least 1 pixel")
        require("width", 0 < self.width < np.inf, "Use more than 0")
        require("position_weight", 0 <= self.position_weight < np.inf, "Use 0 or more")


def refine_by_pixel_affinity(
    maps: Maps, image: NDArray[np.uint8], settings: PixelAffinitySettings
) -> Maps:
    """Refined (C, H, W) maps for an (H, W, 3) image; probabilities stay probabilities.

    Neighbours outside of the image are its nearest border pixels. Values that are not finite
    count as 0.
    """
    height, width = maps.shape[1:]
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"maps of {height} rows and {width} columns do not fit an image of "
            f"{image.dtype} {image.shape}; (height, width, 3) uint8 is needed"
        )
    if maps.size == 0:
        return np.zeros_like(maps, dtype=np.float32)
    offsets = np.array(
        [(step * dy, step * dx) for step in settings.dilations for dy, dx in NEIGHBORS]
    )
    affinities = _affinities(image, offsets, settings)
    refined = np.where(np.isfinite(maps), maps, 0).astype(np.float32)
    for _ in range(settings.iterations):
        refined = _propagate(_pad_edges(refined, offsets), affinities, offsets)
    return refined


def _affinities(
    image: NDArray[np.uint8], offsets: NDArray[np.int64], settings: PixelAffinitySettings
) -> Maps:
    """The weights (H, K, W) of each pixel's K neighbours; they sum to 1."""
    distances = np.hypot(offsets[:, 0], offsets[:, 1])
    closeness = -((distances / (distances.std(ddof=1) * settings.width)) ** 2)
    position_shares = np.exp(closeness - closeness.max())
    position_shares /= position_shares.sum()
    colors = _pad_edges(image.transpose(2, 0, 1).astype(np.float32), offsets)
    affinities: Maps = _color_closeness(colors, offsets, settings.width)
    affinities -= affinities.max(axis=1, keepdims=True)
    np.exp(affinities, out=affinities)
    affinities /= affinities.sum(axis=1, keepdims=True)
    affinities += (settings.position_weight * position_shares).astype(np.float32)[:, None]
    # The released code leaves the sum at 1 + w2, which scales all maps alike.
    affinities /= np.float32(1 + settings.position_weight)
    return affinities


def _pad_edges(maps: Maps, offsets: NDArray[np.int64]) -> Maps:
    reach = int(offsets.max())
    return np.pad(maps, ((0, 0), (reach, reach), (reach, reach)), mode="edge")


@njit(cache=True, nogil=True, error_model="numpy")
def _color_closeness(padded, offsets, width):  # type: ignore[no-untyped-def]
    """Minus the mean over channels of (difference / (width * std))^2, from (3, H + 2r, W + 2r)."""
    reach, count = offsets.max(), offsets.shape[0]
    height, columns = padded.shape[1] - 2 * reach, padded.shape[2] - 2 * reach
    closeness = np.zeros((height, count, columns), np.float32)
    totals, squares = np.empty(columns, np.float32), np.empty(columns, np.float32)
    scales = np.empty(columns, np.float32)
    for y in range(height):
        for channel in range(3):
            center = padded[channel, y + reach, reach : reach + columns]
            totals[:] = 0.0
            squares[:] = 0.0
            for k in range(count):  # whole grey levels: these sums are exact
                start = reach + offsets[k, 1]
                neighbor = padded[channel, y + reach + offsets[k, 0], start : start + columns]
                for x in range(columns):
                    difference = neighbor[x] - center[x]
                    totals[x] += difference
                    squares[x] += difference * difference
            for x in range(columns):
                mean = np.float64(totals[x]) / count
                variance = max(squares[x] - totals[x] * mean, 0.0) / (count - 1)
                scales[x] = min(1.0 / ((np.sqrt(variance) + 1e-8) * width) ** 2 / 3.0, 1e30)
            for k in range(count):
                start = reach + offsets[k, 1]
                neighbor = padded[channel, y + reach + offsets[k, 0], start : start + columns]
                for x in range(columns):
                    difference = neighbor[x] - center[x]
                    closeness[y, k, x] -= difference * difference * scales[x]
    return closeness


@njit(cache=True, nogil=True, error_model="numpy")
def _propagate(padded, affinities, offsets):  # type: ignore[no-untyped-def]
    """The weighted mean of each pixel's neighbours, from (C, H + 2r, W + 2r) maps: (C, H, W)."""
    reach = offsets.max()
    height, count, columns = affinities.shape
    spread = np.zeros((padded.shape[0], height, columns), np.float32)
    for y in range(height):
        for k in range(count):
            row, start = y + reach + offsets[k, 0], reach + offsets[k, 1]
            weights = affinities[y, k]
            for c in range(padded.shape[0]):
                neighbor = padded[c, row, start : start + columns]
                for x in range(columns):
                    spread[c, y, x] += weights[x] * neighbor[x]
    return spread
