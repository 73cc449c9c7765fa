"""One image's predicted places and drawn truth -> what went right and how it went wrong.

hit          a box with IoU >= 0.5 to an object of its class
part         it touches one and lies mostly inside of it
too big      it touches one and reaches further
false alarm  it touches no object of its class
miss         an object that no box of its class touches

Touching is an IoU of 0.1, or half of either inside of the other. A class with points only is
judged by them: inside an object's box is a hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pycocotools import mask as coco_mask

from weakloc.geometry import BoxLTRB, box_area, box_from_xywh, box_ious
from weakloc.structures import Point, Prediction, Sample

Outcome: TypeAlias = Literal["hit", "part", "too big", "miss", "false alarm"]
OUTCOMES: tuple[Outcome, ...] = ("hit", "part", "too big", "miss", "false alarm")
HIT_IOU = 0.5
TOUCHING_IOU = 0.1


@dataclass(frozen=True, slots=True)
class TrueObject:
    """One drawn object; `is_optional` ones (difficult, crowds) are never missed."""

    class_name: str
    box: BoxLTRB
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class ClassOutcome:
    class_name: str
    outcome: Outcome


def true_objects(sample: Sample, class_names: Sequence[str]) -> tuple[TrueObject, ...]:
    """The drawn boxes, or the boxes around the drawn masks where there are no boxes."""
    truth = sample.truth
    if truth is None:
        return ()
    if truth.boxes:
        return tuple(
            TrueObject(class_names[item.class_index], item.box, item.difficult or item.crowd)
            for item in truth.boxes
        )
    return tuple(
        TrueObject(class_names[item.class_index], _box_around(item.rle), item.crowd)
        for item in truth.masks
    )


def outcomes_of(
    prediction: Prediction, objects: Sequence[TrueObject], *, min_score: float = 0.5
) -> tuple[ClassOutcome, ...]:
    """Each outcome of each class once, in the order of OUTCOMES."""
    found: set[tuple[str, Outcome]] = set()
    names = {item.class_name for item in objects}
    names.update(box.class_name for box in prediction.boxes)
    names.update(point.class_name for point in prediction.points)
    for name in names:
        own = [item for item in objects if item.class_name == name]
        boxes = [item.box for item in prediction.boxes if item.class_name == name]
        points = [
            item
            for item in prediction.points
            if item.class_name == name and item.score >= min_score
        ]
        judged = _judge_boxes(boxes, own) if boxes else _judge_points(points, own)
        found.update((name, outcome) for outcome in judged)
    ordered = sorted(found, key=lambda pair: (OUTCOMES.index(pair[1]), pair[0]))
    return tuple(ClassOutcome(name, outcome) for name, outcome in ordered)


def judge_box(box: BoxLTRB, objects: Sequence[TrueObject]) -> Outcome:
    """The outcome of one box against the objects of its class."""
    touched = [item.box for item in objects if touches(box, item.box)]
    if not touched:
        return "false alarm"
    best = max(touched, key=lambda other: _iou(box, other))
    if _iou(box, best) >= HIT_IOU:
        return "hit"
    return "part" if box_area(box) <= box_area(best) else "too big"


def touches(box: BoxLTRB, other: BoxLTRB) -> bool:
    if _iou(box, other) >= TOUCHING_IOU:
        return True
    smaller = min(box_area(box), box_area(other))
    return smaller > 0 and _overlap(box, other) >= smaller / 2


def _judge_boxes(boxes: Sequence[BoxLTRB], objects: Sequence[TrueObject]) -> set[Outcome]:
    judged: set[Outcome] = {judge_box(box, objects) for box in boxes}
    for item in objects:
        if not item.is_optional and not any(touches(box, item.box) for box in boxes):
            judged.add("miss")
    return judged


def _judge_points(points: Sequence[Point], objects: Sequence[TrueObject]) -> set[Outcome]:
    if not objects:
        return {"false alarm"} if points else set()
    inside = [any(_holds(item.box, point) for item in objects) for point in points]
    if any(inside):
        return {"hit"}
    return set() if all(item.is_optional for item in objects) else {"miss"}


def _holds(box: BoxLTRB, point: Point) -> bool:
    return box[0] <= point.x < box[2] and box[1] <= point.y < box[3]


def _iou(first: BoxLTRB, second: BoxLTRB) -> float:
    return float(box_ious(first, second)[0, 0])


def _overlap(first: BoxLTRB, second: BoxLTRB) -> float:
    return box_area(
        (
            max(first[0], second[0]),
            max(first[1], second[1]),
            min(first[2], second[2]),
            min(first[3], second[3]),
        )
    )


def _box_around(rle: object) -> BoxLTRB:
    left, top, width, height = coco_mask.toBbox(rle).tolist()
    return box_from_xywh((left, top, width, height))
