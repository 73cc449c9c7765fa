"""Run lengths and label images in; the pixel arrays that mask metrics compare out.

Label arrays are uint8: 0 background, 1 + c class c, 255 void (never counted).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weakloc.errors import DataError, PredictionsError
from weakloc.metrics.arrays import ClassIndex, truth_of
from weakloc.run_lengths import decode_mask
from weakloc.structures import Mask, Prediction, Sample, Truth

Labels: TypeAlias = NDArray[np.uint8]  # (height, width)
BACKGROUND, VOID = 0, 255


def paint_masks(
    prediction: Prediction, classes: ClassIndex, *, allowed: Iterable[int] | None = None
) -> Labels:
    """Each pixel gets the class of the best-scored mask over it; of equal ones the first."""
    where = prediction.image
    labels = np.zeros((prediction.height, prediction.width), dtype=np.uint8)
    known = range(len(classes)) if allowed is None else set(allowed)
    best_first = sorted(prediction.masks, key=lambda each: -each.score)
    for mask in reversed(best_first):
        c = classes.index_of(mask.class_name, where=where)
        if c in known:
            labels[_predicted_pixels(mask, where)] = 1 + c
    return labels


def truth_labels(sample: Sample, segmentation_values: Mapping[int, int]) -> Labels | None:
    """The drawn label image, else the drawn objects painted in order; None without either.

    `segmentation_values` leads from a palette index to its class. Crowds are void.
    """
    truth = truth_of(sample)
    if truth.segmentation_path is not None:
        return read_labels(truth.segmentation_path, segmentation_values)
    if not truth.masks:
        return None
    height, width = truth.masks[0].rle["size"]
    labels = np.zeros((height, width), dtype=np.uint8)
    for mask in sorted(truth.masks, key=lambda each: not each.crowd):  # objects over crowds
        labels[decode_mask(mask.rle)] = VOID if mask.crowd else 1 + mask.class_index
    return labels


def read_labels(path: str, segmentation_values: Mapping[int, int]) -> Labels:
    """A palette image's indices as labels."""
    try:
        with Image.open(Path(path)) as image:
            values = np.asarray(image)
    except OSError as reason:
        raise DataError(f"the label image cannot be read ({reason})", where=path) from reason
    if values.ndim != 2:
        raise DataError(
            f"a label image holds one index a pixel, this one has shape {values.shape}",
            where=path,
            remedy="Use the palette image, not its colours",
        )
    table = np.full(256, -1)
    table[[BACKGROUND, VOID]] = BACKGROUND, VOID
    for value, class_index in segmentation_values.items():
        table[value] = 1 + class_index
    labels = table[values]
    if (labels < 0).any():
        raise DataError(f"index {int(values[labels < 0][0])} stands for no class", where=path)
    return np.asarray(labels, dtype=np.uint8)


def class_mask(truth: Truth, class_index: int) -> Labels | None:
    """1 on the objects of a class, VOID on its crowds beyond them, 0 elsewhere."""
    mine = [mask for mask in truth.masks if mask.class_index == class_index]
    if not mine:
        return None
    pixels = np.zeros(tuple(mine[0].rle["size"]), dtype=np.uint8)
    for mask in sorted(mine, key=lambda each: not each.crowd):  # objects over crowds
        pixels[decode_mask(mask.rle)] = VOID if mask.crowd else 1
    return pixels


def of_class(labels: Labels, class_index: int) -> Labels:
    """The same from a label array."""
    return np.where(labels == VOID, VOID, labels == 1 + class_index).astype(np.uint8)


def resize_labels(labels: Labels, size: tuple[int, int]) -> Labels:
    """The nearest pixel by its centre, to (width, height)."""
    height, width = labels.shape
    columns = np.floor((np.arange(size[0]) + 0.5) * width / size[0]).astype(np.intp)
    rows = np.floor((np.arange(size[1]) + 0.5) * height / size[1]).astype(np.intp)
    return np.asarray(labels[rows[:, None], columns])


def _predicted_pixels(mask: Mask, where: str) -> NDArray[np.bool_]:
    try:
        return decode_mask(mask.rle)
    except ValueError as reason:
        raise PredictionsError(f"a mask of {mask.class_name!r}: {reason}", where=where) from reason
