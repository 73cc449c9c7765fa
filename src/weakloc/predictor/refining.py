"""Class maps and the picture -> masks, by threshold or refined along the picture's edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from weakloc.config import PredictSettings
from weakloc.geometry import GridTransform
from weakloc.localize.crf import CrfSettings, dense_crf
from weakloc.localize.maps import NORMALISATIONS, Maps, image_grid, resample
from weakloc.localize.masks import (
    Background,
    ClassMask,
    LabelImage,
    class_masks,
    labels_of_stack,
    score_stack,
    segment,
    without_specks,
)
from weakloc.localize.pixel_affinity import PixelAffinitySettings, refine_by_pixel_affinity
from weakloc.predictor.streaming import SeenImage
from weakloc.structures import ScoreMaps

REFINED_SIDE = 500  # pixels along the long side at which edges are followed


def find_masks(
    seen: SeenImage,
    heat: ScoreMaps,
    thresholds: Sequence[float],
    settings: PredictSettings,
) -> list[ClassMask]:
    """Masks of the maps that win pixels; each pixel belongs to one of them or to none.

    `thresholds` are one a map of `heat`, and `class_index` of a mask is the place of its map.
    """
    if settings.masks == "none" or not thresholds:
        return []
    shares = np.asarray(thresholds, dtype=np.float32)
    level = float(shares.mean())
    normalised = NORMALISATIONS[settings.threshold_mode](heat.values)
    # Shifted so that one background level stands for every class's own threshold.
    shifted = ScoreMaps(normalised - shares[:, None, None] + level, heat.transform, "cam")
    background = Background("threshold", level=level)
    labels = _LABELLING[settings.masks](shifted, seen, background)
    return class_masks(without_specks(labels, min_area=settings.min_area))


def _by_threshold(maps: ScoreMaps, seen: SeenImage, background: Background) -> LabelImage:
    return segment(maps, _all_present(maps), image_grid(seen.size), background=background)


def _by_crf(maps: ScoreMaps, seen: SeenImage, background: Background) -> LabelImage:
    def refine(stack: Maps, pixels: NDArray[np.uint8]) -> Maps:
        positive = np.maximum(stack, 1e-3)
        shares = np.asarray(positive / positive.sum(axis=0), dtype=np.float32)
        return dense_crf(shares, pixels, CrfSettings())

    return _refined(maps, seen, background, refine)


def _by_pixel_affinity(maps: ScoreMaps, seen: SeenImage, background: Background) -> LabelImage:
    def refine(stack: Maps, pixels: NDArray[np.uint8]) -> Maps:
        return np.asarray(refine_by_pixel_affinity(stack, pixels, PixelAffinitySettings()))

    return _refined(maps, seen, background, refine)


_LABELLING = {"threshold": _by_threshold, "crf": _by_crf, "par": _by_pixel_affinity}


def _refined(
    maps: ScoreMaps,
    seen: SeenImage,
    background: Background,
    refine: Callable[[Maps, NDArray[np.uint8]], Maps],
) -> LabelImage:
    """Refined at a bounded size, then each pixel of the image takes the nearest label."""
    grid = image_grid(seen.size, long_side=REFINED_SIDE)
    columns, rows = (round(side) for side in grid.grid_size)
    pixels = np.asarray(seen.picture.resize((columns, rows)))
    present = _all_present(maps)
    stack = refine(score_stack(resample(maps, grid).values, present, background), pixels)
    labels = labels_of_stack(stack, present, background)
    return _enlarged(labels, grid)


def _enlarged(labels: LabelImage, grid: GridTransform) -> LabelImage:
    width, height = (round(side) for side in grid.image_size)
    rows = np.minimum((np.arange(height) + 0.5) * labels.shape[0] / height, labels.shape[0] - 1)
    columns = np.minimum((np.arange(width) + 0.5) * labels.shape[1] / width, labels.shape[1] - 1)
    return np.asarray(labels[rows.astype(np.intp)[:, None], columns.astype(np.intp)[None, :]])


def _all_present(maps: ScoreMaps) -> NDArray[np.bool_]:
    return np.ones(len(maps.values), dtype=np.bool_)
