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
from weakloc.rle import encode_mask
from weakloc.structures import RunLengths, ScoreMaps

LabelGrid: TypeAlias = NDArray[np.int32]  # (rows, columns)
BackgroundMode: TypeAlias = Literal["threshold", "class", "power"]

_ROWS_AT_ONCE = 256  # a label image of many megapixels is made strip by strip


@dataclass(frozen=True, slots=True)
class Background:
    """What stands against the classes: a constant `level` ("threshold"), the map of the class
    with index `class_index` ("class"), or (1 - greatest class score) ** `exponent` ("power")."""

    mode: BackgroundMode = "threshold"
    level: float = 0.3
    exponent: float = 8.0
    class_index: int | None = None

    def __post_init__(self) -> None:
        if (self.mode == "class") != (self.class_index is not None):
            raise ValueError("a background class index is for the mode 'class', which needs one")


@dataclass(frozen=True)
class ClassMask:
    """The pixels of one class and their share of the image."""

    class_index: int
    rle: RunLengths
    area_share: float


def score_stack(maps: Maps, present: NDArray[np.bool_], background: Background) -> Maps:
    """Background first, then the present classes in order: (1 + P, rows, columns).

    `maps` (C, rows, columns) are normalised to [0, 1]. What a conditional random field refines.
    """
    classes = maps[_foreground(present, background)]
    if background.mode == "class":
        behind = maps[background.class_index]
    elif background.mode == "power":
        greatest = classes.max(axis=0, initial=0.0)
        behind = np.power(np.clip(1.0 - greatest, 0.0, 1.0), background.exponent)
    else:
        behind = np.full(maps.shape[1:], background.level)
    return np.concatenate([behind[None], classes]).astype(np.float32)


def labels_of_stack(stack: Maps, present: NDArray[np.bool_], background: Background) -> LabelGrid:
    """The label of the greatest score in each cell; background, then the first class, on ties."""
    numbers = np.concatenate([[0], _foreground(present, background) + 1]).astype(np.int32)
    return np.asarray(numbers[np.argmax(stack, axis=0)])


def segment(
    maps: ScoreMaps, present: NDArray[np.bool_], grid: GridTransform, *, background: Background
) -> LabelGrid:
    """The label image on a grid: maps resampled bilinearly, then the greatest score wins."""
    columns, rows = grid.grid_size
    strips = []
    for top in range(0, round(rows), _ROWS_AT_ONCE):
        strip = grid.crop((0.0, top, columns, min(top + _ROWS_AT_ONCE, rows)))
        stack = score_stack(resample(maps, strip).values, present, background)
        strips.append(labels_of_stack(stack, present, background))
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


def class_masks(labels: LabelGrid) -> list[ClassMask]:
    """One mask for each class that has pixels, in order of class index."""
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    return [
        ClassMask(int(value) - 1, encode_mask(labels == value), int(count) / labels.size)
        for value, count in zip(values, counts, strict=True)
    ]


def _foreground(present: NDArray[np.bool_], background: Background) -> NDArray[np.intp]:
    indices = np.flatnonzero(present)
    return np.asarray(indices[indices != background.class_index])
