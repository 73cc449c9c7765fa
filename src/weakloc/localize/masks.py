"""Normalised class maps in, a label image and one run-length mask per class out.

Label images hold 0 for background and c + 1 for class c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from weakloc.geometry import GridTransform
from weakloc.localize.maps import Maps, resample
from weakloc.rle import RunLengths, encode_mask
from weakloc.structures import ScoreMaps

LabelGrid: TypeAlias = NDArray[np.int32]  # (rows, columns)
BackgroundMode: TypeAlias = Literal["threshold", "class", "power"]

_ROWS_AT_ONCE = 256  # a label image of many megapixels is made strip by strip


@dataclass(frozen=True, slots=True)
class Background:
    """What stands against the classes: a constant `level` ("threshold"), the last of the maps
    ("class"), or (1 - greatest class score) ** `exponent` ("power")."""

    mode: BackgroundMode = "threshold"
    level: float = 0.3
    exponent: float = 8.0


def score_stack(maps: Maps, background: Background) -> Maps:
    """Background first, then the classes in order: (1 + C, rows, columns).

    `maps` (C, rows, columns) are normalised to [0, 1]. What a conditional random field refines.
    """
    classes = maps
    if background.mode == "class":
        classes, behind = maps[:-1], maps[-1]
    elif background.mode == "power":
        greatest = classes.max(axis=0, initial=0.0)
        behind = np.power(np.clip(1.0 - greatest, 0.0, 1.0), background.exponent)
    else:
        behind = np.full(maps.shape[1:], background.level)
    return np.concatenate([behind[None], classes]).astype(np.float32)


def labels_of_stack(stack: Maps) -> LabelGrid:
    """The label of the greatest score in each cell; background, then the first class, on ties."""
    return np.asarray(np.argmax(stack, axis=0), dtype=np.int32)


def segment(maps: ScoreMaps, grid: GridTransform, *, background: Background) -> LabelGrid:
    """The label image on a grid: maps resampled bilinearly, then the greatest score wins."""
    columns, rows = grid.grid_size
    strips = []
    for top in range(0, round(rows), _ROWS_AT_ONCE):
        strip = grid.crop((0.0, top, columns, min(top + _ROWS_AT_ONCE, rows)))
        strips.append(labels_of_stack(score_stack(resample(maps, strip).values, background)))
    return np.concatenate(strips)


def without_specks(labels: LabelGrid, *, min_area: float) -> LabelGrid:
    """The label image without 8-connected parts smaller than a share of all its pixels."""
    cleaned = labels.copy()
    for value in np.unique(labels[labels > 0]):
        parts, _ = label(labels == value, np.ones((3, 3)))
        small = np.bincount(parts.ravel()) < min_area * labels.size
        small[0] = False
        cleaned[small[parts]] = 0
    return cleaned


def class_masks(labels: LabelGrid) -> dict[int, RunLengths]:
    """One mask for each class that has pixels, in order of class index."""
    values = np.unique(labels[labels > 0]).tolist()
    return {value - 1: encode_mask(labels == value) for value in values}
