"""A picture that knows which of its pixels belong to which object.

Objects are laid one over another. Truth is what can be seen: an object's mask is its visible
pixels, its box the tight box around them. No layer may leave an object with less than 40 % of
its pixels (counting those beyond the border as lost): such a layer is refused and nothing is
painted, so every label has something to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.data.scenes.outlines import Coverage
from weakloc.data.scenes.surfaces import Pixels
from weakloc.geometry import BoxLTRB

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
        self._corners: list[tuple[int, int]] = []

    @property
    def size(self) -> tuple[int, int]:
        return self._pixels.shape[1], self._pixels.shape[0]

    @property
    def last_corner(self) -> tuple[int, int] | None:
        """(left, top) of the object laid last."""
        return self._corners[-1] if self._corners else None

    def lay_object(self, layer: Layer, *, left: int, top: int, class_index: int) -> bool:
        """Lays an object of a class; False, and no change, where too little would be seen."""
        whole = int(np.count_nonzero(layer.coverage >= 128))
        region, part = self._clip(layer, left=left, top=top)
        inside = int(np.count_nonzero(part.coverage >= 128))
        if whole == 0 or inside < MIN_VISIBLE * whole or not self._leaves_enough(region, part):
            return False
        self._paint(region, part, value=len(self._classes) + 1)
        self._classes.append(class_index)
        self._whole.append(whole)
        self._inside.append(inside)
        self._visible.append(inside)
        self._corners.append((left, top))
        return True

    def lay_distraction(self, layer: Layer, *, left: int, top: int) -> bool:
        """Lays something without a class; False, and no change, where it would hide too much."""
        region, part = self._clip(layer, left=left, top=top)
        if not self._leaves_enough(region, part):
            return False
        self._paint(region, part, value=0)
        return True

    def scene(self) -> Scene:
        objects = []
        for index, class_index in enumerate(self._classes):
            rows, columns = np.nonzero(self._instances == index + 1)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            objects.append(
                SceneObject(
                    class_index,
                    (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
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

    def _leaves_enough(self, region: tuple[slice, slice], part: Layer) -> bool:
        hidden = self._hidden(region, part)
        return all(
            visible - int(loss) >= MIN_VISIBLE * whole
            for visible, loss, whole in zip(self._visible, hidden, self._whole, strict=True)
        )

    def _hidden(self, region: tuple[slice, slice], part: Layer) -> NDArray[np.intp]:
        """Pixels that each object would lose."""
        below = self._instances[region][part.coverage >= 128]
        return np.bincount(below, minlength=len(self._classes) + 1)[1:]

    def _paint(self, region: tuple[slice, slice], part: Layer, *, value: int) -> None:
        for index, loss in enumerate(self._hidden(region, part)):
            self._visible[index] -= int(loss)
        alpha = part.coverage[..., None].astype(np.uint16)
        mixed = self._pixels[region] * (255 - alpha) + part.pixels * alpha + 127
        self._pixels[region] = (mixed // 255).astype(np.uint8)
        self._instances[region][part.coverage >= 128] = value
