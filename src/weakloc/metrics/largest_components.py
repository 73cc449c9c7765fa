"""A map of levels in; the largest component at every threshold out, by pixels or by contour.

A contour's area is that of the polygon through the centres of the border pixels, holes filled, so
that a line has none. It is 1 for each 2 x 2 block of foreground and 1/2 for each block of three,
plus the holes; only where holes could change the winner is a contour followed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.component_tree import ComponentTree
from weakloc.geometry import IntArray

NUM_LEVELS = 255

# Neighbours in counterclockwise order as seen on the screen, from the west.
_ROWS = np.array([0, 1, 1, 1, 0, -1, -1, -1])
_COLUMNS = np.array([-1, -1, 0, 1, 1, 1, 0, -1])


class _Nodes(NamedTuple):
    """Components with the inclusive range of thresholds that show them."""

    first_level: IntArray  # (N,)
    last_level: IntArray  # (N,)
    first_cell: IntArray  # (N,) in row-major order
    lower: IntArray  # (N,) bounds of the size
    upper: IntArray  # (N,)


def largest_by_pixels(tree: ComponentTree) -> IntArray:
    """The node with the most pixels at each of the thresholds 0 to 254, -1 where there is none.

    Of equal ones the one that starts first in row-major order. The map must be of bytes.
    """
    first_cell = _cells_and_blocks(tree)[:, 0]
    nodes = _ranges(tree, first_cell, tree.area, tree.area)
    return np.asarray(_pick(nodes, tree.area, -1))


def largest_by_contour(map_uint8: NDArray[np.uint8], tree: ComponentTree) -> IntArray:
    """The node with the largest contour area; of equal ones the one that starts last.

    OpenCV lists contours from the bottom of the image upwards, and the first maximum is taken.
    """
    summed = _cells_and_blocks(tree)
    twice_area, num_holes = summed[:, 1], 1 - summed[:, 2] // 4
    width, height = (tree.box[:, 2:] - tree.box[:, :2]).T
    nodes = _ranges(tree, summed[:, 0], twice_area, 2 * (width - 1) * (height - 1))
    sizes = np.where(num_holes > 0, -1, twice_area)
    _follow_contenders(np.ascontiguousarray(map_uint8), nodes, sizes)
    return np.asarray(_pick(nodes, sizes, 1))


def _ranges(tree: ComponentTree, first_cell: IntArray, lower: IntArray, upper: IntArray) -> _Nodes:
    return _Nodes(
        first_level=np.maximum(tree.parent_level, 0).astype(np.int64),
        last_level=tree.level.astype(np.int64) - 1,
        first_cell=first_cell,
        lower=lower,
        upper=upper,
    )


def _cells_and_blocks(tree: ComponentTree) -> IntArray:
    """First cell, twice the unfilled contour area and four times the Euler number: (N, 3)."""
    return np.asarray(_sum_blocks(tree.node_of, tree.parent, tree.level, tree.shape[1]))


@njit(cache=True, nogil=True)
def _sum_blocks(
    node_of: IntArray, parent: IntArray, level: NDArray[np.float64], width: int
) -> IntArray:
    """Adds up 2 x 2 blocks of cells, those over the border included.

    As the threshold falls, the cells of a block join one by one. The third and the fourth add half
    a square each to the area. The Euler number counts blocks with one cell (+1), three (-1) and
    two in diagonal (-2), each a quarter.
    """
    num_nodes = parent.size
    summed = np.zeros((num_nodes, 3), dtype=np.int64)
    summed[:, 0] = node_of.size
    for cell in range(node_of.size - 1, -1, -1):
        summed[node_of[cell], 0] = cell
    height = node_of.size // width
    corners = np.empty(4, dtype=np.int64)  # nodes, around the block; -1 over the border
    for row in range(height + 1):
        for column in range(width + 1):
            for corner in range(4):
                i = row - (corner < 2)
                j = column - (corner in (0, 3))
                inside = 0 <= i < height and 0 <= j < width
                corners[corner] = node_of[i * width + j] if inside else -1
            _add_block(summed, corners, level)
    for node in range(num_nodes):
        if parent[node] >= 0:
            summed[parent[node], 0] = min(summed[parent[node], 0], summed[node, 0])
            summed[parent[node], 1] += summed[node, 1]
            summed[parent[node], 2] += summed[node, 2]
    return summed


@njit(cache=True, nogil=True)
def _add_block(summed: IntArray, corners: IntArray, level: NDArray[np.float64]) -> None:
    present, last, euler = 0, -1, 0
    used = 0
    for _ in range(4):
        best = -1
        for corner in range(4):
            if corners[corner] < 0 or used >> corner & 1:
                continue
            if best < 0 or level[corners[corner]] > level[corners[best]]:
                best = corner
        if best < 0:
            return
        used |= 1 << best
        present += 1
        is_diagonal = present == 2 and (best + 2) % 4 == last
        after = (0, 1, -2 if is_diagonal else 0, -1, 0)[present]
        summed[corners[best], 1] += present > 2
        summed[corners[best], 2] += after - euler
        euler, last = after, best


@njit(cache=True, nogil=True)
def _pick(nodes: _Nodes, sizes: IntArray, direction: int) -> IntArray:
    """The largest node at each level; of equal ones that with the largest directed first cell."""
    chosen = np.full(NUM_LEVELS, -1)
    for node in range(sizes.size):
        for t in range(nodes.first_level[node], nodes.last_level[node] + 1):
            rival = chosen[t]
            if rival < 0 or sizes[node] > sizes[rival]:
                chosen[t] = node
            elif sizes[node] == sizes[rival]:
                later = (nodes.first_cell[node] - nodes.first_cell[rival]) * direction
                chosen[t] = node if later > 0 else rival
    return chosen


@njit(cache=True, nogil=True)
def _follow_contenders(map_uint8: NDArray[np.uint8], nodes: _Nodes, sizes: IntArray) -> None:
    """Fills in the size of the nodes with holes where more than one could be the largest."""
    least = np.zeros(NUM_LEVELS, dtype=np.int64)
    for node in range(sizes.size):
        for t in range(nodes.first_level[node], nodes.last_level[node] + 1):
            least[t] = max(least[t], nodes.lower[node])
    contenders = np.zeros(NUM_LEVELS, dtype=np.int64)
    for node in range(sizes.size):
        for t in range(nodes.first_level[node], nodes.last_level[node] + 1):
            contenders[t] += nodes.upper[node] >= least[t]
    for node in range(sizes.size):
        if sizes[node] >= 0:
            continue
        sizes[node] = nodes.lower[node]
        for t in range(nodes.first_level[node], nodes.last_level[node] + 1):
            if contenders[t] > 1 and nodes.upper[node] >= least[t]:
                sizes[node] = _contour_area(map_uint8, nodes.first_cell[node], t)
                break


@njit(cache=True, nogil=True)
def _contour_area(map_uint8: NDArray[np.uint8], first_cell: int, threshold: int) -> int:
    """Twice the area inside the outer border that starts at a cell, by border following."""
    width = map_uint8.shape[1]
    start_row, start_column = first_cell // width, first_cell % width
    # Clockwise from the west, the first neighbour is where the border will close.
    back = _next_neighbour(map_uint8, threshold, (start_row, start_column), (0, -1))
    if back < 0:
        return 0
    row, column, direction = start_row, start_column, back
    twice = 0
    while True:
        direction = _next_neighbour(map_uint8, threshold, (row, column), (direction + 1, 1))
        next_row, next_column = row + _ROWS[direction], column + _COLUMNS[direction]
        twice += column * next_row - next_column * row
        closes = next_row == start_row and next_column == start_column
        if closes and (direction + 4) % 8 == back:
            return int(abs(twice))
        row, column, direction = next_row, next_column, (direction + 4) % 8


@njit(cache=True, nogil=True)
def _next_neighbour(
    map_uint8: NDArray[np.uint8], threshold: int, cell: tuple[int, int], turn: tuple[int, int]
) -> int:
    """The first direction to foreground, or -1; `turn` is the one to start with and the step."""
    start, step = turn
    for number in range(8):
        direction = (start + number * step) % 8
        i, j = cell[0] + _ROWS[direction], cell[1] + _COLUMNS[direction]
        inside = 0 <= i < map_uint8.shape[0] and 0 <= j < map_uint8.shape[1]
        if inside and map_uint8[i, j] > threshold:
            return direction
    return -1
