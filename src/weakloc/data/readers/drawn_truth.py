"""Drawn boxes and shapes in, truth in the image frame out; whatever cannot be used is reported.

Shapes become run lengths when somebody asks for them, so a big data set stays small in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from weakloc.data.readers.assembly import Problems
from weakloc.errors import ImageError
from weakloc.geometry import BoxLTRB, Size, box_area, clip_box
from weakloc.rle import encode_mask, encode_polygons
from weakloc.structures import Truth, TruthBox, TruthMask

ZERO_AREA_BOX = "zero-area box"
BOX_OUTSIDE_IMAGE = "box outside the image"
UNREADABLE_BOX = "unreadable box"
UNREADABLE_MASK = "unreadable mask"
_TOLERANCE = 0.5  # pixels that a box may stick out without a word: rounding of other tools


def usable_box(box: BoxLTRB, *, image_size: Size | None, problems: Problems) -> BoxLTRB | None:
    """The box cut to the image, or None where nothing of it is left; both are reported."""
    if not all(map(math.isfinite, box)):
        problems.warning(UNREADABLE_BOX, f"box {_shown(box)} is not finite")
        return None
    if box[2] <= box[0] or box[3] <= box[1]:
        problems.warning(ZERO_AREA_BOX, f"box {_shown(box)} has no area")
        return None
    clipped = clip_box(box, image_size or (math.inf, math.inf))
    if clipped == box:
        return box
    if (
        box_area(clipped) <= 0
        or max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > _TOLERANCE
    ):
        of_image = f" of {image_size[0]:g} x {image_size[1]:g}" if image_size else ""
        message = f"box {_shown(box)} reaches out of the image{of_image}"
        problems.warning(BOX_OUTSIDE_IMAGE, message)
    return clipped if box_area(clipped) > 0 else None


def drawn_truth(boxes: Sequence[TruthBox], masks: Sequence[TruthMask]) -> Truth | None:
    """What is drawn of one image; None where nothing is."""
    return Truth(tuple(boxes), tuple(masks)) if boxes or masks else None


def _shown(box: BoxLTRB) -> str:
    return "(" + ", ".join(f"{edge:g}" for edge in box) + ")"


class _LazyRle(Mapping[str, Any]):
    """COCO run lengths that are computed whenever they are read."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return iter(("size", "counts"))

    def __len__(self) -> int:
        return 2


class PolygonRle(_LazyRle):
    """Of a union of polygons in an image of (width, height).

    Each polygon is a flat (x, y, x, y, ...) of at least three points in the image frame.
    """

    __slots__ = ("_polygons", "_size")

    def __init__(self, polygons: Sequence[Sequence[float]], image_size: tuple[int, int]) -> None:
        self._polygons = tuple(np.asarray(polygon, dtype=np.float64) for polygon in polygons)
        self._size = image_size

    def __getitem__(self, key: str) -> Any:
        if key == "size":
            return [self._size[1], self._size[0]]
        rle = encode_polygons([polygon.tolist() for polygon in self._polygons], self._size)
        return dict(rle)[key]


class MaskFileRle(_LazyRle):
    """Of a mask image, of which every pixel above 0 belongs."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __getitem__(self, key: str) -> Any:
        try:
            with Image.open(self._path) as mask:
                return dict(encode_mask(np.asarray(mask.convert("L")) > 0))[key]
        except (OSError, ValueError) as error:
            raise ImageError(f"mask cannot be read ({error})", where=self._path) from error
