"""COCO's run lengths: masks in and out, their boxes, areas and unions.

Decoding is NumPy alone: pycocotools' own `decode` warns under NumPy 2. Runs alternate between 0
and 1, start with 0 and go down the columns. Each run is written as its difference to the run
before the last, in groups of five bits from the lowest on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from weakloc.geometry import BoxLTRB, box_from_xywh

MOST_PIXELS = 2**30  # of a mask


class RunLengths(TypedDict):
    """COCO's: the runs as its compressed text or as they are."""

    size: list[int]  # height, width
    counts: str | list[Annotated[int, Meta(ge=0, le=2**31)]]


def encode_mask(mask: NDArray[np.generic]) -> RunLengths:
    """Compressed run lengths of a mask (height, width), with text so that JSON can hold them."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in mask.shape], "counts": encoded["counts"].decode()}


def encode_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> RunLengths:
    """The union of polygons, each a flat (x, y, x, y, ...), in an image of (width, height)."""
    encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, size[1], size[0]))
    return {"size": [size[1], size[0]], "counts": encoded["counts"].decode()}


def compressed(rle: Mapping[str, Any]) -> RunLengths:
    """The run lengths as COCO's text, whatever form they came in."""
    counts = rle["counts"]
    if isinstance(counts, list):
        height, width = rle["size"]
        counts = coco_mask.frPyObjects(dict(rle), height, width)["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    return {"size": rle["size"], "counts": counts}


def tight_box(rle: Mapping[str, Any]) -> BoxLTRB:
    """The tight box around compressed run lengths."""
    left, top, width, height = coco_mask.toBbox(dict(rle)).tolist()
    return box_from_xywh((left, top, width, height))


def mask_area(rle: Mapping[str, Any]) -> float:
    return float(coco_mask.area(dict(rle)))


def decode_mask(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask, (height, width), of {"size": [height, width], "counts": text or list}."""
    height, width = (int(side) for side in rle["size"])
    runs = filling_runs(rle)
    values = np.arange(len(runs)) % 2 == 1
    return np.asarray(np.repeat(values, runs).reshape(width, height).T)


def filling_runs(rle: Mapping[str, Any]) -> NDArray[np.int64]:
    """The runs of a mask; ValueError where they are damaged or do not fill it."""
    height, width = (int(side) for side in rle["size"])
    runs = run_lengths(rle["counts"])
    is_full = runs.min(initial=0) >= 0 and float(runs.sum()) == height * width
    if not is_full or min(width, height) < 0 or width * height > MOST_PIXELS:
        raise ValueError(f"runs of {runs.sum()} pixels do not fill {width} x {height}")
    return runs


def run_lengths(counts: str | bytes | Sequence[int]) -> NDArray[np.int64]:
    """The runs themselves, from the compressed text or the plain list."""
    if not isinstance(counts, str | bytes):
        return np.asarray(counts, dtype=np.int64)
    encoded = counts.encode("latin-1") if isinstance(counts, str) else counts
    differences = _differences(np.frombuffer(encoded, dtype=np.uint8).astype(np.int64) - 48)
    runs = differences.copy()
    runs[1::2] = np.cumsum(differences[1::2])
    runs[2::2] = np.cumsum(differences[2::2])  # the first run stands alone
    return runs


def _differences(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Signed numbers of five-bit groups; bit 5 says that more follow, bit 4 of the last signs."""
    if groups.size == 0:
        return groups
    if groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("the run lengths are not COCO's compressed text")
    last = np.flatnonzero((groups & 32) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    sizes = last - first + 1
    if sizes.max() > 10:
        raise ValueError("a run length has more digits than any image could need")
    digits = np.arange(len(groups)) - np.repeat(first, sizes)
    numbers = np.add.reduceat((groups & 31) << (5 * digits), first)
    negative = (groups[last] & 16) != 0
    return np.asarray(numbers - (negative.astype(np.int64) << (5 * sizes)))
