"""Colours, textures and backgrounds, with nothing in them that depends on the machine.

Only whole-number draws and single additions, products and comparisons are used: no logarithm,
sine or matrix product is taken over an array.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weakloc.geometry import BoxLTRB
from weakloc.synthetic.outlines import Coverage, Pose, Shape, UnitPoint, cover

Pixels: TypeAlias = NDArray[np.uint8]  # (height, width, 3)
Pattern: TypeAlias = Literal["plain", "stripes", "dots", "checks"]
PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "dots", "checks")


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
) -> NDArray[np.float64]:
    """1 on the second tone, 0 on the first."""
    if surface.pattern == "plain":
        return np.zeros(np.broadcast_shapes(along.shape, across.shape))
    u, v = along / surface.period, across / surface.period
    if surface.pattern == "stripes":
        return np.asarray((u - np.floor(u) < 0.5) + 0.0 * v)
    if surface.pattern == "checks":
        return np.asarray(((np.floor(2 * u) + np.floor(2 * v)) % 2 == 0) + 0.0)
    u, v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return np.asarray((u * u + v * v < 0.09) + 0.0)


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
    """Something to lay on the canvas; a pixel is its own when at least half covered."""

    pixels: Pixels
    coverage: Coverage


class Canvas:
    """A background on which layers are laid in order."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels.copy()
        self._instances: InstanceMap = np.zeros(pixels.shape[:2], dtype=np.uint8)
        self._classes: list[int] = []
        self._whole: list[int] = []  # pixels of each object, also those beyond the border
        self._inside: list[int] = []  # of them, those within the border
        self._visible: list[int] = []
        self.size = (pixels.shape[1], pixels.shape[0])
        self.last_corner: tuple[int, int] | None = None  # (left, top) of the object laid last

    def lay_object(self, layer: Layer, *, left: int, top: int, class_index: int) -> bool:
        """Lays an object of a class; False, and no change, where too little would be seen."""
        whole = int(np.count_nonzero(layer.coverage >= 128))
        region, part = self._clip(layer, left=left, top=top)
        inside = int(np.count_nonzero(part.coverage >= 128))
        is_seen = whole > 0 and inside >= MIN_VISIBLE * whole
        if not is_seen or not self._lay(region, part, value=len(self._classes) + 1):
            return False
        self._classes.append(class_index)
        self._whole.append(whole)
        self._inside.append(inside)
        self._visible.append(inside)
        self.last_corner = (left, top)
        return True

    def lay_distraction(self, layer: Layer, *, left: int, top: int) -> bool:
        """Lays something without a class; False, and no change, where it would hide too much."""
        region, part = self._clip(layer, left=left, top=top)
        return self._lay(region, part, value=0)

    def scene(self) -> Scene:
        objects = []
        for index, class_index in enumerate(self._classes):
            rows, columns = np.nonzero(self._instances == index + 1)
            left, top = float(columns.min()), float(rows.min())
            objects.append(
                SceneObject(
                    class_index,
                    (left, top, float(columns.max() + 1), float(rows.max() + 1)),
                    occluded=self._visible[index] < WELL_VISIBLE * self._inside[index],
                    truncated=self._inside[index] < WELL_VISIBLE * self._whole[index],
                )
            )
        return Scene(self._pixels.copy(), self._instances.copy(), tuple(objects))

    def _clip(self, layer: Layer, *, left: int, top: int) -> tuple[tuple[slice, slice], Layer]:
        """The part of the canvas under a layer, and the part of the layer on the canvas."""
        height, width = layer.coverage.shape
        rows = slice(max(top, 0), max(min(top + height, self.size[1]), 0))
        columns = slice(max(left, 0), max(min(left + width, self.size[0]), 0))
        inner = (
            slice(rows.start - top, max(rows.stop - top, rows.start - top)),
            slice(columns.start - left, max(columns.stop - left, columns.start - left)),
        )
        return (rows, columns), Layer(layer.pixels[inner], layer.coverage[inner])

    def _lay(self, region: tuple[slice, slice], part: Layer, *, value: int) -> bool:
        """Paints a part unless it would hide too much of an object."""
        opaque = part.coverage >= 128
        hidden = np.bincount(self._instances[region][opaque], minlength=len(self._classes) + 1)
        visible = [old - int(loss) for old, loss in zip(self._visible, hidden[1:], strict=True)]
        pairs = zip(visible, self._whole, strict=True)
        if any(num_visible < MIN_VISIBLE * whole for num_visible, whole in pairs):
            return False
        self._visible = visible
        alpha = part.coverage[..., None].astype(np.uint16)
        mixed = self._pixels[region] * (255 - alpha) + part.pixels * alpha + 127
        self._pixels[region] = (mixed // 255).astype(np.uint8)
        self._instances[region][opaque] = value
        return True
