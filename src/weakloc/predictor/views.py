"""One picture -> the views that the network sees (scales, flips, tiles), each with its place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from weakloc.data.transforms import PixelSize, Preprocessing
from weakloc.geometry import BoxLTRB, GridTransform


@dataclass(frozen=True, slots=True)
class View:
    """What part of the picture, at what multiple of the network's usual input size."""

    scale: float = 1.0
    flip: bool = False
    tile: BoxLTRB | None = None  # whole pixels of the picture


def list_views(
    picture_size: PixelSize, *, scales: Sequence[float], flip: bool, tile: int, overlap: float
) -> list[View]:
    """Every scale of every tile, plain and, if asked, mirrored; `tile` 0 is the whole picture."""
    tiles: list[BoxLTRB | None] = [None]
    if tile and max(picture_size) > tile:
        tiles += cut_tiles(picture_size, side=tile, overlap=overlap)
    mirrored = (False, True) if flip else (False,)
    return [View(*parts) for parts in itertools.product(scales, mirrored, tiles)]


def cut_tiles(picture_size: PixelSize, *, side: int, overlap: float) -> list[BoxLTRB]:
    """Equal squares of at most `side` pixels that cover the picture, evenly spread.

    Neighbours share at least `overlap` of their side.
    """
    columns = _starts(picture_size[0], side, overlap)
    rows = _starts(picture_size[1], side, overlap)
    width, height = (min(side, length) for length in picture_size)
    return [
        (float(left), float(top), float(left + width), float(top + height))
        for top in rows
        for left in columns
    ]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    step = max(side * (1.0 - overlap), 1.0)
    count = math.ceil((length - side) / step) + 1
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def make_view(
    picture: Image.Image, view: View, preprocessing: Preprocessing
) -> tuple[Tensor, GridTransform]:
    """The network's input (3, H, W) and the way from the original image to it."""
    base = GridTransform.identity(picture.size)
    if view.tile is not None:
        left, top, right, bottom = (int(edge) for edge in view.tile)
        picture, base = picture.crop((left, top, right, bottom)), base.crop(view.tile)
    images, transform = scaled(preprocessing, view.scale, picture.size).apply(picture, base=base)
    if view.flip:
        return images.flip(-1), transform.flip_horizontal()
    return images, transform


def scaled(preprocessing: Preprocessing, factor: float, picture_size: PixelSize) -> Preprocessing:
    """The same preprocessing with another input size."""
    if factor == 1.0:
        return preprocessing
    if preprocessing.resize == "none":
        width, height = (max(round(side * factor), 1) for side in picture_size)
        return replace(preprocessing, resize="warp", size=(width, height))
    if isinstance(preprocessing.size, int):
        return replace(preprocessing, size=max(round(preprocessing.size * factor), 1))
    width, height = (max(round(side * factor), 1) for side in preprocessing.size)
    return replace(preprocessing, size=(width, height))
