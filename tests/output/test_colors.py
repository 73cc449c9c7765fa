"""Colours beside published values and independent definitions of contrast."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from weakloc.output.drawing import class_color, from_oklab, heat_colors, ink_on


def luminance(rgb: np.ndarray) -> np.ndarray:
    shares = np.asarray(rgb, dtype=float) / 255
    linear = np.where(shares <= 0.03928, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def to_oklab(rgb: ArrayLike) -> np.ndarray:
    """(..., 3) sRGB in [0, 255] -> lightness, green-red, blue-yellow, as Ottosson 2020 has it."""
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    shares = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ np.array(to_cones).T) @ np.array(to_lab).T


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 255, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 255), (0.45201, -0.03246, -0.31153)),
        ((255, 255, 255), (1.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
    ],
)
def test_oklab_has_the_published_values(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    assert to_oklab(rgb) == pytest.approx(lab, abs=1e-4)
    assert from_oklab(lab) == pytest.approx(rgb, abs=0.1)
    assert from_oklab(to_oklab(rgb)) == pytest.approx(rgb, abs=0.01)


def test_heat_grows_lighter_in_even_steps() -> None:
    table = heat_colors(np.linspace(0, 1, 256))
    assert len(np.unique(table, axis=0)) == 256
    assert (np.diff(luminance(table)) > -1e-4).all()
    lab = to_oklab(table)
    # Whole 8-bit numbers blur single steps; sixteen of them are even.
    steps = np.linalg.norm(lab[16:] - lab[:-16], axis=1)
    assert steps.max() / steps.min() < 1.25


def test_heat_passes_through_its_corners() -> None:
    colors = heat_colors(np.array([0.0, 0.193323, 0.379471, 0.575771, 0.777333, 1.0]))
    corners = ["08051f", "3b0f70", "8c2981", "de4968", "fe9f6d", "fcfdbf"]
    assert np.abs(colors - np.array([list(bytes.fromhex(c)) for c in corners], int)).max() <= 1


def test_heat_beyond_the_ends_has_the_colour_of_the_end() -> None:
    colors = heat_colors(np.array([[-3.0, 0.0], [1.0, 7.0]]))
    assert (colors[0, 0] == colors[0, 1]).all()
    assert (colors[1, 0] == colors[1, 1]).all()
    assert luminance(colors[1, 1]) > 0.8
    assert luminance(colors[0, 0]) < 0.05


def test_the_first_twelve_classes_can_be_told_apart() -> None:
    lab = to_oklab([class_color(index) for index in range(12)])
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    assert distances[~np.eye(12, dtype=bool)].min() > 0.05
    for index in range(12):
        assert np.linalg.norm(lab[index] - lab[(index + 1) % 12]) > 0.15 or index == 11


def test_text_contrasts_with_every_ground() -> None:
    random = np.random.default_rng(0)
    for color in random.integers(0, 256, size=(500, 3)).tolist():
        ground, ink = luminance(color), luminance(ink_on(tuple(color)))
        light, dark = max(ground, ink), min(ground, ink)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
