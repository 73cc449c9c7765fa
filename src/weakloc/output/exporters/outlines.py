"""Masks -> polygons along the pixel borders: filling them gives the same pixels back.

Corners are whole numbers in the image frame. Pixels that touch at a corner only are apart. A
hole is joined to what surrounds it by a seam without width, walked there and back, so that each
connected part is one closed outline; every filling rule gives the hole back.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

Corners: TypeAlias = NDArray[np.int32]  # (N, 2) of x, y; the last corner joins the first
BoolMask: TypeAlias = NDArray[np.bool_]


def outlines_of(mask: BoolMask) -> list[Corners]:
    """One outline for each part whose pixels share sides, clockwise, from the top down."""
    loops, loop_of_top_edge = _loops(mask)
    outlines: list[list[tuple[int, int]]] = []
    owner: dict[int, int] = {}  # loop -> the outline that it has become a part of
    for number, loop in enumerate(loops):  # by their topmost edge: holes after what is above them
        corners: list[tuple[int, int]] = list(map(tuple, loop.tolist()))
        if _is_clockwise(loop):
            owner[number] = len(outlines)
            outlines.append(corners)
        else:
            x, y = min(corners, key=lambda corner: (corner[1], corner[0]))
            row = _border_above(mask, column=x, row=y - 1)
            owner[number] = owner[int(loop_of_top_edge[row, x])]
            _splice(outlines[owner[number]], corners, start=(x, y), row=row)
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


def fill_outline(corners: NDArray[np.floating | np.integer], *, size: tuple[int, int]) -> BoolMask:
    """The pixels of a (width, height) image whose centres lie within, by the even-odd rule."""
    width, height = size
    inside = np.zeros((height, width + 1), dtype=bool)
    following = np.roll(corners, -1, axis=0)
    for (x1, y1), (x2, y2) in zip(corners.tolist(), following.tolist(), strict=True):
        first, last = np.ceil(min(y1, y2) - 0.5), np.ceil(max(y1, y2) - 0.5)
        rows = np.arange(max(int(first), 0), min(int(last), height))
        if len(rows):
            crossings = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            columns = np.ceil(crossings - 0.5).clip(0, width).astype(int)
            np.logical_xor.at(inside, (rows, columns), True)
    return np.asarray(np.logical_xor.accumulate(inside, axis=1)[:, :width])


def _is_clockwise(loop: Corners) -> bool:
    x, y = loop[:, 0].astype(np.int64), loop[:, 1].astype(np.int64)
    return bool(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0)  # y points down


def _border_above(mask: BoolMask, *, column: int, row: int) -> int:
    """The row whose upper border ends the run of mask pixels that reaches up from `row`."""
    above = np.flatnonzero(~mask[:row, column])
    return int(above[-1]) + 1 if len(above) else 0


def _splice(
    outline: list[tuple[int, int]],
    hole: list[tuple[int, int]],
    *,
    start: tuple[int, int],
    row: int,
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


def _loops(mask: BoolMask) -> tuple[list[Corners], NDArray[np.int32]]:
    """Every closed border with the mask on its right hand, by its topmost edge."""
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), dtype=np.bool_)
    padded[1:-1, 1:-1] = mask
    corners, ends, loop_of_top_edge = _trace(padded)
    return np.split(corners, ends[:-1]) if len(ends) else [], loop_of_top_edge


@njit(cache=True)
def _trace(
    padded: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """The corners of all loops one after another, where each ends, and the loop of each border
    that has a mask pixel below and none above."""
    is_top = padded[1:-1, 1:-1] & ~padded[:-2, 1:-1]
    num_top = np.count_nonzero(is_top)
    loop_of = np.full((padded.shape[0] - 1, padded.shape[1] - 2), -1, dtype=np.int32)
    corners = np.empty((4 * num_top, 2), dtype=np.int32)  # as many lower borders, 2 ends to each
    ends = np.empty(num_top, dtype=np.int64)
    num_corners, num_loops = 0, 0
    for top, left in np.argwhere(is_top):
        if loop_of[top, left] < 0:
            num_corners = _follow(padded, left, top, corners, num_corners, loop_of, num_loops)
            ends[num_loops] = num_corners
            num_loops += 1
    return corners[:num_corners], ends[:num_loops], loop_of


@njit(cache=True)
def _follow(  # noqa: PLR0917 (numba calls are positional)
    padded: NDArray[np.bool_],
    left: int,
    top: int,
    corners: NDArray[np.int32],
    num_corners: int,
    loop_of: NDArray[np.int32],
    loop: int,
) -> int:
    """Writes the corners of the loop that starts at (left, top) to the right; where they end."""
    step_x, step_y = (1, 0, -1, 0), (0, 1, 0, -1)
    x, y, direction = left, top, 0
    while True:
        if direction == 0:
            loop_of[y, x] = loop
        x, y = x + step_x[direction], y + step_y[direction]
        turn = _turn(padded, x, y, direction)
        if turn != 0:
            corners[num_corners, 0], corners[num_corners, 1] = x, y
            num_corners += 1
        direction = (direction + turn) % 4
        if x == left and y == top and direction == 0:
            return num_corners


@njit(cache=True)
def _turn(padded: NDArray[np.bool_], x: int, y: int, direction: int) -> int:
    """1 to the right, -1 to the left, 0 straight on, with the mask kept on the right hand."""
    if direction == 0:
        on_left, on_right = padded[y, x + 1], padded[y + 1, x + 1]
    elif direction == 1:
        on_left, on_right = padded[y + 1, x + 1], padded[y + 1, x]
    elif direction == 2:
        on_left, on_right = padded[y + 1, x], padded[y, x]
    else:
        on_left, on_right = padded[y, x], padded[y, x + 1]
    if not on_right:
        return 1
    return -1 if on_left else 0
