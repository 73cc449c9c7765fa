"""Shapes as outlines in a unit frame, and their coverage of pixels once turned and scaled.

Coordinates go through `math` and are rounded to whole sub-pixels before anything is filled, so
that the last bit of a sine cannot change a scene from one machine to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SUBPIXELS = 4  # per pixel and axis

UnitPoint: TypeAlias = tuple[float, float]
Outline: TypeAlias = tuple[UnitPoint, ...]
Coverage: TypeAlias = NDArray[np.uint8]  # (height, width), 255 where a pixel is wholly covered


@dataclass(frozen=True, slots=True)
class Shape:
    """Filled outlines, then outlines cut out of them; all within [-1, 1] x [-1, 1]."""

    filled: tuple[Outline, ...]
    cut: tuple[Outline, ...] = ()


@dataclass(frozen=True, slots=True)
class Pose:
    """How a unit shape lies in the picture: its half extents in pixels, then its turn."""

    half_width: float
    half_height: float
    angle: float  # radians, clockwise on the screen

    def place(self, point: UnitPoint) -> UnitPoint:
        x, y = point[0] * self.half_width, point[1] * self.half_height
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return x * cosine - y * sine, x * sine + y * cosine


def circle(radius: float, *, center: UnitPoint = (0.0, 0.0)) -> Outline:
    """As a polygon of forty corners."""
    return tuple(polar(radius, 2 * math.pi * corner / 40, center) for corner in range(40))


def polar(radius: float, angle: float, center: UnitPoint = (0.0, 0.0)) -> UnitPoint:
    return center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle)


def star(num_tips: int, inner_radius: float) -> Outline:
    return tuple(
        polar(inner_radius if corner % 2 else 1.0, math.pi * corner / num_tips - math.pi / 2)
        for corner in range(2 * num_tips)
    )


def crescent() -> Outline:
    """A disc less a shifted disc, as one outline."""
    outer = [polar(1.0, angle) for angle in _turns(0.28, 1.72, 24)]
    tip_x, tip_y = math.cos(0.28 * math.pi), math.sin(0.28 * math.pi)
    start = math.atan2(-tip_y, tip_x - 0.42) / math.pi + 2
    radius = math.hypot(tip_x - 0.42, tip_y)
    inner = [polar(radius, angle, (0.42, 0.0)) for angle in _turns(start, 2 - start, 20)]
    return tuple(outer + inner)


def heart() -> Outline:
    """The classical curve, brought into the unit square."""
    corners = []
    for turn in _turns(0.0, 2.0, 40):
        x = math.sin(turn) ** 3
        y = (
            13 * math.cos(turn)
            - 5 * math.cos(2 * turn)
            - 2 * math.cos(3 * turn)
            - math.cos(4 * turn)
        )
        corners.append((x, -(y + 2.5) / 14.5))
    return tuple(corners)


def _turns(start: float, stop: float, count: int) -> list[float]:
    """Angles from `start` to `stop`, in units of pi."""
    return [math.pi * (start + (stop - start) * step / count) for step in range(count + 1)]


@cache
def clutter_shapes() -> dict[str, Shape]:
    """The eight classes of cluttered scenes; listed in pairs that share a hue."""
    third = 0.33
    cross = (
        *((-third, -1), (third, -1), (third, -third), (1, -third), (1, third), (third, third)),
        *((third, 1), (-third, 1), (-third, third), (-1, third), (-1, -third), (-third, -third)),
    )
    arrow = ((-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3))
    bolt = ((0.25, -1), (-0.65, 0.15), (-0.08, 0.15), (-0.25, 1), (0.65, -0.25), (0.08, -0.25))
    return {
        "disc": Shape((circle(1.0),)),
        "ring": Shape((circle(1.0),), (circle(0.55),)),
        "star": Shape((star(5, 0.42),)),
        "cross": Shape((cross,)),
        "heart": Shape((heart(),)),
        "crescent": Shape((crescent(),)),
        "arrow": Shape((arrow,)),
        "bolt": Shape((bolt,)),
    }


@cache
def body_shapes() -> dict[str, Shape]:
    """The five bodies of single-object images; their head lies at (0.62, 0)."""
    pear = circle(0.55, center=(0.45, 0.0)) + circle(0.8, center=(-0.2, 0.0))
    return {
        "bone": Shape(
            (
                ((-0.6, -0.4), (0.6, -0.4), (0.6, 0.4), (-0.6, 0.4)),
                *(circle(0.45, center=(x, y)) for x in (-0.55, 0.55) for y in (-0.45, 0.45)),
            )
        ),
        "pear": Shape((pear[:40], pear[40:])),
        "pod": Shape((tuple((x, 0.62 * y) for x, y in circle(1.0)),)),
        "slab": Shape((((-1, -0.6), (1, -0.6), (1, 0.6), (-1, 0.6)),)),
        "wedge": Shape((((-1, -0.9), (1, -0.45), (1, 0.45), (-1, 0.9)),)),
    }


@cache
def emblem_shapes() -> tuple[Shape, ...]:
    """Ten small signs; dark or light they tell twenty classes apart."""
    bar = ((-1, -0.35), (1, -0.35), (1, 0.35), (-1, 0.35))
    pillar = tuple((y, x) for x, y in bar)
    square = ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))
    inner = tuple((0.45 * x, 0.45 * y) for x, y in square)
    shapes = clutter_shapes()
    return (
        shapes["disc"],
        shapes["ring"],
        shapes["cross"],
        Shape((star(3, 0.25),)),
        Shape((square,), (inner,)),
        Shape((bar,)),
        Shape((tuple((x, y - 0.6) for x, y in bar), tuple((x, y + 0.6) for x, y in bar))),
        Shape((((-1, -1), (0, -1), (0, 0), (1, 0), (1, 1), (0, 1), (0, 0), (-1, 0)),)),
        Shape((((-1, -1), (1, -1), (0, 0.1), (1, 1), (-1, 1), (0, 0.1)),)),
        Shape((tuple((x - 0.65, y) for x, y in pillar), bar)),
    )


def cover(shape: Shape, pose: Pose) -> tuple[Coverage, UnitPoint]:
    """How far each pixel is covered, and where the shape's origin lies in that array."""
    filled = [[pose.place(point) for point in outline] for outline in shape.filled]
    cut = [[pose.place(point) for point in outline] for outline in shape.cut]
    points = [point for outline in filled for point in outline]
    left, top = math.floor(min(x for x, _ in points)), math.floor(min(y for _, y in points))
    width = math.ceil(max(x for x, _ in points)) - left + 1
    height = math.ceil(max(y for _, y in points)) - top + 1
    picture = Image.new("L", (SUBPIXELS * width, SUBPIXELS * height))
    draw = ImageDraw.Draw(picture)
    for outlines, value in ((filled, 255), (cut, 0)):
        for outline in outlines:
            corners = [
                (round(SUBPIXELS * (x - left)), round(SUBPIXELS * (y - top))) for x, y in outline
            ]
            draw.polygon(corners, fill=value)
    return np.asarray(picture.reduce(SUBPIXELS)), (-left, -top)
