"""COCO annotations of one image in, its truth out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from weakloc.data.readers.drawn_truth import (
    UNREADABLE_BOX,
    UNREADABLE_MASK,
    PolygonRle,
    merged_counts,
    usable_box,
)
from weakloc.geometry import BoxLTRB, box_from_xywh, box_of_points
from weakloc.run_lengths import run_lengths
from weakloc.structures import Problem, Truth, TruthBox, TruthMask


def truth_of_annotations(
    annotations: Iterable[Mapping[str, Any]],
    image: Mapping[str, Any],
    *,
    class_index: Mapping[Any, int],
    file_name: str,
    problems: list[Problem],
) -> Truth | None:
    """Boxes and masks of one image; those of classes that were not chosen are left out."""
    boxes: list[TruthBox] = []
    masks: list[TruthMask] = []
    size = _image_size(image)
    for record in annotations:
        index = class_index.get(record["category_id"])
        if index is None:
            continue
        where = f"{file_name}, annotation {record.get('id')}"
        crowd = bool(record.get("iscrowd"))
        rle = _run_lengths(record.get("segmentation"), size, where, problems)
        if rle is not None:
            masks.append(TruthMask(index, rle, crowd=crowd))
        box = _box(record, rle, where, problems)
        if box is not None:
            box = usable_box(box, image_size=size, where=where, problems=problems)
        if box is not None:
            boxes.append(TruthBox(index, box, crowd=crowd))
    return Truth(tuple(boxes), tuple(masks)) if boxes or masks else None


def _image_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None


def _box(
    record: Mapping[str, Any],
    rle: Mapping[str, Any] | None,
    where: str,
    problems: list[Problem],
) -> BoxLTRB | None:
    """The box as written, else the one around the shape."""
    written = record.get("bbox")
    if written:
        try:
            left, top, width, height = map(float, written)
        except (TypeError, ValueError):
            problems.append(Problem(UNREADABLE_BOX, f"bbox {written} is not 4 numbers", where))
            return None
        return box_from_xywh((left, top, width, height))
    if rle is None:
        problems.append(Problem(UNREADABLE_BOX, "there is neither bbox nor segmentation", where))
        return None
    shape = record["segmentation"]
    if isinstance(shape, list):
        return box_of_points(np.concatenate([np.asarray(polygon) for polygon in shape]))
    left, top, width, height = map(float, coco_mask.toBbox(dict(rle)))
    return box_from_xywh((left, top, width, height))


def _run_lengths(
    shape: Any, size: tuple[int, int] | None, where: str, problems: list[Problem]
) -> Mapping[str, Any] | None:
    """Run lengths of polygons (computed when read) or of RLE in either spelling."""
    if not shape:
        return None
    try:
        if isinstance(shape, list):
            return _polygons(shape, size)
        return _compressed(shape, size)
    except (KeyError, TypeError, ValueError) as error:
        problems.append(Problem(UNREADABLE_MASK, str(error), where))
        return None


def _polygons(shape: list[Any], size: tuple[int, int] | None) -> Mapping[str, Any]:
    if size is None:
        raise ValueError("the image has no width and height to draw polygons in")
    for polygon in shape:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon is not at least three pairs of numbers")
        if not np.isfinite(np.asarray(polygon, dtype=np.float64)).all():
            raise ValueError("a polygon has a corner that is not finite")
    return PolygonRle(shape, size)


def _compressed(shape: Mapping[str, Any], size: tuple[int, int] | None) -> Mapping[str, Any]:
    height, width = (int(side) for side in shape["size"])
    if size is not None and (width, height) != size:
        raise ValueError(f"mask of {width} x {height} in an image of {size[0]} x {size[1]}")
    counts = shape["counts"]
    num_pixels = int(run_lengths(counts).sum())
    if num_pixels != width * height:
        raise ValueError(f"run lengths cover {num_pixels} pixels of {width * height}")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    plain = {"size": [height, width], "counts": counts}
    return {
        "size": [height, width],
        "counts": merged_counts([coco_mask.frPyObjects(plain, height, width)]),
    }
