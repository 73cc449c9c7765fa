"""Colours that mean something: even steps for heat, distinct ones for classes.

Steps are measured in Oklab (Ottosson 2020), in which equal distances look about equally large.
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weakloc.geometry import FloatArray

Color: TypeAlias = tuple[int, int, int]

# From dark violet over red to pale yellow; lightness rises all the way.
_HEAT_CORNERS = ("#08051f", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf")
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_GOLDEN_TURN = 137.50776  # degrees: any first few multiples are far apart


def to_oklab(rgb: ArrayLike) -> FloatArray:
    """(..., 3) sRGB in [0, 255] -> lightness, green-red, blue-yellow."""
    shares = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T)


def from_oklab(lab: ArrayLike) -> FloatArray:
    """The inverse, clipped into [0, 255] where no screen shows the colour."""
    cones = (np.asarray(lab, dtype=np.float64) @ np.linalg.inv(_TO_LAB).T) ** 3
    linear = np.clip(cones @ np.linalg.inv(_TO_CONES).T, 0.0, 1.0)
    shares = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(255.0 * shares)


@cache
def _heat_table() -> NDArray[np.uint8]:
    """256 colours at equal distances along the corners."""
    corners = to_oklab([_parse(corner) for corner in _HEAT_CORNERS])
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    places = np.concatenate(([0.0], np.cumsum(lengths))) / lengths.sum()
    shares = np.linspace(0.0, 1.0, 256)
    lab = np.stack([np.interp(shares, places, corners[:, axis]) for axis in range(3)], axis=1)
    table = np.rint(from_oklab(lab)).astype(np.uint8)
    table.setflags(write=False)
    return table


def heat_colors(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(...) in [0, 1] -> (..., 3); what lies outside takes the colour of the end."""
    steps = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.intp)
    return np.asarray(_heat_table()[steps])


def class_color(index: int) -> Color:
    """A colour for a class; neighbours in the list are far apart."""
    hue = np.deg2rad(30.0 + index * _GOLDEN_TURN)
    lightness = (0.72, 0.62, 0.80)[index % 3]
    chroma = 0.16
    lab = (lightness, chroma * np.cos(hue), chroma * np.sin(hue))
    red, green, blue = (round(float(value)) for value in from_oklab(lab))
    return red, green, blue


def ink_on(color: Color) -> Color:
    """Black or white, whichever contrasts more (WCAG's relative luminance)."""
    shares = [value / 255.0 for value in color]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    on_black, on_white = (luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05)
    return (0, 0, 0) if on_black >= on_white else (255, 255, 255)


def _parse(text: str) -> Color:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
