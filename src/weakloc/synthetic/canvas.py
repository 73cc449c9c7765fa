"""Shapes, what they are painted with, and the canvas on which they are laid in order.

The same seed gives the same bytes on every machine. Coordinates go through `math` and are rounded
to whole sub-pixels before anything is filled; of arrays only whole-number draws and single
additions, products and comparisons are taken: no logarithm, sine or matrix product.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from weakloc.geometry import BoxLTRB

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
        first, second, third, fourth = (math.cos(n * turn) for n in (1, 2, 3, 4))
        y = 13 * first - 5 * second - 2 * third - fourth
        corners.append((math.sin(turn) ** 3, -(y + 2.5) / 14.5))
    return tuple(corners)


def _turns(start: float, stop: float, count: int) -> list[float]:
    """Angles from `start` to `stop`, in units of pi."""
    return [math.pi * (start + (stop - start) * step / count) for step in range(count + 1)]


_CROSS = (
    *((-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)),
    *((0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33)),
)
_ARROW = ((-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3))
_BOLT = ((0.25, -1), (-0.65, 0.15), (-0.08, 0.15), (-0.25, 1), (0.65, -0.25), (0.08, -0.25))
# The eight classes of cluttered scenes; listed in pairs that share a hue.
CLUTTER_SHAPES: Mapping[str, Shape] = {
    "disc": Shape((circle(1.0),)),
    "ring": Shape((circle(1.0),), (circle(0.55),)),
    "star": Shape((star(5, 0.42),)),
    "cross": Shape((_CROSS,)),
    "heart": Shape((heart(),)),
    "crescent": Shape((crescent(),)),
    "arrow": Shape((_ARROW,)),
    "bolt": Shape((_BOLT,)),
}

_JOINTS = [(x, y) for x in (-0.55, 0.55) for y in (-0.45, 0.45)]
_SHAFT = ((-0.6, -0.4), (0.6, -0.4), (0.6, 0.4), (-0.6, 0.4))
# The five bodies of single-object images; their head lies at (0.62, 0).
BODY_SHAPES: Mapping[str, Shape] = {
    "bone": Shape((_SHAFT, *(circle(0.45, center=joint) for joint in _JOINTS))),
    "pear": Shape((circle(0.55, center=(0.45, 0.0)), circle(0.8, center=(-0.2, 0.0)))),
    "pod": Shape((tuple((x, 0.62 * y) for x, y in circle(1.0)),)),
    "slab": Shape((((-1, -0.6), (1, -0.6), (1, 0.6), (-1, 0.6)),)),
    "wedge": Shape((((-1, -0.9), (1, -0.45), (1, 0.45), (-1, 0.9)),)),
}

_BAR = ((-1, -0.35), (1, -0.35), (1, 0.35), (-1, 0.35))
_SQUARE = ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))
# Ten small signs; dark or light they tell twenty classes apart.
EMBLEM_SHAPES = (
    CLUTTER_SHAPES["disc"],
    CLUTTER_SHAPES["ring"],
    CLUTTER_SHAPES["cross"],
    Shape((star(3, 0.25),)),
    Shape((_SQUARE,), (tuple((0.45 * x, 0.45 * y) for x, y in _SQUARE),)),
    Shape((_BAR,)),
    Shape(tuple(tuple((x, y + shift) for x, y in _BAR) for shift in (-0.6, 0.6))),
    Shape((((-1, -1), (0, -1), (0, 0), (1, 0), (1, 1), (0, 1), (0, 0), (-1, 0)),)),
    Shape((((-1, -1), (1, -1), (0, 0.1), (1, 1), (-1, 1), (0, 0.1)),)),
    Shape((tuple((y - 0.65, x) for x, y in _BAR), _BAR)),
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


Pixels: TypeAlias = NDArray[np.uint8]  # (height, width, 3)
Pattern: TypeAlias = Literal["plain", "stripes", "dots", "checks"]


@dataclass(frozen=True, slots=True)
class Surface:
    """What an object is painted with."""

    color: tuple[float, float, float]  # red, green, blue in [0, 1]
    pattern: Pattern = "plain"
    period: float = 8.0  # pixels
    contrast: float = 0.0  # how much darker the pattern's other tone is
    angle: float = 0.0  # of the pattern, radians


def uniform(random: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(random.random())


def color_of(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Hue in degrees, the others in [0, 1]."""
    return colorsys.hsv_to_rgb(hue / 360.0 % 1.0, saturation, value)


def paint(
    random: np.random.Generator, shape: Shape, pose: Pose, surface: Surface
) -> tuple[Layer, UnitPoint]:
    """A shape, shaded across and a little noisy, and where its origin lies in the layer."""
    coverage, origin = cover(shape, pose)
    height, width = coverage.shape
    x = np.arange(width) + (0.5 - origin[0])
    y = np.arange(height)[:, None] + (0.5 - origin[1])
    cosine, sine = math.cos(surface.angle), math.sin(surface.angle)
    along, across = x * cosine + y * sine, y * cosine - x * sine
    tone = 1.0 - surface.contrast * _pattern(surface, along, across)
    slope_x, slope_y = uniform(random, -0.25, 0.25), uniform(random, -0.25, 0.25)
    tone = tone * (1.0 + slope_x * (x / width) + slope_y * (y / height))
    grain = random.integers(-9, 10, size=(height, width, 1))
    colors = 255.0 * np.asarray(surface.color) * tone[..., None] + grain
    return Layer(np.rint(colors).clip(0, 255).astype(np.uint8), coverage), origin


def _pattern(
    surface: Surface, along: NDArray[np.float64], across: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Where the second tone is."""
    if surface.pattern == "plain":
        return np.zeros(along.shape, dtype=bool)
    u, v = along / surface.period, across / surface.period
    if surface.pattern == "checks":
        return np.asarray((np.floor(2 * u) + np.floor(2 * v)) % 2 == 0)
    u, v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return u < 0.0 if surface.pattern == "stripes" else u * u + v * v < 0.09


def background(random: np.random.Generator, *, size: tuple[int, int]) -> Pixels:
    """Cloudy noise of several grain sizes between two muted colours."""
    weights = [int(random.integers(1, 11)) for _ in range(3)]
    clouds = np.zeros((size[1], size[0]), dtype=np.uint16)
    for cell, weight in zip((72, 24, 7), weights, strict=True):
        grid_shape = (size[1] // cell + 2, size[0] // cell + 2)
        grid = Image.fromarray(random.integers(0, 256, size=grid_shape, dtype=np.uint8))
        # Pillow resizes 8-bit pictures in whole numbers.
        clouds += np.asarray(grid.resize(size, Image.Resampling.BICUBIC)) * np.uint16(weight)
    shares = np.arange(256)[:, None] / 255.0
    first, second = _muted(random), _muted(random)
    palette = np.rint(255.0 * (first + shares * (second - first))).astype(np.int16)  # (256, 3)
    grain = random.integers(-10, 11, size=(size[1], size[0], 1), dtype=np.int16)
    colors = palette[clouds // np.uint16(sum(weights))] + grain
    return np.asarray(colors.clip(0, 255).astype(np.uint8))


def _muted(random: np.random.Generator) -> NDArray[np.float64]:
    hue, saturation = uniform(random, 0, 360), uniform(random, 0.0, 0.4)
    return np.asarray(color_of(hue, saturation, uniform(random, 0.15, 0.95)))


OPAQUE = 128  # a pixel is an object's own from this coverage on
MIN_VISIBLE = 0.4
WELL_VISIBLE = 0.9
InstanceMap: TypeAlias = NDArray[np.uint8]  # (height, width): 0 background, n the n-th object


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object: where it can be seen, and whether some of it cannot."""

    class_index: int
    box: BoxLTRB  # whole pixels
    occluded: bool  # more than a tenth lies under other things
    truncated: bool  # more than a tenth lies beyond the border


@dataclass(frozen=True)
class Scene:
    """A picture and its exact truth; object n of the list has the value n + 1 in `instances`."""

    pixels: Pixels
    instances: InstanceMap
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class Layer:
    """Something to lay on the canvas."""

    pixels: Pixels
    coverage: Coverage


class Canvas:
    """A background on which layers are laid in order."""

    def __init__(self, pixels: Pixels) -> None:
        self._picture = Image.fromarray(pixels)
        self._instances = Image.new("L", self._picture.size)
        self._laid: list[tuple[int, int, int]] = []  # class, all pixels, those within the border
        self.size = self._picture.size
        self.last_corner: tuple[int, int] | None = None  # (left, top) of the object laid last

    def lay(self, layer: Layer, *, left: int, top: int, class_index: int | None = None) -> bool:
        """Lays an object of a class, or something without one.

        False, and no change, where too little would be seen of it or of an object below.
        """
        corner, is_opaque = (left, top), layer.coverage >= OPAQUE
        wholes = [whole for _, whole, _ in self._laid]
        if class_index is not None:
            wholes.append(int(np.count_nonzero(is_opaque)))
        instances = self._instances.copy()
        number = 0 if class_index is None else len(wholes)
        instances.paste(number, corner, Image.fromarray(is_opaque))
        visible = instances.histogram()[1 : len(wholes) + 1]
        if any(n < max(MIN_VISIBLE * of, 1) for n, of in zip(visible, wholes, strict=True)):
            return False
        self._picture.paste(Image.fromarray(layer.pixels), corner, Image.fromarray(layer.coverage))
        self._instances = instances
        if class_index is not None:
            self._laid.append((class_index, wholes[-1], visible[-1]))
            self.last_corner = corner
        return True

    def scene(self) -> Scene:
        objects, instances = [], np.array(self._instances)
        for number, (class_index, whole, inside) in enumerate(self._laid, start=1):
            is_seen = instances == number
            left, top, right, bottom = map(float, Image.fromarray(is_seen).getbbox() or ())
            occluded = bool(np.count_nonzero(is_seen) < WELL_VISIBLE * inside)
            truncated, box = inside < WELL_VISIBLE * whole, (left, top, right, bottom)
            objects.append(SceneObject(class_index, box, occluded, truncated))
        return Scene(np.array(self._picture), instances, tuple(objects))
