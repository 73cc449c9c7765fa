"""Dense CRF (Kraehenbuehl and Koltun 2011): class probabilities refined by the image's edges.

Mean field with Potts compatibility. Two Gaussian kernels join all pairs of pixels: one over
positions, one over positions and colours, both normalised symmetrically:

    K = D^(-1/2) G D^(-1/2),  D = diag(G 1),   Q <- softmax(-unary + sum of weight * K Q)

The Gaussian sums run on the permutohedral lattice. All work is done without the interpreter's
lock, so images can be refined in parallel threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.errors import require_setting
from weakloc.localize.permutohedral import (
    Floats,
    Indices,
    Lattice,
    blur,
    build_lattice,
    filter_values,
)

LANES = 8  # floats per vector register: rows of this multiple need no scalar remainder


@dataclass(frozen=True, slots=True)
class CrfSettings:
    """Standard deviations in pixels and grey levels (0 to 255); a weight of 0 drops its kernel."""

    iterations: int = 10
    smooth_position_sigma: float = 3.0
    smooth_weight: float = 3.0
    color_position_sigma: float = 80.0
    color_sigma: float = 13.0
    color_weight: float = 10.0

    def __post_init__(self) -> None:
        self._require("iterations", self.iterations >= 1, "Use 1 or more")
        for name in ("smooth_position_sigma", "color_position_sigma", "color_sigma"):
            self._require(name, 0 < getattr(self, name) < np.inf, "Use more than 0")
        for name in ("smooth_weight", "color_weight"):
            self._require(name, 0 <= getattr(self, name) < np.inf, "Use 0 or more")

    def _require(self, name: str, fits: bool, remedy: str) -> None:
        require_setting(fits, name, getattr(self, name), remedy=remedy, where="dense CRF")


@dataclass(frozen=True)
class _Kernels:
    """All kernels as one table of lattice points; `scales` and `lattices` are per kernel."""

    corners: Indices  # (N, sum of d + 1)
    weights: Floats
    lattices: tuple[Lattice, ...]
    scales: tuple[float, ...]

    @property
    def num_rows(self) -> int:
        return sum(lattice.num_points + 1 for lattice in self.lattices)


def dense_crf(
    probabilities: Floats, image: NDArray[np.uint8], settings: CrfSettings, *, floor: float = 1e-5
) -> Floats:
    """Refined (C, H, W) probabilities for an (H, W, 3) image.

    The unary energy is -log(probability), with probabilities of at least `floor`; pixels with
    values that are not finite carry no opinion.
    """
    finite = np.isfinite(probabilities).all(axis=0)
    known = np.where(finite, probabilities, 1.0 / max(len(probabilities), 1))
    unary = -np.log(np.clip(known, floor, 1.0)).astype(np.float32)
    return refine_unary(unary, image, settings)


def refine_unary(unary: Floats, image: NDArray[np.uint8], settings: CrfSettings) -> Floats:
    """Probabilities (C, H, W) from finite unary energies (C, H, W); lower energy is more likely."""
    classes, height, width = unary.shape
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"maps of {height} rows and {width} columns do not fit an image of "
            f"{image.dtype} {image.shape}; (height, width, 3) uint8 is needed"
        )
    if unary.size == 0:
        return np.zeros_like(unary, dtype=np.float32)
    kernels = _make_kernels(image, settings)
    logits = np.full((height * width, -(-classes // LANES) * LANES), -np.inf, np.float32)
    logits[:, :classes] = (unary.min(axis=0) - unary).reshape(classes, -1).T  # at most 0
    marginals = _mean_field(logits, kernels, settings.iterations)
    refined = np.ascontiguousarray(marginals[:, :classes].T)
    return np.asarray(refined / refined.sum(axis=0)).reshape(classes, height, width)


def _make_kernels(image: NDArray[np.uint8], settings: CrfSettings) -> _Kernels:
    positions = _positions(image.shape[0], image.shape[1])
    colors = image.reshape(-1, 3).astype(np.float32) / np.float32(settings.color_sigma)
    smooth = positions / np.float32(settings.smooth_position_sigma)
    near = positions / np.float32(settings.color_position_sigma)
    wanted = [
        (features, weight)
        for features, weight in (
            (smooth, settings.smooth_weight),
            (np.concatenate([near, colors], axis=1), settings.color_weight),
        )
        if weight > 0
    ]
    lattices = tuple(build_lattice(features) for features, _ in wanted)
    firsts = np.cumsum([0] + [lattice.num_points + 1 for lattice in lattices]).astype(np.uint32)
    empty = len(positions), 0
    corners = [lattice.corners + first for lattice, first in zip(lattices, firsts, strict=False)]
    weights = [lattice.weights * _inverse_root_degrees(lattice) for lattice in lattices]
    return _Kernels(
        np.concatenate([np.empty(empty, np.uint32), *corners], axis=1),
        np.concatenate([np.empty(empty, np.float32), *weights], axis=1),
        lattices,
        tuple(lattice.gain * weight for lattice, (_, weight) in zip(lattices, wanted, strict=True)),
    )


def _positions(height: int, width: int) -> Floats:
    y, x = np.divmod(np.arange(height * width), width)
    return np.stack([x, y], axis=1).astype(np.float32)


def _inverse_root_degrees(lattice: Lattice) -> Floats:
    ones = np.ones((len(lattice.corners), 1), np.float32)
    return np.asarray(1.0 / np.sqrt(filter_values(ones, lattice) + np.float32(1e-20)))


def _mean_field(logits: Floats, kernels: _Kernels, iterations: int) -> Floats:
    """Marginals up to each pixel's factor, from logits of at most 0."""
    marginals = np.exp(logits)
    table = np.empty((kernels.num_rows, logits.shape[1]), np.float32)
    spare = np.zeros_like(table)
    for _ in range(iterations):
        _splat_normalized(marginals, kernels.corners, kernels.weights, table)
        first = 0
        for lattice, scale in zip(kernels.lattices, kernels.scales, strict=True):
            rows = slice(first, first + lattice.num_points + 1)
            in_spare = blur(table[rows], spare[rows], lattice.neighbors)
            np.multiply((spare if in_spare else table)[rows], np.float32(scale), out=table[rows])
            first = rows.stop
        _slice_onto(logits, table, kernels.corners, kernels.weights, marginals)
        np.exp(marginals, out=marginals)
    return marginals


@njit(cache=True, nogil=True, error_model="numpy")
def _splat_normalized(marginals, corners, weights, table):  # type: ignore[no-untyped-def]
    """The table filled anew with each pixel's marginals, divided by their sum."""
    table[:] = 0.0
    row = np.empty(table.shape[1], np.float32)
    for i in range(corners.shape[0]):
        total = np.float32(0.0)
        for c in range(row.size):
            total += marginals[i, c]
        for c in range(row.size):
            row[c] = marginals[i, c] / total
        for corner in range(corners.shape[1]):
            point, weight = corners[i, corner], weights[i, corner]
            for c in range(row.size):
                table[point, c] += weight * row[c]


@njit(cache=True, nogil=True, error_model="numpy")
def _slice_onto(logits, table, corners, weights, messages):  # type: ignore[no-untyped-def]
    """Messages filled with logits plus what is read from the lattice, less each pixel's maximum."""
    for i in range(corners.shape[0]):
        for c in range(logits.shape[1]):
            messages[i, c] = logits[i, c]
        for corner in range(corners.shape[1]):
            point, weight = corners[i, corner], weights[i, corner]
            for c in range(logits.shape[1]):
                messages[i, c] += weight * table[point, c]
        highest = messages[i, 0]
        for c in range(logits.shape[1]):
            highest = max(highest, messages[i, c])
        for c in range(logits.shape[1]):
            messages[i, c] -= highest
