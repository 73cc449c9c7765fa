"""Pixel-adaptive refinement against its definition written with plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from weakloc.errors import SettingError
from weakloc.localize.pixel_affinity import PixelAffinitySettings, refine_by_pixel_affinity


def plain_refinement(maps, image, settings: PixelAffinitySettings) -> np.ndarray:
    """The definition, pixel by pixel, on edge-padded arrays."""
    _, height, width = maps.shape
    pad = max(settings.dilations)
    picture = np.pad(image.astype(float), ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    steps = [
        (d * dy, d * dx)
        for d in settings.dilations
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dy, dx) != (0, 0)
    ]
    lengths = np.array([np.hypot(*step) for step in steps])
    position = softmax(-((lengths / (np.std(lengths, ddof=1) * settings.width)) ** 2))
    for _ in range(settings.iterations):
        padded = np.pad(maps, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
        refined = np.zeros_like(maps)
        for y in range(height):
            for x in range(width):
                colors = np.array([picture[y + pad + dy, x + pad + dx] for dy, dx in steps])
                difference = np.abs(colors - picture[y + pad, x + pad])
                spread = colors.std(axis=0, ddof=1) + 1e-8
                closeness = -((difference / (settings.width * spread)) ** 2).mean(axis=1)
                weights = softmax(closeness) + settings.position_weight * position
                weights /= weights.sum()
                for weight, (dy, dx) in zip(weights, steps, strict=True):
                    refined[:, y, x] += weight * padded[:, y + pad + dy, x + pad + dx]
        maps = refined
    return maps


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


@pytest.mark.parametrize(
    "settings",
    [
        PixelAffinitySettings(iterations=2, dilations=(1, 2, 4)),
        PixelAffinitySettings(iterations=1, dilations=(3, 24), width=0.7, position_weight=0.5),
    ],
)
def test_refinement_equals_plain_loops(random, settings) -> None:
    image = random.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    maps = random.random((3, 9, 13)).astype(np.float32)
    refined = refine_by_pixel_affinity(maps, image, settings)
    assert refined == pytest.approx(plain_refinement(maps.astype(float), image, settings), abs=1e-5)


def test_maps_spread_to_the_edges_of_the_image_and_stop_there() -> None:
    image = np.full((50, 70, 3), 40, np.uint8)
    image[10:35, 20:55] = (180, 120, 90)
    inside = np.zeros((50, 70), bool)
    inside[10:35, 20:55] = True
    coarse = np.zeros((1, 50, 70), np.float32)
    coarse[0, 14:34, 14:44] = 1  # misses a part, spills over another
    refined = refine_by_pixel_affinity(coarse, image, PixelAffinitySettings(iterations=40))[0]

    def overlap(found: np.ndarray) -> float:
        return (found & inside).sum() / (found | inside).sum()

    assert overlap(coarse[0] > 0.5) < 0.6
    assert overlap(refined > refined.max() / 2) > 0.95


def test_probabilities_stay_probabilities(random) -> None:
    image = random.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    maps = random.dirichlet(np.ones(4), size=(17, 23)).transpose(2, 0, 1).astype(np.float32)
    kept = maps.copy()
    refined = refine_by_pixel_affinity(maps, image, PixelAffinitySettings())
    assert refined.sum(axis=0) == pytest.approx(1, abs=1e-4)
    assert refined.min() >= 0
    assert np.array_equal(maps, kept)


def test_mirroring_image_and_maps_mirrors_the_result(random) -> None:
    image = random.integers(0, 256, (14, 19, 3), dtype=np.uint8)
    maps = random.random((2, 14, 19)).astype(np.float32)
    refined = refine_by_pixel_affinity(maps, image, PixelAffinitySettings(iterations=3))
    mirrored = refine_by_pixel_affinity(
        maps[:, ::-1, ::-1], image[::-1, ::-1], PixelAffinitySettings(iterations=3)
    )
    assert mirrored[:, ::-1, ::-1] == pytest.approx(refined, abs=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 1, 300), (3, 40, 2), (0, 5, 6)])
def test_constant_maps_on_odd_sizes_stay_constant(shape) -> None:
    image = np.full((*shape[1:], 3), 200, np.uint8)
    maps = np.full(shape, 0.3, np.float32)
    refined = refine_by_pixel_affinity(maps, image, PixelAffinitySettings())
    assert refined.shape == shape
    assert refined == pytest.approx(0.3, abs=1e-5)


def test_values_that_are_no_numbers_count_as_zero() -> None:
    image = np.full((12, 15, 3), 100, np.uint8)
    maps = np.full((1, 12, 15), np.nan, np.float32)
    assert not refine_by_pixel_affinity(maps, image, PixelAffinitySettings()).any()


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="10 rows and 20 columns do not fit"):
        refine_by_pixel_affinity(
            np.zeros((2, 10, 20), np.float32),
            np.zeros((20, 10, 3), np.uint8),
            PixelAffinitySettings(),
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"dilations": ()}, r"dilations is \(\)"),
        ({"dilations": (1, 0)}, r"dilations is \(1, 0\)"),
        ({"width": 0.0}, "width is 0.0"),
        ({"position_weight": -1.0}, "position_weight is -1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message) -> None:
    with pytest.raises(SettingError, match=message):
        PixelAffinitySettings(**settings)
