"""A class's heat map in, one or several points of the image out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from weakloc.component_tree import component_tree
from weakloc.geometry import (
    GridTransform,
    PointXY,
    clip_point,
    map_point_to_image,
)
from weakloc.localize.maps import HeatMap

PointMethod: TypeAlias = Literal["arg_max", "plateau", "sub_cell", "densest"]
PeakMethod: TypeAlias = Literal["arg_max", "sub_cell", "densest"]
REACH = 0.06  # how far "around" reaches for `densest`: a share of the image's long side


@dataclass(frozen=True, slots=True)
class Peak:
    """A point inside the image and the heat it was found at."""

    x: float
    y: float
    heat: float


def locate_point(heat: HeatMap, transform: GridTransform, *, method: PointMethod) -> Peak:
    """Where the heat is greatest; the image's centre, with heat 0, if no value is finite.

    `arg_max`: centre of the greatest cell, the first in row-major order on ties. `plateau`: centre
    of the largest connected part of the greatest cells. `sub_cell`: the arg-max, refined.
    `densest`: centre of the cell with the most heat around it, so that a speck does not win over an
    object.
    """
    finite = np.isfinite(heat)
    if not finite.any():
        width, height = transform.image_size
        return Peak(width / 2, height / 2, 0.0)
    usable = np.where(finite, heat, -np.inf)
    if method == "densest":
        usable = _heat_around(usable, transform)
    row, column = divmod(int(np.argmax(usable)), heat.shape[1])
    if method == "plateau":
        point = _plateau_center(usable, transform)
    else:
        point = _cell_point(usable, row, column, transform, method)
    return Peak(*clip_point(point, transform.image_size), float(heat[row, column]))


def locate_points(
    heat: HeatMap,
    transform: GridTransform,
    *,
    max_points: int,
    min_distance: float = 0.0,
    method: PeakMethod = "arg_max",
) -> list[Peak]:
    """The regional maxima, hottest first, `min_distance` pixels apart.

    A plateau gives one point, its first cell. There may be fewer than `max_points`, or none.
    """
    usable = np.where(np.isfinite(heat), heat, -np.inf)
    if method == "densest":
        usable = _heat_around(usable, transform)
    peaks: list[Peak] = []
    for cell in regional_maxima(usable):
        row, column = divmod(int(cell), heat.shape[1])
        if len(peaks) >= max_points:
            break
        point = _cell_point(usable, row, column, transform, method)
        x, y = clip_point(point, transform.image_size)
        if all(np.hypot(x - peak.x, y - peak.y) >= min_distance for peak in peaks):
            peaks.append(Peak(x, y, float(heat[row, column])))
    return peaks


def _plateau_center(heat: HeatMap, transform: GridTransform) -> PointXY:
    """The centroid of the greatest cells, moved to the nearest of them if it misses all."""
    labels, _ = label(heat == heat.max(), np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    rows, columns = np.nonzero(labels == np.argmax(sizes[1:]) + 1)
    center_row, center_column = rows.mean(), columns.mean()
    distance = np.maximum(np.abs(rows - center_row), np.abs(columns - center_column))
    if distance.min() > 0.5:  # the cell that holds the centroid is not one of them
        nearest = np.argmin(np.hypot(rows - center_row, columns - center_column))
        center_row, center_column = rows[nearest], columns[nearest]
    return map_point_to_image((float(center_column) + 0.5, float(center_row) + 0.5), transform)


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


def _cell_point(
    heat: HeatMap, row: int, column: int, transform: GridTransform, method: PointMethod
) -> PointXY:
    """The cell's centre; `sub_cell`: the top of the parabolas through it and its neighbours, at
    most half a cell away."""
    if method != "sub_cell":
        return map_point_to_image((column + 0.5, row + 0.5), transform)
    across = _parabola_top(heat[row, :], column)
    down = _parabola_top(heat[:, column], row)
    return map_point_to_image((column + 0.5 + across, row + 0.5 + down), transform)


def _parabola_top(line: NDArray[np.floating], index: int) -> float:
    if index == 0 or index == len(line) - 1:
        return 0.0
    before, here, after = (float(value) for value in line[index - 1 : index + 2])
    curvature = before - 2.0 * here + after
    if not np.isfinite(curvature) or curvature >= 0.0:
        return 0.0
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5))
