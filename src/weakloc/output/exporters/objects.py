"""Masks of one image -> their outlines, as annotation formats know them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.geometry import IntArray

Corners: TypeAlias = NDArray[np.int32]  # (N, 2) of x, y; the last corner joins the first
BoolMask: TypeAlias = NDArray[np.bool_]


def outlines_of(mask: BoolMask) -> list[Corners]:
    """One outline for each part whose pixels share sides, clockwise, from the top down."""
    padded = np.pad(mask, 1)
    tops = np.argwhere(padded[1:, 1:-1] & ~padded[:-1, 1:-1])
    corners_of_loops, ends, loop_of_top_edge = _trace(padded, tops)
    loops = np.split(corners_of_loops, ends[:-1]) if len(ends) else []
    outlines: list[list[tuple[int, int]]] = []
    owner: dict[int, int] = {}  # loop -> the outline that it has become a part of
    for number, loop in enumerate(loops):  # by their topmost edge: holes after what is above them
        corners: list[tuple[int, int]] = list(map(tuple, loop.tolist()))
        x, y = loop.astype(np.int64).T
        if np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0:  # clockwise, as y points down
            owner[number] = len(outlines)
            outlines.append(corners)
        else:
            left, top = min(corners, key=lambda corner: (corner[1], corner[0]))
            gaps = np.flatnonzero(~mask[: top - 1, left])  # in the column above the hole's border
            row = int(gaps[-1]) + 1 if len(gaps) else 0
            owner[number] = owner[int(loop_of_top_edge[row, left])]
            _splice(outlines[owner[number]], corners, start=(left, top), row=row)
    return [np.array(corners, dtype=np.int32) for corners in outlines]


def join_outlines(outlines: list[Corners]) -> Corners:
    """One closed outline of several, for formats that know a single polygon an object.

    The parts hang together by lines walked there and back, as Ultralytics' converter joins them.
    """
    joined = outlines[0]
    for outline in outlines[1:]:
        back = joined[:1]
        joined = np.concatenate((joined, back, outline, outline[:1], back))
    return joined


def _splice(
    outline: list[tuple[int, int]], hole: list[tuple[int, int]], *, start: tuple[int, int], row: int
) -> None:
    """Walks from the outline's border at `row` down to the hole, around it and back up."""
    at = hole.index(start)
    detour = [*hole[at:], *hole[:at], start]
    foot = (start[0], row)
    for index, (x, y) in enumerate(outline):
        next_x, next_y = outline[(index + 1) % len(outline)]
        if y == next_y == row and x <= foot[0] < next_x:
            head = [] if x == foot[0] else [foot]
            outline[index + 1 : index + 1] = [*head, *detour, foot]
            return
    raise AssertionError("a hole lies below a border of its own part")


@njit(cache=True)
def _trace(padded: BoolMask, tops: IntArray) -> tuple[Corners, IntArray, NDArray[np.int32]]:
    """Every closed border with the mask on its right hand, by its topmost edge.

    The corners of all loops one after another, where each ends, and the loop of each of the
    borders `tops` that have a mask pixel below and none above.
    """
    loop_of = np.full((padded.shape[0] - 1, padded.shape[1] - 2), -1, dtype=np.int32)
    corners = np.empty((4 * len(tops), 2), dtype=np.int32)  # as many lower borders, 2 ends to each
    ends = np.empty(len(tops), dtype=np.int64)
    num_corners, num_loops = 0, 0
    for top, left in tops:
        if loop_of[top, left] < 0:
            num_corners = _follow(padded, left, top, corners, num_corners, loop_of, num_loops)
            ends[num_loops] = num_corners
            num_loops += 1
    return corners[:num_corners], ends[:num_loops], loop_of


@njit(cache=True)
def _follow(  # noqa: PLR0917 (numba calls are positional)
    padded: BoolMask,
    left: int,
    top: int,
    corners: Corners,
    num_corners: int,
    loop_of: NDArray[np.int32],
    loop: int,
) -> int:
    """Writes the corners of the loop that starts at (left, top) to the right; where they end."""
    step_x, step_y = (1, 0, -1, 0), (0, 1, 0, -1)
    # The pixel ahead on the left hand, by direction; on the right hand is the next direction's.
    ahead_x, ahead_y = (1, 1, 0, 0, 1), (0, 1, 1, 0, 0)
    x, y, direction = left, top, 0
    while True:
        if direction == 0:
            loop_of[y, x] = loop
        x, y = x + step_x[direction], y + step_y[direction]
        turn = 1  # to the right; -1 to the left, 0 straight on
        if padded[y + ahead_y[direction + 1], x + ahead_x[direction + 1]]:
            turn = -1 if padded[y + ahead_y[direction], x + ahead_x[direction]] else 0
        if turn != 0:
            corners[num_corners, 0], corners[num_corners, 1] = x, y
            num_corners += 1
        direction = (direction + turn) % 4
        if x == left and y == top and direction == 0:
            return num_corners
