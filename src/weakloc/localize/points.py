"""A class's heat map in, one or several points of the image out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from weakloc.component_tree import component_tree
from weakloc.geometry import (
    BoxLTRB,
    GridTransform,
    PointXY,
    Size,
    map_box_to_image,
    map_point_to_image,
)
from weakloc.localize.maps import NORMALISATIONS, HeatMap, Normalisation, unchanged
from weakloc.structures import ScoreMaps

PointMethod: TypeAlias = Literal["arg_max", "plateau", "sub_cell", "densest"]
REACH = 0.06  # how far "around" reaches for `densest`: a share of the image's long side


@dataclass(frozen=True, slots=True)
class Peak:
    """A point inside the image and the heat it was found at."""

    x: float
    y: float
    heat: float


@dataclass(frozen=True)
class FoundPeak:
    """A peak and the way to the map that it was found in."""

    peak: Peak
    transform: GridTransform


@dataclass(frozen=True)
class PointMap:
    """A map of one class in whose cells points are looked for; none lies outside of `within`."""

    values: HeatMap
    transform: GridTransform
    within: BoxLTRB


def hottest_views(views: Sequence[ScoreMaps], normalise: Normalisation) -> list[int]:
    """For each class the view with the greatest normalised value, of several the greatest raw one.

    Where the logistic function has no more digits the raw values still differ. A view whose map
    is not finite does not count.
    """
    keys = np.full((views[0].values.shape[0], len(views), 2), -np.inf)
    for index, view in enumerate(views):
        finite = np.isfinite(view.values).all(axis=(1, 2))
        normalised = NORMALISATIONS[normalise](view.values).max(axis=(1, 2))
        raw = unchanged(view.values).max(axis=(1, 2))
        keys[finite, index] = np.stack([normalised, raw], axis=1)[finite]
    return [max(range(len(views)), key=of_class.__getitem__) for of_class in keys.tolist()]


def outermost_centers(transforms: Sequence[GridTransform]) -> BoxLTRB:
    """The image box that the centres of all cells span, without those in the padding.

    A map that is resampled repeats its outermost cells up to the border of the image: a point
    between them and the border would be nearer to the border than anything that was seen.
    """
    spans = [
        map_box_to_image((0.5, 0.5, columns - 0.5, rows - 0.5), transform)
        for transform in transforms
        for columns, rows in [transform.grid_size]
    ]
    left, top = np.min(spans, axis=0)[:2].tolist()
    right, bottom = np.max(spans, axis=0)[2:].tolist()
    corners = (left, top), (right, bottom)
    pixels = pixel_centers(transforms[0].image_size)
    (left, top), (right, bottom) = (nearest_inside(corner, pixels) for corner in corners)
    return left, top, right, bottom


def pixel_centers(image_size: Size) -> BoxLTRB:
    """The box that the centres of the pixels span: a point on it is still inside the image."""
    width, height = image_size
    return 0.5, 0.5, width - 0.5, height - 0.5


def nearest_inside(point: PointXY, box: BoxLTRB) -> PointXY:
    left, top, right, bottom = box
    return min(max(point[0], left), right), min(max(point[1], top), bottom)


def locate_point(
    heat: HeatMap, transform: GridTransform, *, method: PointMethod, within: BoxLTRB | None = None
) -> Peak:
    """Where the heat is greatest; the image's centre, with heat 0, if no value is finite.

    `arg_max`: centre of the greatest cell, the first in row-major order on ties. `plateau`: centre
    of the largest connected part of the greatest cells. `sub_cell`: the arg-max, refined.
    `densest`: centre of the cell with the most heat around it, so that a speck does not win over an
    object. A point outside of `within`, which is the image, moves to its border: the hottest cell
    may lie in the padding.
    """
    if not np.isfinite(heat).any():
        width, height = transform.image_size
        return Peak(width / 2, height / 2, 0.0)
    usable = _usable(heat, transform, method)
    cell = int(np.argmax(usable))
    if method == "plateau":
        labels, _ = label(usable == usable.max(), np.ones((3, 3)))
        largest = np.argmax(np.bincount(labels.ravel())[1:]) + 1
        cell = int(np.argmax(labels == largest))
    point = _point_of(usable, cell, transform, method)
    inside = within or pixel_centers(transform.image_size)
    return Peak(*nearest_inside(point, inside), float(heat.flat[cell]))


def locate_points(
    heat: HeatMap,
    transform: GridTransform,
    *,
    max_points: int,
    min_distance: float = 0.0,
    method: PointMethod = "arg_max",
    within: BoxLTRB | None = None,
    first: FoundPeak | None = None,
) -> list[Peak]:
    """The regional maxima, hottest first, `min_distance` pixels apart, one for each plateau.

    `first` is one that is known already; what lies within a cell of it is the same. There may be
    fewer than `max_points`, or none.
    """
    usable = _usable(heat, transform, method)
    inside = within or pixel_centers(transform.image_size)
    peaks = [] if first is None else [first.peak]
    for cell in regional_maxima(usable).tolist():
        if len(peaks) >= max_points:
            break
        x, y = nearest_inside(_point_of(usable, cell, transform, method), inside)
        is_apart = all(np.hypot(x - peak.x, y - peak.y) >= min_distance for peak in peaks)
        if first is not None:
            across = abs((x - first.peak.x) * first.transform.scale_x)
            down = abs((y - first.peak.y) * first.transform.scale_y)
            is_apart &= max(across, down) >= 1.0
        if is_apart:
            peaks.append(Peak(x, y, float(heat.flat[cell])))
    return peaks


def _usable(heat: HeatMap, transform: GridTransform, method: PointMethod) -> HeatMap:
    usable = np.where(np.isfinite(heat), heat, -np.inf)
    return _heat_around(usable, transform) if method == "densest" else usable


def _point_of(heat: HeatMap, cell: int, transform: GridTransform, method: PointMethod) -> PointXY:
    """The cell's centre, or its plateau's; `sub_cell`: the top of the parabolas through it and its
    neighbours, at most half a cell away."""
    row, column = divmod(cell, heat.shape[1])
    if method == "plateau":
        # The centroid, moved to the nearest of its cells if it misses all.
        labels, _ = label(heat == heat[row, column], np.ones((3, 3)))
        rows, columns = np.nonzero(labels == labels[row, column])
        center_row, center_column = rows.mean(), columns.mean()
        distance = np.maximum(np.abs(rows - center_row), np.abs(columns - center_column))
        if distance.min() > 0.5:  # the cell that holds the centroid is not one of them
            nearest = np.argmin(np.hypot(rows - center_row, columns - center_column))
            center_row, center_column = rows[nearest], columns[nearest]
        return map_point_to_image((float(center_column) + 0.5, float(center_row) + 0.5), transform)
    if method != "sub_cell":
        return map_point_to_image((column + 0.5, row + 0.5), transform)
    across = _parabola_top(heat[row, :], column)
    down = _parabola_top(heat[:, column], row)
    return map_point_to_image((column + 0.5 + across, row + 0.5 + down), transform)


def _heat_around(heat: HeatMap, transform: GridTransform) -> HeatMap:
    """What lies above the lowest heat, blurred; beyond the border there is none."""
    finite = np.isfinite(heat)
    if not finite.any():
        return heat
    above = np.where(finite, heat, heat[finite].min()) - heat[finite].min()
    reach = REACH * max(transform.image_size)
    rows, columns = heat.shape
    return np.asarray(
        _blur(rows, reach * transform.scale_y) @ above @ _blur(columns, reach * transform.scale_x)
    )


def _blur(cells: int, reach: float) -> NDArray[np.float64]:
    distance = np.subtract.outer(np.arange(cells), np.arange(cells))
    return np.exp(-0.5 * np.square(distance / reach))


def regional_maxima(heat: HeatMap) -> NDArray[np.int64]:
    """First cells of the plateaus that have no higher neighbour, hottest first."""
    tree = component_tree(np.where(np.isfinite(heat), heat, np.nan))
    is_leaf = np.ones(len(tree.parent), dtype=np.bool_)
    is_leaf[tree.parent[tree.parent >= 0]] = False
    order = np.lexsort((tree.peak[is_leaf], -tree.level[is_leaf]))
    return tree.peak[is_leaf][order]


def _parabola_top(line: NDArray[np.floating], index: int) -> float:
    if index == 0 or index == len(line) - 1:
        return 0.0
    before, here, after = (float(value) for value in line[index - 1 : index + 2])
    curvature = before - 2.0 * here + after
    if not np.isfinite(curvature) or curvature >= 0.0:
        return 0.0
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5))
