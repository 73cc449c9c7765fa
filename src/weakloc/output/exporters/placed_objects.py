"""Boxes and masks of one image -> objects, as annotation formats know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as coco_mask

from weakloc.errors import PredictionsError
from weakloc.geometry import BoxLTRB, box_from_xywh, box_ious
from weakloc.output.exporters.outlines import Corners, outlines_of
from weakloc.run_lengths import decode_mask
from weakloc.structures import Box, Mask, Prediction

SAME_OBJECT = 0.5  # overlap of a box with the tight box of a mask


@dataclass(frozen=True, slots=True)
class PlacedObject:
    """One thing of a class: its box, and its pixels where there is a mask."""

    class_name: str
    box: BoxLTRB
    score: float
    rle: Mapping[str, Any] | None


def objects_of(prediction: Prediction) -> list[PlacedObject]:
    """The boxes in their order, each with the mask it belongs to, then the masks left over.

    A mask belongs to the box of its class that overlaps its tight box most, by half at least;
    the object has the box and the score of the box. Empty masks are no objects.
    """
    if not prediction.masks:
        return [PlacedObject(box.class_name, box.box, box.score, None) for box in prediction.boxes]
    owned: dict[int, Mask] = {}
    left_over = []
    for mask in prediction.masks:
        tight = tight_box(mask.rle)
        owner = _owner(mask.class_name, tight, prediction.boxes, owned)
        if owner is not None:
            owned[owner] = mask
        elif tight[2] > tight[0]:
            left_over.append(PlacedObject(mask.class_name, tight, mask.score, mask.rle))
    objects = [
        PlacedObject(
            box.class_name, box.box, box.score, owned[index].rle if index in owned else None
        )
        for index, box in enumerate(prediction.boxes)
    ]
    return objects + left_over


def _owner(
    class_name: str, tight: BoxLTRB, boxes: Sequence[Box], owned: Mapping[int, Mask]
) -> int | None:
    free = [
        index
        for index, box in enumerate(boxes)
        if box.class_name == class_name and index not in owned
    ]
    if not free:
        return None
    overlaps = box_ious([boxes[index].box for index in free], [tight])[:, 0]
    best = int(overlaps.argmax())
    return free[best] if overlaps[best] >= SAME_OBJECT else None


def tight_box(rle: Mapping[str, Any]) -> BoxLTRB:
    left, top, width, height = coco_mask.toBbox(compressed(rle)).tolist()
    return box_from_xywh((left, top, width, height))


def mask_area(rle: Mapping[str, Any]) -> float:
    return float(coco_mask.area(compressed(rle)))


def compressed(rle: Mapping[str, Any]) -> dict[str, Any]:
    """The run lengths as COCO's text, whatever form they came in."""
    counts = rle["counts"]
    if isinstance(counts, list):
        height, width = rle["size"]
        encoded: dict[str, Any] = coco_mask.frPyObjects(dict(rle), height, width)
        counts = encoded["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": list(rle["size"]), "counts": text}


def outlines_of_rle(rle: Mapping[str, Any], *, where: str) -> list[Corners]:
    """The outlines of a mask; `where` names its image in the error."""
    try:
        return outlines_of(decode_mask(rle))
    except ValueError as error:
        raise PredictionsError(f"has a mask that cannot be read ({error})", where=where) from error
