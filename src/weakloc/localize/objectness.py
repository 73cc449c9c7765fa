"""Class-agnostic object maps from a backbone's own features, and their fusion with class maps.

Features (D, rows, columns) of one level go in; maps (rows, columns) in [0, 1] come out. Features
that do not vary (constant, a single cell) say nothing: their map is all 0. Cells with values that
are not finite get 0 and do not disturb the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.geometry import FloatArray, GridTransform, cell_center_in_image

FeatureMap: TypeAlias = NDArray[np.floating]
ObjectnessMap: TypeAlias = NDArray[np.float32]
MAX_GRAPH_CELLS = 1500  # a dense eigenvector problem of this size takes about a second
WEAK_EDGE = 1e-5
CENTER_SIGMA = 0.3  # standard deviation of the centre prior


@dataclass(frozen=True)
class PrincipalAxis:
    """The mean feature (D,) and the unit direction (D,) of largest variance."""

    mean: FloatArray
    direction: FloatArray


def feature_distance(features: FeatureMap) -> ObjectnessMap:
    """Distance of each cell from the image's mean feature: what is unlike the bulk stands out."""
    cells, known = _cells(features)
    deviations = cells - _mean(cells, known)
    if not _varies(deviations[known], cells[known]):
        return np.zeros(features.shape[1:], np.float32)
    return _stretched(np.linalg.norm(deviations, axis=1), known).reshape(features.shape[1:])


def principal_axis(feature_sets: Sequence[FeatureMap]) -> PrincipalAxis:
    """First principal axis of all cells of the images (DDT, Wei et al. 2019).

    One image, or many of one class: then the axis is what they share. PCA leaves the sign open;
    here the images' borders lie on the negative side.
    """
    parts = [_cells(features) for features in feature_sets]
    cells = np.concatenate([part[known] for part, known in parts])
    mean = cells.mean(axis=0) if len(cells) else np.zeros(feature_sets[0].shape[0])
    centered = cells - mean
    if len(centered) <= centered.shape[1]:
        vectors = np.linalg.eigh(centered @ centered.T)[1]
        direction = vectors[:, -1] @ centered if len(centered) else mean * 0.0
    else:
        direction = np.linalg.eigh(centered.T @ centered)[1][:, -1]
    length = np.linalg.norm(direction)
    if not _varies(centered, cells) or length == 0:
        return PrincipalAxis(mean, np.zeros_like(mean))
    direction = direction / length
    borders = []
    for (part, known), features in zip(parts, feature_sets, strict=True):
        is_border = np.ones(features.shape[1:], dtype=bool)
        is_border[1:-1, 1:-1] = False
        borders.append(part[known & is_border.ravel()])
    border = np.concatenate(borders)
    border_side = ((border - mean) @ direction).mean() if len(border) else 0.0
    return PrincipalAxis(mean, -direction if border_side > 0 else direction)


def axis_projection(features: FeatureMap, axis: PrincipalAxis) -> ObjectnessMap:
    """Projection onto the axis, its negative side cut: DDT's threshold-free extent."""
    cells, known = _cells(features)
    projections = np.maximum((cells - axis.mean) @ axis.direction, 0.0)
    highest = projections[known].max(initial=0.0)
    scaled = projections / highest if highest > 0 else projections
    return np.where(known, scaled, 0.0).astype(np.float32).reshape(features.shape[1:])


def bipartition(features: FeatureMap, *, similarity: float = 0.2) -> ObjectnessMap:
    """The cut of the image's similarity graph into two (TokenCut, Wang et al. 2022).

    Cells whose features have a cosine above `similarity` are joined, all others almost not. The
    second smallest generalised eigenvector of (D - A, D), less its mean, splits them; the side of
    its largest value is the object. Features are centred first: rectified ones are all alike
    otherwise. Above 1500 cells, blocks of cells are averaged before and share a value after.
    """
    rows, columns = features.shape[1:]
    block = int(np.ceil(np.sqrt(rows * columns / MAX_GRAPH_CELLS)))
    if block > 1:
        coarse = bipartition(_block_means(features, block), similarity=similarity)
        return coarse.repeat(block, axis=0).repeat(block, axis=1)[:rows, :columns]
    cells, known = _cells(features)
    centered = (cells - _mean(cells, known))[known]
    object_side = np.zeros(known.shape)
    if not _varies(centered, cells[known]):
        return object_side.astype(np.float32).reshape(rows, columns)
    lengths = np.linalg.norm(centered, axis=1, keepdims=True)
    unit = np.divide(centered, lengths, out=np.zeros_like(centered), where=lengths > 0)
    edges = np.where(unit @ unit.T > similarity, 1.0, WEAK_EDGE)
    object_side[known] = _second_eigenvector_side(edges)
    return _stretched(object_side, known).reshape(rows, columns)


def _second_eigenvector_side(edges: FloatArray) -> FloatArray:
    """The vector less its mean, signed by its largest entry, its negative side cut."""
    if edges.min() == edges.max():  # no cut is better than another
        return np.zeros(len(edges))
    roots = 1.0 / np.sqrt(edges.sum(axis=1))
    vectors = np.linalg.eigh(edges * roots[:, None] * roots[None, :])[1]
    cut = roots * vectors[:, -2]
    cut = cut - cut.mean()
    return np.asarray(np.maximum(cut * np.sign(cut[np.argmax(np.abs(cut))]), 0.0))


def center_prior(transform: GridTransform) -> ObjectnessMap:
    """A Gaussian about the image's centre on the cells of a grid, CENTER_SIGMA of each side wide.

    Taken at the cells' places in the image, so crops and padding do not move it.
    """
    columns, rows = int(transform.grid_size[0]), int(transform.grid_size[1])
    width, height = transform.image_size
    x = np.array([cell_center_in_image(0, column, transform)[0] for column in range(columns)])
    y = np.array([cell_center_in_image(row, 0, transform)[1] for row in range(rows)])
    along_x = np.exp(-0.5 * ((x / width - 0.5) / CENTER_SIGMA) ** 2)
    along_y = np.exp(-0.5 * ((y / height - 0.5) / CENTER_SIGMA) ** 2)
    return (along_y[:, None] * along_x[None, :]).astype(np.float32)


def fuse_product(class_maps: ObjectnessMap, objectness: ObjectnessMap) -> ObjectnessMap:
    """Positive part of the (C, rows, columns) class maps times the (rows, columns) object map.

    An object map without any positive value says nothing and leaves that part as it is.
    """
    if class_maps.shape[1:] != objectness.shape:
        raise ValueError(f"class maps {class_maps.shape} and object map {objectness.shape} differ")
    weights = objectness if objectness.max(initial=0.0) > 0 else np.ones_like(objectness)
    return np.asarray(np.maximum(class_maps, 0) * weights, dtype=np.float32)


def _cells(features: FeatureMap) -> tuple[FloatArray, NDArray[np.bool_]]:
    """(rows * columns, D) features, unknown ones as 0, and which are known."""
    cells = features.reshape(features.shape[0], -1).T.astype(np.float64)
    known = np.asarray(np.isfinite(cells).all(axis=1))
    return np.where(known[:, None], cells, 0.0), known


def _mean(cells: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
    return np.asarray(cells.sum(axis=0) / max(known.sum(), 1))


def _varies(centered: FloatArray, cells: FloatArray) -> bool:
    """Whether deviations are more than what rounding leaves of a constant."""
    if centered.size == 0:
        return False
    return bool(np.abs(centered).max() > 1e-6 * np.abs(cells).max())


def _stretched(values: FloatArray, known: NDArray[np.bool_]) -> ObjectnessMap:
    """Known values stretched to [0, 1], others 0; equal values give 0."""
    scaled = np.zeros(values.shape)
    lowest, highest = values[known].min(initial=np.inf), values[known].max(initial=-np.inf)
    if highest - lowest > 1e-9 * abs(highest):
        scaled[known] = (values[known] - lowest) / (highest - lowest)
    return scaled.astype(np.float32)


def _block_means(features: FeatureMap, block: int) -> FeatureMap:
    """Means over block x block cells; the last blocks of a side may be smaller."""
    rows, columns = features.shape[1:]
    first_rows, first_columns = np.arange(0, rows, block), np.arange(0, columns, block)
    sums = np.add.reduceat(features.astype(np.float64), first_rows, axis=1)
    sums = np.add.reduceat(sums, first_columns, axis=2)
    heights = np.minimum(rows - first_rows, block)
    widths = np.minimum(columns - first_columns, block)
    return np.asarray(sums / (heights[:, None] * widths[None, :]))
