"""The rectangles of beam search: windows of a feature grid and the image regions they stand for.

A window is (x, y, width, height) in whole cells of one grid. A region is the same in exact
fractions of the image, so two chains of cuts that lead to one rectangle meet without a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from weakloc.geometry import BoxLTRB, Size, clip_box

Window: TypeAlias = tuple[int, int, int, int]  # (x, y, width, height) in cells
GridSize: TypeAlias = tuple[int, int]  # (columns, rows)
ChildRule: TypeAlias = Literal["one_side", "eq6"]


class Region(NamedTuple):
    """A rectangle as exact shares of the image's width and height."""

    x: Fraction
    y: Fraction
    width: Fraction
    height: Fraction


class Place(NamedTuple):
    """A region in floats, ordered as ties are broken: top, left, height, width."""

    y: float
    x: float
    height: float
    width: float


WHOLE_IMAGE = Region(Fraction(0), Fraction(0), Fraction(1), Fraction(1))


def one_side_children(window: Window) -> list[Window]:
    """Bency et al., Section 3.3: Eq. 6 restricted to one row or one column less."""
    x, y, width, height = window
    narrower = [(x, y, width - 1, height), (x + 1, y, width - 1, height)] if width > 1 else []
    lower = [(x, y, width, height - 1), (x, y + 1, width, height - 1)] if height > 1 else []
    return narrower + lower


def eq6_children(window: Window) -> list[Window]:
    """All of Eq. 6: each side as it is or one shorter, the window itself included."""
    x, y, width, height = window
    spans_x = [(x, width)] + ([(x, width - 1), (x + 1, width - 1)] if width > 1 else [])
    spans_y = [(y, height)] + ([(y, height - 1), (y + 1, height - 1)] if height > 1 else [])
    return [(x, y, width, height) for y, height in spans_y for x, width in spans_x]


CHILDREN: dict[ChildRule, Callable[[Window], list[Window]]] = {
    "one_side": one_side_children,
    "eq6": eq6_children,
}


@lru_cache(maxsize=8)
def all_windows(grid_size: GridSize) -> tuple[Window, ...]:
    """Every window of the grid, largest first: 441 on 6 x 6 cells, 784 on 7 x 7."""
    columns, rows = grid_size
    windows = [
        (x, y, width, height)
        for width in range(1, columns + 1)
        for height in range(1, rows + 1)
        for x in range(columns - width + 1)
        for y in range(rows - height + 1)
    ]
    return tuple(sorted(windows, key=lambda window: (window_level(window, grid_size), window)))


def window_level(window: Window, grid_size: GridSize) -> int:
    """Rows and columns cut away so far; the full grid is level 0."""
    return grid_size[0] + grid_size[1] - window[2] - window[3]


def window_region(frame: Region, window: Window, grid_size: GridSize) -> Region:
    """The part of the frame that a window of its grid stands for (Eq. 5)."""
    x, y, width, height = window
    cell_width, cell_height = frame.width / grid_size[0], frame.height / grid_size[1]
    return Region(
        frame.x + x * cell_width,
        frame.y + y * cell_height,
        width * cell_width,
        height * cell_height,
    )


def region_place(region: Region) -> Place:
    return Place(float(region.y), float(region.x), float(region.height), float(region.width))


def window_place(frame: Region, window: Window, grid_size: GridSize) -> Place:
    """The place of a window's region; division rounds as the exact fraction does, but is quick."""
    if frame is not WHOLE_IMAGE:
        return region_place(window_region(frame, window, grid_size))
    (x, y, width, height), (columns, rows) = window, grid_size
    return Place(y / rows, x / columns, height / rows, width / columns)


def region_box(region: Region, image_size: Size) -> BoxLTRB:
    """The region in the image frame, free of accumulated rounding."""
    width, height = image_size
    return (
        float(region.x) * width,
        float(region.y) * height,
        float(region.x + region.width) * width,
        float(region.y + region.height) * height,
    )


def place_iou(first: Place, second: Place) -> float:
    overlap_width = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    overlap_height = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    overlap = max(overlap_width, 0.0) * max(overlap_height, 0.0)
    union = first.width * first.height + second.width * second.height - overlap
    return overlap / union


def crop_pixels(box_in_image: BoxLTRB, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The whole pixels to cut out for a box: start rounded down, end up, at least one pixel."""
    left, top, right, bottom = clip_box(box_in_image, image_size)
    first_column = min(math.floor(left), image_size[0] - 1)
    first_row = min(math.floor(top), image_size[1] - 1)
    return (
        first_column,
        first_row,
        max(math.ceil(right), first_column + 1),
        max(math.ceil(bottom), first_row + 1),
    )
