"""Boxes and masks of one image -> objects, as annotation formats know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pycocotools import mask as coco_mask

from weakloc.errors import PredictionsError
from weakloc.geometry import BoxLTRB, box_area, box_from_xywh
from weakloc.output.exporters.outlines import Corners, outlines_of
from weakloc.run_lengths import decode_mask
from weakloc.structures import Box, Prediction

Rle: TypeAlias = dict[str, Any]  # {"size": [height, width], "counts": str}

SAME_OBJECT = 0.5  # overlap of a box with the tight box of a mask


class PlacedObject(NamedTuple):
    """One thing of a class: its box, and its pixels (as COCO's text) where there is a mask."""

    class_name: str
    box: BoxLTRB
    score: float
    rle: Rle | None


def objects_of(prediction: Prediction) -> list[PlacedObject]:
    """The boxes in their order, each with the mask it belongs to, then the masks left over.

    A mask belongs to the box of its class that overlaps its tight box most, by half at least;
    the object has the box and the score of the box. Empty masks are no objects.
    """
    if not prediction.masks:
        return [PlacedObject(box.class_name, box.box, box.score, None) for box in prediction.boxes]
    owned: dict[int, Rle] = {}
    left_over = []
    for mask in prediction.masks:
        rle = compressed(mask.rle)
        tight = tight_box(rle)
        owner = _owner(mask.class_name, tight, prediction.boxes, owned)
        if owner is not None:
            owned[owner] = rle
        elif tight[2] > tight[0]:
            left_over.append(PlacedObject(mask.class_name, tight, mask.score, rle))
    objects = [
        PlacedObject(box.class_name, box.box, box.score, owned.get(index))
        for index, box in enumerate(prediction.boxes)
    ]
    return objects + left_over


def _owner(
    class_name: str, tight: BoxLTRB, boxes: Sequence[Box], owned: Mapping[int, Rle]
) -> int | None:
    best, best_overlap = None, SAME_OBJECT
    for index, box in enumerate(boxes):
        if box.class_name == class_name and index not in owned:
            overlap = _iou(box.box, tight)
            if overlap > best_overlap or (best is None and overlap == best_overlap):
                best, best_overlap = index, overlap
    return best


def _iou(first: BoxLTRB, second: BoxLTRB) -> float:
    """For two boxes; `geometry.box_ious` takes ten times as long for so few."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / (box_area(first) + box_area(second) - overlap)


def tight_box(rle: Rle) -> BoxLTRB:
    left, top, width, height = coco_mask.toBbox(rle).tolist()
    return box_from_xywh((left, top, width, height))


def mask_area(rle: Rle) -> float:
    return float(coco_mask.area(rle))


def compressed(rle: Mapping[str, Any]) -> Rle:
    """The run lengths as COCO's text, whatever form they came in."""
    counts = rle["counts"]
    if isinstance(counts, list):
        height, width = rle["size"]
        encoded: Rle = coco_mask.frPyObjects(dict(rle), height, width)
        counts = encoded["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    return {"size": rle["size"], "counts": counts}


def outlines_of_rle(rle: Mapping[str, Any], *, where: str) -> list[Corners]:
    """The outlines of a mask; `where` names its image in the error."""
    try:
        return outlines_of(decode_mask(rle))
    except ValueError as error:
        raise PredictionsError(f"has a mask that cannot be read ({error})", where=where) from error
