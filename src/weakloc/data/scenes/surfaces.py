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

from weakloc.data.scenes.outlines import UnitPoint

Pixels: TypeAlias = NDArray[np.uint8]  # (height, width, 3)
Pattern: TypeAlias = Literal["plain", "stripes", "dots", "checks"]
PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "dots", "checks")


@dataclass(frozen=True, slots=True)
class Surface:
    """What an object is painted with."""

    color: tuple[float, float, float]  # red, green, blue in [0, 1]
    pattern: Pattern
    period: float  # pixels
    contrast: float  # how much darker the pattern's other tone is
    angle: float  # of the pattern, radians


def uniform(random: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(random.random())


def color_of(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Hue in degrees, the others in [0, 1]."""
    return colorsys.hsv_to_rgb(hue / 360.0 % 1.0, saturation, value)


def paint(
    surface: Surface, random: np.random.Generator, *, size: tuple[int, int], origin: UnitPoint
) -> Pixels:
    """A patch of (width, height) pixels, shaded across and a little noisy."""
    width, height = size
    x = np.arange(width) + (0.5 - origin[0])
    y = np.arange(height)[:, None] + (0.5 - origin[1])
    cosine, sine = math.cos(surface.angle), math.sin(surface.angle)
    along, across = x * cosine + y * sine, y * cosine - x * sine
    tone = 1.0 - surface.contrast * _pattern(surface, along, across)
    slope_x, slope_y = uniform(random, -0.25, 0.25), uniform(random, -0.25, 0.25)
    tone = tone * (1.0 + slope_x * (x / width) + slope_y * (y / height))
    grain = random.integers(-9, 10, size=(height, width, 1))
    colors = 255.0 * np.asarray(surface.color) * tone[..., None] + grain
    return np.asarray(np.rint(colors).clip(0, 255).astype(np.uint8))


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
        clouds += _clouds(random, size=size, cell=cell) * np.uint16(weight)
    shares = np.arange(256)[:, None] / 255.0
    first, second = _muted(random), _muted(random)
    palette = np.rint(255.0 * (first + shares * (second - first))).astype(np.int16)  # (256, 3)
    grain = random.integers(-10, 11, size=(size[1], size[0], 1), dtype=np.int16)
    colors = palette[clouds // np.uint16(sum(weights))] + grain
    return np.asarray(colors.clip(0, 255).astype(np.uint8))


def _clouds(random: np.random.Generator, *, size: tuple[int, int], cell: int) -> Pixels:
    columns, rows = size[0] // cell + 2, size[1] // cell + 2
    grid = random.integers(0, 256, size=(rows, columns), dtype=np.uint8)
    # Pillow resizes 8-bit pictures in whole numbers.
    return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC))


def _muted(random: np.random.Generator) -> NDArray[np.float64]:
    hue, saturation = uniform(random, 0, 360), uniform(random, 0.0, 0.4)
    return np.asarray(color_of(hue, saturation, uniform(random, 0.15, 0.95)))
