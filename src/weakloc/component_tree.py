"""An array of values in; the components of all its thresholded versions out, in one pass.

The components of {value > t} for every t form a tree: raising t splits and shrinks them. The tree
is built by union-find over the pixels in descending order, so boxes, areas, heat sums and peaks of
every component at every threshold cost about as much as one labelling.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.geometry import FloatArray, IntArray

Connectivity: TypeAlias = Literal[4, 8]
Cells: TypeAlias = NDArray[np.uint32]  # flat indices
NUM_LEVELS = 255  # thresholds that tell the values of a map of bytes apart
_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))  # clockwise


@dataclass(frozen=True)
class ComponentTree:
    """Every component of {value > t} at every t, one entry a node; children come before parents.

    Node n is a component for parent_level[n] <= t < level[n]; a root (parent -1) for all t below
    its level. Boxes are half-open, in cells. `peak` is the flat index of the highest cell, the
    first in row-major order on ties.
    """

    parent: IntArray  # (N,)
    level: FloatArray  # (N,) the lowest value inside
    parent_level: FloatArray  # (N,) -inf for roots
    box: IntArray  # (N, 4) left, top, right, bottom
    area: IntArray  # (N,) cells
    heat_sum: FloatArray  # (N,)
    peak: IntArray  # (N,)
    first: IntArray  # (N,) the first cell in row-major order


@dataclass(frozen=True)
class LevelBoxes:
    """Half-open boxes (N, 4), each with the inclusive range of integer thresholds that show it."""

    first_level: IntArray
    last_level: IntArray
    boxes: NDArray[np.number]


def component_tree(
    values: NDArray[np.generic], connectivity: Connectivity = 8, *, above: float = -np.inf
) -> ComponentTree:
    """The tree of a (height, width) array; cells not greater than `above`, and NaN, stay out."""
    if values.ndim != 2:
        raise ValueError(f"a component tree needs a two-dimensional array, got {values.shape}")
    heat = np.ascontiguousarray(values, dtype=np.float64).ravel()
    if values.dtype == np.uint8 and above < 0:
        order = _descending_bytes(np.ascontiguousarray(values, dtype=np.uint8).ravel())
    else:
        kept = np.flatnonzero(heat > above) if above > -np.inf else np.flatnonzero(~np.isnan(heat))
        order = kept[_descending(heat[kept])].astype(np.uint32)
    return _tree(heat, order, np.zeros(values.shape, dtype=np.bool_), connectivity)


def components_at(tree: ComponentTree, threshold: float) -> NDArray[np.intp]:
    """The nodes that are the components of {value > threshold}."""
    return np.flatnonzero((tree.level > threshold) & (tree.parent_level <= threshold))


def level_boxes(tree: ComponentTree) -> LevelBoxes:
    """Boxes of the nodes of a map of bytes for the thresholds t = 0 to 254; some at none."""
    return LevelBoxes(
        first_level=np.maximum(tree.parent_level, 0).astype(np.int64),
        last_level=tree.level.astype(np.int64) - 1,
        boxes=tree.box,
    )


def hole_level_boxes(map_uint8: NDArray[np.uint8]) -> LevelBoxes:
    """The same for the holes: 4-connected parts of {value <= t} that do not reach the border.

    Boxes are those of the hole contours as border following finds them, which run on the
    surrounding foreground: one pixel larger on each side than the hole.
    """
    if map_uint8.dtype != np.uint8 or map_uint8.ndim != 2:
        raise ValueError(
            f"levels need a (height, width) uint8 map, got {map_uint8.dtype} {map_uint8.shape}"
        )
    depth = np.ascontiguousarray(np.uint8(255) - map_uint8)
    at_border = np.ones(depth.shape, dtype=np.bool_)
    at_border[1:-1, 1:-1] = False
    order = _descending_bytes(depth.ravel())
    tree = _tree(depth.ravel().astype(np.float64), order, at_border, 4)
    return LevelBoxes(
        first_level=255 - tree.level.astype(np.int64),
        last_level=254 - tree.parent_level.astype(np.int64),
        boxes=tree.box + np.array([-1, -1, 1, 1]),
    )


@njit(cache=True, nogil=True)
def last_shown(first_level: IntArray, last_level: IntArray, order: IntArray) -> IntArray:
    """Of what each level shows, that which comes last in an order; -1 where it shows nothing."""
    last = np.full(NUM_LEVELS, -1)
    for index in order:
        last[first_level[index] : last_level[index] + 1] = index
    return last


def _tree(
    heat: FloatArray, order: Cells, excluded: NDArray[np.bool_], connectivity: Connectivity
) -> ComponentTree:
    """The tree of the components without an excluded cell (height, width)."""
    height, width = excluded.shape
    joined, kept = _join_cells(order, excluded.ravel(), width, _link_table(connectivity))
    nodes, lower, node_of = _number_nodes(heat, kept, joined)
    parent = np.where(lower == nodes, -1, node_of[lower])
    whole, heat_sum = _gather(heat, node_of, parent, height, width)
    first = whole[:, 1].copy()
    whole[:, 1] //= width
    return ComponentTree(
        parent=parent,
        level=heat[nodes],
        parent_level=np.where(lower == nodes, -np.inf, heat[lower]),
        box=whole[:, :4],
        area=whole[:, 4],
        heat_sum=heat_sum,
        peak=whole[:, 5],
        first=first,
    )


@cache
def _link_table(connectivity: Connectivity) -> NDArray[np.uint8]:
    """Which neighbours to join, for each of the 256 patterns of neighbours already there.

    Neighbours that touch each other are joined already, so one of each group is enough: on a
    smooth map that is one union a cell instead of eight. Bits run clockwise from the top-left.
    """
    table = np.zeros((256, 5), dtype=np.uint8)  # how many, then which
    for pattern in range(256):
        present = [bit for bit in range(8) if pattern >> bit & 1]
        group = {bit: bit for bit in present}
        for first, second in itertools.combinations(present, 2):
            down, across = (abs(a - b) for a, b in zip(_RING[first], _RING[second], strict=True))
            if (max(down, across) if connectivity == 8 else down + across) == 1:
                old, new = group[second], group[first]
                group = {bit: new if label == old else label for bit, label in group.items()}
        linked = [bit for bit in present if connectivity == 8 or bit % 2]
        chosen = {group[bit]: bit for bit in linked}.values()
        table[pattern, : len(chosen) + 1] = [len(chosen), *chosen]
    return table


def _descending(values: FloatArray) -> IntArray:
    """Stable, so that the same map gives the same tree on every machine."""
    single = values.astype(np.float32)
    if not np.array_equal(single, values):
        return np.argsort(-values, kind="stable")
    # As whole numbers with the index behind them, which sort much faster; -0.0 becomes 0.0.
    bits = (single + np.float32(0.0)).view(np.int32).astype(np.int64)
    keys = np.where(bits < 0, bits & 0xFFFFFFFF, 0x7FFFFFFF - bits) << 31
    return np.sort(keys | np.arange(values.size)) & 0x7FFFFFFF


@njit(cache=True, nogil=True)
def _descending_bytes(values: NDArray[np.uint8]) -> Cells:
    """Counting sort, row-major within a level."""
    start = np.zeros(257, dtype=np.int64)
    for value in values:
        start[256 - value] += 1
    start = np.cumsum(start)
    order = np.empty(values.size, dtype=np.uint32)
    for cell in range(values.size):
        slot = 255 - values[cell]
        order[start[slot]] = cell
        start[slot] += 1
    return order


@njit(cache=True, nogil=True)
def _find(link: Cells, cell: np.uint32) -> np.uint32:
    """The root of a cell's set; the path to it is halved on the way."""
    above = link[cell]
    while above != cell:
        link[cell] = cell = link[above]
        above = link[cell]
    return cell


@njit(cache=True, nogil=True)
def _neighbours(there: NDArray[np.uint8], slot: np.uint32, stride: np.uint32) -> np.uint8:
    """Which of the eight neighbours are there, clockwise from the top-left."""
    one = np.uint32(1)
    pattern: np.uint8 = (
        there[slot - stride - one]
        | there[slot - stride] << 1
        | there[slot - stride + one] << 2
        | there[slot + one] << 3
        | there[slot + stride + one] << 4
        | there[slot + stride] << 5
        | there[slot + stride - one] << 6
        | there[slot - one] << 7
    )
    return pattern


@njit(cache=True, nogil=True)
def _join_cells(
    order: Cells, excluded: NDArray[np.bool_], width: int, table: NDArray[np.uint8]
) -> tuple[Cells, Cells]:
    """The tree over cells: each points to the cell that first joined it to something lower.

    Second, the cells in order without those that join an excluded one when they are added.
    Union by rank keeps the paths short; `lowest` is the last cell of a set, the node it stands for.
    Unsigned indices and a margin of one cell save the checks for negative and outside ones.
    """
    height = excluded.size // max(width, 1)
    steps = np.array([-width - 1, -width, -width + 1, 1, width + 1, width, width - 1, -1])
    steps = steps.astype(np.uint32)
    columns, stride = np.uint32(width), np.uint32(width + 2)
    there = np.zeros((width + 2) * (height + 2), dtype=np.uint8)
    rank = np.zeros(width * height, dtype=np.uint8)
    parent = np.empty(width * height, dtype=np.uint32)
    link, lowest = np.empty_like(parent), np.empty_like(parent)
    lost, kept, num_kept = excluded.copy(), np.empty_like(order), 0
    for cell in order:
        slot = cell + np.uint32(2) * (cell // columns) + stride + np.uint32(1)
        there[slot] = 1
        choices = table[_neighbours(there, slot, stride)]
        parent[cell] = link[cell] = root = cell
        for choice in range(1, choices[0] + 1):
            other = _find(link, np.uint32(cell + steps[choices[choice]]))
            if other != root:
                parent[lowest[other]] = cell
                if rank[other] < rank[root]:
                    root, other = other, root
                if rank[other] == rank[root]:
                    rank[other] += 1
                link[root] = other
                lost[other] |= lost[root]
                root = other
        lowest[root] = cell
        kept[num_kept] = cell
        num_kept += not lost[root]
    return parent, kept[:num_kept]


@njit(cache=True, nogil=True)
def _number_nodes(heat: FloatArray, order: Cells, joined: Cells) -> tuple[Cells, Cells, IntArray]:
    """The cells that stand for a node, highest first; those of the nodes below them, which are the
    same for roots; and the node that each cell first appears in, -1 for none."""
    parent = joined.copy()
    nodes, lowers = np.empty_like(order), np.empty_like(order)
    node_of = np.full(heat.size, -1)
    start = order.size
    for cell in order[::-1]:  # from the roots up
        lower = parent[cell]
        if heat[parent[lower]] == heat[lower]:
            lower = parent[cell] = parent[lower]
        if lower == cell or heat[lower] != heat[cell]:
            start -= 1
            nodes[start], lowers[start], node_of[cell] = cell, lower, start
        else:
            node_of[cell] = node_of[lower]
    return nodes[start:], lowers[start:], np.maximum(node_of - start, -1)


@njit(cache=True, nogil=True)
def _gather(
    heat: FloatArray, node_of: IntArray, parent: IntArray, height: int, width: int
) -> tuple[IntArray, FloatArray]:
    """Left, first cell, right, bottom, area and peak of each node; heat sums."""
    whole = np.zeros((parent.size, 6), dtype=np.int64)
    whole[:, 0] = width
    heat_sum = np.zeros(parent.size, dtype=np.float64)
    cell = np.uint32(0)
    for row in range(height):
        for column in range(width):
            if node_of[cell] >= 0:
                node = whole[node_of[cell]]
                if node[4] == 0:
                    node[1], node[5] = cell, cell
                node[0], node[2] = min(node[0], column), max(node[2], column + 1)
                node[3] = row + 1
                node[4] += 1
                heat_sum[node_of[cell]] += heat[cell]
            cell += np.uint32(1)
    for child in range(parent.size):
        if parent[child] >= 0:
            _widen(whole[parent[child]], whole[child], heat)
            heat_sum[parent[child]] += heat_sum[child]
    return whole, heat_sum


@njit(cache=True, nogil=True)
def _widen(node: IntArray, part: IntArray, heat: FloatArray) -> None:
    """Adds a part to a node, in place."""
    node[0], node[1] = min(node[0], part[0]), min(node[1], part[1])
    node[2], node[3] = max(node[2], part[2]), max(node[3], part[3])
    node[4] += part[4]
    old, new = heat[node[5]], heat[part[5]]
    if new > old or (new == old and part[5] < node[5]):
        node[5] = part[5]
