"""Dense CRF (Kraehenbuehl and Koltun 2011): class probabilities refined by the image's edges.

Mean field with Potts compatibility. Two Gaussian kernels join all pairs of pixels: one over
positions, one over positions and colours, both normalised symmetrically:

    K = D^(-1/2) G D^(-1/2),  D = diag(G 1),   Q <- softmax(-unary + sum of weight * K Q)

The Gaussian sums run on the permutohedral lattice. All work is done without the interpreter's
lock, so images can be refined in parallel threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array

from weakloc.errors import SettingError, require_setting
from weakloc.localize.maps import Maps

Indices = NDArray[np.uint32]
MAX_KEY = 2**62
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
        require = partial(require_setting, self, "dense CRF")
        require("iterations", self.iterations >= 1, "Use 1 or more")
        for name in ("smooth_position_sigma", "color_position_sigma", "color_sigma"):
            require(name, 0 < getattr(self, name) < np.inf, "Use more than 0")
        for name in ("smooth_weight", "color_weight"):
            require(name, 0 <= getattr(self, name) < np.inf, "Use 0 or more")


@dataclass(frozen=True)
class _Kernels:
    """All kernels as one table of lattice points; `scales` and `lattices` are per kernel."""

    corners: Indices  # (N, sum of d + 1)
    weights: Maps
    lattices: tuple[Lattice, ...]
    scales: tuple[float, ...]


def refine_unary(unary: Maps, image: NDArray[np.uint8], settings: CrfSettings) -> Maps:
    """Probabilities (C, H, W) for an (H, W, 3) image from finite unary energies (C, H, W).

    Lower energy is more likely.
    """
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
    height, width = image.shape[:2]
    y, x = np.divmod(np.arange(height * width), width)
    positions = np.stack([x, y], axis=1).astype(np.float32)
    colors = image.reshape(-1, 3).astype(np.float32) / np.float32(settings.color_sigma)
    smooth = positions / np.float32(settings.smooth_position_sigma)
    near = positions / np.float32(settings.color_position_sigma)
    colored = np.concatenate([near, colors], axis=1)
    lattices, scales, corners, weights = [], [], [], []
    first = 0
    for vectors, weight in (smooth, settings.smooth_weight), (colored, settings.color_weight):
        if weight > 0:
            lattice = build_lattice(vectors)
            degrees = filter_values(np.ones((len(vectors), 1), np.float32), lattice)
            lattices.append(lattice)
            scales.append(lattice.gain * weight)
            corners.append(lattice.corners + np.uint32(first))
            weights.append(lattice.weights * (1.0 / np.sqrt(degrees + np.float32(1e-20))))
            first += lattice.num_points + 1
    empty = len(positions), 0
    return _Kernels(
        np.concatenate([np.empty(empty, np.uint32), *corners], axis=1),
        np.concatenate([np.empty(empty, np.float32), *weights], axis=1),
        tuple(lattices),
        tuple(scales),
    )


def _mean_field(logits: Maps, kernels: _Kernels, iterations: int) -> Maps:
    """Marginals up to each pixel's factor, from logits of at most 0."""
    marginals = np.exp(logits)
    num_rows = sum(lattice.num_points + 1 for lattice in kernels.lattices)
    table = np.empty((num_rows, logits.shape[1]), np.float32)
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


@dataclass(frozen=True, slots=True)
class Lattice:
    """The lattice points touched by N vectors of d features.

    `corners` and `weights` (N, d + 1) say where each vector lies; `neighbors` (d + 1, P, 2) holds
    each point's two neighbours along each axis. Index P stands for a point that does not exist.
    """

    corners: Indices
    weights: Maps
    neighbors: Indices

    @property
    def num_points(self) -> int:
        return int(self.neighbors.shape[1])

    @property
    def gain(self) -> float:
        """What makes the blurred sum that of a Gaussian of height 1."""
        return float(1.0 / (1.0 + 0.5 ** (self.corners.shape[1] - 1)))


def build_lattice(features: Maps) -> Lattice:
    """The lattice of (N, d) features, each already divided by its standard deviation."""
    dimensions = features.shape[1]
    steps = np.arange(1, dimensions + 1)
    spread = np.sqrt(2.0 / 3.0) * (dimensions + 1) / np.sqrt(steps * (steps + 1))
    scaled = np.ascontiguousarray(features * spread.astype(np.float32), dtype=np.float32)
    strides, offset = _key_strides(scaled)
    corners, weights, keys, slots, points = _locate(scaled, strides, offset)
    deltas = np.append(strides * (dimensions + 1), 0) - strides.sum()
    neighbors = _find_neighbors(points, deltas, keys, slots)
    return Lattice(corners, weights, neighbors)


def _key_strides(scaled: Maps) -> tuple[NDArray[np.int64], int]:
    """Mixed-radix place values that pack a point's first d coordinates into one integer.

    A margin of two steps on each side keeps the neighbours' keys free of carries, so that a step
    along an axis is one addition.
    """
    dimensions = scaled.shape[1]
    lows, highs = scaled.min(axis=0).astype(np.float64), scaled.max(axis=0).astype(np.float64)
    # Elevated coordinate j is (sum of scaled[j:]) - j * scaled[j - 1].
    order = np.arange(1, dimensions)
    tail_low, tail_high = lows[::-1].cumsum()[::-1], highs[::-1].cumsum()[::-1]
    low = np.append(tail_low[0], tail_low[1:] - order * highs[:-1])
    high = np.append(tail_high[0], tail_high[1:] - order * lows[:-1])
    margin = 3 * (dimensions + 1)
    firsts = np.floor(low).astype(np.int64) - margin
    extents = np.ceil(high).astype(np.int64) + margin + 1 - firsts
    strides = [1]
    for extent in extents:
        strides.append(strides[-1] * int(extent))
    if strides[-1] >= MAX_KEY:
        raise SettingError(
            f"the features span {' x '.join(map(str, extents))} lattice steps",
            location="dense CRF",
            remedy="Use larger standard deviations or a smaller image",
        )
    place_values = np.array(strides[:-1], dtype=np.int64)
    return place_values, int((place_values * firsts).sum())


@njit(cache=True, nogil=True, error_model="numpy")
def _locate(scaled, strides, offset):  # type: ignore[no-untyped-def]
    """Corners and weights of every vector; keys and slots are an open hash table of the points."""
    count, d = scaled.shape
    corners = np.empty((count, d + 1), np.uint32)
    weights = np.empty((count, d + 1), np.float32)
    keys, slots, points = _empty_table(1 << 14)
    num_points = 0
    elevated = np.empty(d + 1, np.float32)
    nearest = np.empty(d + 1, np.float32)
    rank = np.empty(d + 1, np.int64)
    at_rank = np.empty(d + 1, np.int64)
    barycentric = np.empty(d + 2, np.float32)
    step = np.float32(1.0) / np.float32(d + 1)
    total_stride = strides.sum()
    for i in range(count):
        _elevate(scaled[i], elevated)
        _nearest_simplex(elevated, step, nearest, rank)
        for corner in range(d + 2):
            barycentric[corner] = 0.0
        key = -offset
        for j in range(d + 1):
            share = (elevated[j] - nearest[j]) * step
            barycentric[d - rank[j]] += share
            barycentric[d + 1 - rank[j]] -= share
            at_rank[rank[j]] = j
            if j < d:
                key += np.int64(nearest[j]) * strides[j]
        barycentric[0] += np.float32(1.0) + barycentric[d + 1]
        for corner in range(d + 1):
            if corner > 0:  # all coordinates one up, the lowest remaining one d down
                key += total_stride
                lowered = at_rank[d + 1 - corner]
                if lowered < d:
                    key -= (d + 1) * strides[lowered]
            slot = _find_slot(keys, key)
            if keys[slot] != key:
                if 2 * (num_points + 1) > keys.size:
                    keys, slots, points = _grow(points, num_points)
                    slot = _find_slot(keys, key)
                keys[slot] = key
                slots[slot] = num_points
                points[num_points] = key
                num_points += 1
            corners[i, corner] = slots[slot]
            weights[i, corner] = barycentric[corner]
    return corners, weights, keys, slots, points[:num_points]


@njit(cache=True, nogil=True, error_model="numpy")
def _elevate(scaled, elevated):  # type: ignore[no-untyped-def]
    """The feature vector in the hyperplane of d + 1 coordinates that sum to 0."""
    total = np.float32(0.0)
    for j in range(scaled.size, 0, -1):
        elevated[j] = total - np.float32(j) * scaled[j - 1]
        total += scaled[j - 1]
    elevated[0] = total


@njit(cache=True, nogil=True, error_model="numpy")
def _nearest_simplex(elevated, step, nearest, rank):  # type: ignore[no-untyped-def]
    """The nearest point whose coordinates are multiples of d + 1, and the order of the rests."""
    size = elevated.size
    excess = np.int64(0)
    for j in range(size):
        rounded = np.floor(elevated[j] * step + np.float32(0.5))
        excess += np.int64(rounded)
        nearest[j] = rounded * np.float32(size)
        rank[j] = 0
    for j in range(size):
        for k in range(j + 1, size):
            if elevated[j] - nearest[j] < elevated[k] - nearest[k]:
                rank[j] += 1
            else:
                rank[k] += 1
    for j in range(size):  # back into the hyperplane: the coordinates sum to 0 again
        rank[j] += excess
        if rank[j] < 0:
            rank[j] += size
            nearest[j] += np.float32(size)
        elif rank[j] >= size:
            rank[j] -= size
            nearest[j] -= np.float32(size)


@njit(cache=True, nogil=True, error_model="numpy")
def _find_slot(keys, key):  # type: ignore[no-untyped-def]
    """Where the key is, or the free slot where it belongs (linear probing)."""
    mask = np.uint64(keys.size - 1)
    slot = ((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True, error_model="numpy")
def _empty_table(capacity):  # type: ignore[no-untyped-def]
    """Keys (-1: free) and slots of a hash table, and room for the points that half-fill it."""
    keys = np.empty(capacity, np.int64)
    for i in range(capacity):  # np.full takes a second to compile
        keys[i] = -1
    return keys, np.empty(capacity, np.uint32), np.empty(capacity // 2, np.int64)


@njit(cache=True, nogil=True, error_model="numpy")
def _grow(points, num_points):  # type: ignore[no-untyped-def]
    capacity = points.size * 8
    keys, slots, more_points = _empty_table(capacity)
    for i in range(num_points):
        more_points[i] = points[i]
        slot = _find_slot(keys, points[i])
        keys[slot] = points[i]
        slots[slot] = i
    return keys, slots, more_points


@njit(cache=True, nogil=True, error_model="numpy")
def _find_neighbors(points, deltas, keys, slots):  # type: ignore[no-untyped-def]
    neighbors = np.empty((deltas.size, points.size, 2), np.uint32)
    for axis in range(deltas.size):
        for i in range(points.size):
            for side in range(2):
                key = points[i] + deltas[axis] * (1 - 2 * side)
                slot = _find_slot(keys, key)
                neighbors[axis, i, side] = slots[slot] if keys[slot] == key else points.size
    return neighbors


def filter_values(values: Maps, lattice: Lattice) -> Maps:
    """Each of the (N, C) values replaced by the Gaussian-weighted sum of all of them."""
    count, corners = lattice.corners.shape
    rows = np.arange(0, count * corners + 1, corners)
    shares = lattice.weights.ravel(), lattice.corners.ravel(), rows
    at_corners = csr_array(shares, shape=(count, lattice.num_points + 1))
    table = np.ascontiguousarray(at_corners.T @ values)
    spare = np.zeros_like(table)
    in_spare = blur(table, spare, lattice.neighbors)
    return np.asarray(at_corners @ (spare if in_spare else table) * np.float32(lattice.gain))


@njit(cache=True, nogil=True, error_model="numpy")
def blur(table, spare, neighbors):  # type: ignore[no-untyped-def]
    """Blurs the (P + 1, C) table, last row all 0; 1 if the result is in `spare`, else 0."""
    for axis in range(neighbors.shape[0]):
        for point in range(neighbors.shape[1]):
            before, after = neighbors[axis, point, 0], neighbors[axis, point, 1]
            for c in range(table.shape[1]):
                spare[point, c] = table[point, c] + np.float32(0.5) * (
                    table[before, c] + table[after, c]
                )
        table, spare = spare, table
    return neighbors.shape[0] % 2
