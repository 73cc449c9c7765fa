"""Scores -> probabilities; score maps -> maps on a common grid: normalised, resampled, fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from weakloc.geometry import BoxLTRB, FloatArray, GridTransform, Size
from weakloc.structures import Activation, MapKind, ScoreMaps

Maps: TypeAlias = NDArray[np.float32]  # (..., rows, columns)
HeatMap: TypeAlias = NDArray[np.floating]  # (rows, columns) of one class
Normalisation: TypeAlias = Literal["none", "minmax", "relu_max", "otsu", "sigmoid", "zscore"]
Combination: TypeAlias = Literal["max", "mean"]
Axis: TypeAlias = tuple[float, float, float]  # scale, offset and length of a grid one way

_TINY = np.finfo(np.float32).tiny
_SLIMMEST = 16  # a cap on the long side leaves a thin image at least a 16th of it across


def logistic(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """1 / (1 + exp(-z)), in the precision of the logits."""
    # tanh does not overflow, whatever the logit.
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits))


def probabilities(logits: NDArray[np.floating], activation: Activation) -> FloatArray:
    """Class probabilities of (..., C) logits."""
    values = np.asarray(logits, dtype=np.float64)
    if activation == "sigmoid":
        return np.asarray(logistic(values), dtype=np.float64)
    return np.asarray(softmax(values, axis=-1))


def minmax(maps: NDArray[np.floating]) -> Maps:
    """(m - min) / (max - min) of each map; zeros where it is constant or holds NaN or infinity."""
    finite, low, high = _finite_ranges(maps)
    span = np.where(high > low, high - low, np.inf)
    return np.asarray((finite - low) / span, dtype=np.float32)


def relu_max(maps: NDArray[np.floating]) -> Maps:
    """max(m, 0) / max(m) of each map; zeros where nothing is positive or not all is finite."""
    finite, _, high = _finite_ranges(maps)
    top = np.where(high > 0, high, np.inf)
    return np.asarray(np.maximum(finite, 0.0) / top, dtype=np.float32)


def otsu(maps: NDArray[np.floating]) -> Maps:
    """m / (m + t) of each map without its negative part, t being the threshold of its own by Otsu:
    what is hotter lies above a half; zeros where it is constant or not all is finite."""
    finite, low, high = _finite_ranges(maps)
    positive = np.maximum(np.where(high > low, finite, 0.0), 0.0)
    flat = positive.reshape(-1, positive.shape[-2] * positive.shape[-1])
    thresholds = [otsu_threshold(values) if values.any() else 1.0 for values in flat]
    level = np.array(thresholds).reshape(low.shape)
    return np.asarray(positive / np.maximum(positive + level, _TINY), dtype=np.float32)


def otsu_threshold(values: NDArray[np.floating]) -> float:
    """The highest value of the lower of two groups that differ most in their means (Otsu 1979)."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    below = np.arange(1, len(ordered))
    above = len(ordered) - below
    sums = ordered.cumsum()
    difference = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    return float(ordered[int((below * above * np.square(difference)).argmax())])


def sigmoid(maps: NDArray[np.floating]) -> Maps:
    """1 / (1 + exp(-m)), for logit maps; zeros for maps that are not finite."""
    is_finite = np.isfinite(maps).all(axis=(-2, -1), keepdims=True)
    return np.asarray(np.where(is_finite, logistic(maps), 0.0), dtype=np.float32)


def zscore(maps: NDArray[np.floating]) -> Maps:
    """(m - mean) / standard deviation of each map; zeros where it is constant or not finite."""
    finite, low, high = _finite_ranges(maps.astype(np.float64))
    centred = finite - finite.mean(axis=(-2, -1), keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=(-2, -1), keepdims=True))
    return np.asarray(centred / np.where(high > low, spread, np.inf), dtype=np.float32)


def unchanged(maps: NDArray[np.floating]) -> Maps:
    """The maps as they are; zeros for maps that are not finite."""
    is_finite = np.isfinite(maps).all(axis=(-2, -1), keepdims=True)
    return np.asarray(np.where(is_finite, maps, 0.0), dtype=np.float32)


NORMALISATIONS: dict[Normalisation, Callable[[NDArray[np.floating]], Maps]] = {
    "none": unchanged,
    "minmax": minmax,
    "relu_max": relu_max,
    "otsu": otsu,
    "sigmoid": sigmoid,
    "zscore": zscore,
}


def shared_out(heat: Maps, there: NDArray[np.bool_]) -> Maps:
    """Of each class's probability against background (C, rows, columns) its probability against
    background and the other classes that are in the image."""
    odds = heat / np.maximum(1.0 - heat, 1e-6)
    absent = np.where(there[:, None, None], 0.0, odds)  # those that are there are in the sum
    return np.asarray(odds / (1.0 + odds[there].sum(axis=0) + absent), dtype=np.float32)


def image_grid(image_size: Size, *, long_side: float | None = None) -> GridTransform:
    """The grid of (about) square cells over the whole image whose long side has so many cells.

    Never finer than the pixels; None means the pixels. This is the common grid of fused maps.
    """
    limit = max(image_size) if long_side is None else min(long_side, max(image_size))
    ratio = limit / max(image_size)
    columns, rows = (
        max(round(side * ratio), min(round(side), round(limit / _SLIMMEST)), 1)
        for side in image_size
    )
    return GridTransform.identity(image_size).resize((float(columns), float(rows)))


def resample(maps: ScoreMaps, grid: GridTransform) -> ScoreMaps:
    """The maps at the cell centres of another grid of the same image.

    Bilinear between cell centres, replicated outside of the outermost ones; padding is left
    behind. A map that is not finite everywhere becomes zeros.
    """
    across, down = map(_line_weights, _axes(maps.transform), _axes(grid))
    values = np.matmul(down @ unchanged(maps.values), across.T)
    return ScoreMaps(np.asarray(values, dtype=np.float32), grid, maps.kind)


def fuse(
    views: Sequence[ScoreMaps],
    grid: GridTransform,
    *,
    combine: Combination,
    normalise: Normalisation = "none",
    windows: Sequence[BoxLTRB] | None = None,
) -> ScoreMaps:
    """One set of maps from several of the same image: scales, flips, tiles.

    Each is normalised, resampled to `grid` and combined cell by cell; the logistic function alone
    comes after resampling (Oquab et al.: maps are resized, squashed, then their maximum is taken).
    `windows` are the image boxes the views were made from, for tiles: a view counts only inside
    its own. Tiles of one scale are best fused without normalisation, then normalised together with
    other scales.
    A view whose map is not finite does not count; a cell that no view counts for is 0.
    """
    if not views:
        raise ValueError("there are no views to fuse")
    columns, rows = (round(length) for length in grid.grid_size)
    shape = (views[0].values.shape[0], rows, columns)
    neutral = -np.inf if combine == "max" else 0.0
    total = np.full(shape, neutral, dtype=np.float32)
    count = np.zeros(shape, dtype=np.float32)
    for index, view in enumerate(views):
        counts = np.asarray(np.isfinite(view.values).all(axis=(1, 2), keepdims=True))
        if windows is not None:
            counts = counts & cells_inside(windows[index], grid)
        normalised = NORMALISATIONS["none" if normalise == "sigmoid" else normalise](view.values)
        values = resample(ScoreMaps(normalised, view.transform), grid).values
        if normalise == "sigmoid":
            values = sigmoid(values)
        step = np.maximum if combine == "max" else np.add
        step(total, np.where(counts, values, neutral), out=total)
        count += counts
    divisor = np.maximum(count, 1.0) if combine == "mean" else np.float32(1.0)
    fused = np.where(count > 0, total, 0.0) / divisor
    kinds: dict[Normalisation, MapKind] = {"none": views[0].kind, "sigmoid": "probability"}
    return ScoreMaps(fused.astype(np.float32), grid, kinds.get(normalise, "cam"))


def _finite_ranges(maps: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
    """The maps, all 0 where not finite everywhere; the least and the greatest value of each."""
    finite = np.where(np.isfinite(maps).all(axis=(-2, -1), keepdims=True), maps, 0.0)
    return finite, finite.min(axis=(-2, -1), keepdims=True), finite.max((-2, -1), keepdims=True)


def _axes(grid: GridTransform) -> tuple[Axis, Axis]:
    columns, rows = grid.grid_size
    return (grid.scale_x, grid.offset_x, columns), (grid.scale_y, grid.offset_y, rows)


def _line_weights(source: Axis, target: Axis) -> Maps:
    """(target cells, source cells) interpolation weights along one axis of two grids."""
    (scale, offset, length), (target_scale, target_offset, target_length) = source, target
    num_cells = round(length)
    centers = np.arange(round(target_length)) + 0.5
    to_source = scale * (1.0 / target_scale)
    positions = to_source * centers + (scale * (-target_offset / target_scale) + offset)
    from_first_center = np.clip(positions - 0.5, 0.0, num_cells - 1)
    # Rounding leaves 1e-16 of a neighbour's weight; exact centres give exact copies.
    near = np.rint(from_first_center)
    exact = np.abs(from_first_center - near) < 1e-9
    from_first_center = np.where(exact, near, from_first_center)
    distance = np.abs(from_first_center[:, None] - np.arange(num_cells))
    return np.asarray(np.maximum(1.0 - distance, 0.0), dtype=np.float32)


def cells_inside(window: BoxLTRB, grid: GridTransform) -> NDArray[np.bool_]:
    """Which cells of a grid have their centre in an image box: (rows, columns)."""
    columns, rows = (round(length) for length in grid.grid_size)
    x = (np.arange(columns) + 0.5 - grid.offset_x) / grid.scale_x
    y = (np.arange(rows) + 0.5 - grid.offset_y) / grid.scale_y
    across = (x >= window[0]) & (x < window[2])
    down = (y >= window[1]) & (y < window[3])
    return down[:, None] & across[None, :]
