"""Pictures of a report -> what the page's script draws: a light index, and a block per picture.

The index is read at once; the blocks (JPEG, heat, masks) wait as text until they are shown.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from weakloc.errors import ImageError
from weakloc.geometry import BoxLTRB, box_area, box_from_xywh, box_ious
from weakloc.output.report_content import (
    CoarseHeat,
    ReportPicture,
    classes_with_places,
)
from weakloc.rle import decode_mask
from weakloc.structures import PRESENT, UNKNOWN, Mask, Point, Prediction, Sample

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


PICTURE_SIDES = ((100, 640), (250, 480))  # up to so many pictures: pixels of the long side
SMALLEST_PICTURE_SIDE = 320
JPEG_QUALITY = 80
MASK_SIDE = 160  # cells along the long side of a stored mask
LIVE_SIDE = 224  # cells along the long side of the map that the page finds boxes in
SHOWN_SCORE = 0.05
MOST_SCORES = 20
THREADS = 4


@dataclass(frozen=True)
class GalleryItem:
    """One picture as the page wants it: `index` is plain JSON, so is `block`."""

    index: Mapping[str, Any]
    block: Mapping[str, Any]
    heat: Mapping[str, CoarseHeat] = field(default_factory=dict)
    is_broken: bool = False


class ClassNumbers:
    """Class names by number: those of the content first, then any that predictions add."""

    def __init__(self, names: Iterable[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}

    def __getitem__(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._numbers)


def gallery_items(
    pictures: Sequence[ReportPicture], truth_names: Sequence[str], numbers: ClassNumbers
) -> list[GalleryItem]:
    """Every picture in order; they are read by a few threads, some ahead."""
    side = picture_side(len(pictures))

    def encode(picture: ReportPicture) -> bytes | None:
        try:
            return encoded_picture(picture.open_picture(), side)
        except ImageError:
            return None

    return [
        _item(picture, jpeg, truth_names, numbers)
        for picture, jpeg in zip(pictures, _in_order(encode, pictures), strict=True)
    ]


def picture_side(num_pictures: int) -> int:
    """Pixels along the long side: fewer for many pictures, so that the file can be mailed."""
    fitting = (side for most, side in PICTURE_SIDES if num_pictures <= most)
    return next(fitting, SMALLEST_PICTURE_SIDE)


def encoded_picture(picture: Image.Image, side: int) -> bytes:
    """A JPEG whose long side has at most so many pixels."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), reducing_gap=2.0)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return encoded.getvalue()


def _in_order(
    encode: Callable[[ReportPicture], bytes | None], pictures: Sequence[ReportPicture]
) -> Iterator[bytes | None]:
    """At most a few full-size pictures are in memory at a time."""
    remaining = iter(pictures)
    with ThreadPoolExecutor(THREADS) as pool:
        while group := list(islice(remaining, 2 * THREADS)):
            yield from pool.map(encode, group)


def _item(
    picture: ReportPicture,
    jpeg: bytes | None,
    truth_names: Sequence[str],
    numbers: ClassNumbers,
) -> GalleryItem:
    said = picture.prediction
    objects = () if picture.truth is None else true_objects(picture.truth, truth_names)
    has_boxes = picture.truth is not None and picture.truth.truth is not None
    outcomes = outcomes_of(said, objects) if has_boxes else ()
    index = {
        "name": said.image,
        "width": said.width,
        "height": said.height,
        "doubt": _short(said.doubt),
        "grid": _live_grid(said.width, said.height),
        "classes": [numbers[name] for name in classes_with_places(said, 0.5)],
        "scores": _scores(picture, numbers),
        "points": [
            [numbers[p.class_name], _short(p.x), _short(p.y), _short(p.score)] for p in said.points
        ],
        "boxes": [
            [numbers[b.class_name], *map(_short, b.box), _short(b.score)] for b in said.boxes
        ],
        "truth": [_plain_object(item, numbers) for item in objects],
        "tags": _tags(picture, truth_names, numbers),
        "outcomes": [[numbers[item.class_name], item.outcome] for item in outcomes],
        "disagreements": [
            [numbers[item.class_name], item.kind, _short(item.score)] for item in said.disagreements
        ],
    }
    block = {
        "jpeg": None if jpeg is None else base64.b64encode(jpeg).decode("ascii"),
        "heat": [_plain_heat(numbers[name], heat) for name, heat in picture.heat.items()],
        "masks": [_plain_mask(numbers[mask.class_name], mask) for mask in said.masks],
    }
    return GalleryItem(index, block, picture.heat, jpeg is None)


def _scores(picture: ReportPicture, numbers: ClassNumbers) -> list[list[float]]:
    """The likely classes and all that something is shown of, best first."""
    said = picture.prediction
    needed = {*classes_with_places(said, SHOWN_SCORE), *picture.heat}
    needed.update(item.class_name for item in said.disagreements)
    ranked = sorted(needed, key=lambda name: (-said.scores.get(name, 0.0), name))
    return [[numbers[name], _short(said.scores.get(name, 0.0))] for name in ranked[:MOST_SCORES]]


def _tags(
    picture: ReportPicture, truth_names: Sequence[str], numbers: ClassNumbers
) -> list[list[int]]:
    """What people said: [class, 1 present or -1 absent], absent ones only where it is news."""
    named = picture.prediction.extra.get("tags")
    if picture.truth is None:
        listed = named if isinstance(named, list) else []
        return [[numbers[name], 1] for name in listed if isinstance(name, str)]
    labels = zip(truth_names, picture.truth.labels.tolist(), strict=True)
    likely = set(classes_with_places(picture.prediction, 0.5))
    return [
        [numbers[name], label]
        for name, label in labels
        if label == PRESENT or (label != UNKNOWN and name in likely)
    ]


def _plain_object(item: TrueObject, numbers: ClassNumbers) -> list[float]:
    return [numbers[item.class_name], *map(_short, item.box), int(item.is_optional)]


def _plain_heat(number: int, heat: CoarseHeat) -> list[Any]:
    rows, columns = heat.shape
    cells = np.ascontiguousarray(heat, dtype=np.uint8).tobytes()
    return [number, columns, rows, base64.b64encode(cells).decode("ascii")]


def _plain_mask(number: int, mask: Mask) -> list[Any]:
    """Row by row, run lengths that start with outside, of the mask on a coarse grid."""
    small = shrunk_mask(decode_mask(mask.rle))
    flat = np.concatenate(([False], small.ravel()))
    borders = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate(([0], borders, [small.size])))
    return [number, small.shape[1], small.shape[0], " ".join(map(str, runs.tolist()))]


def shrunk_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """At most MASK_SIDE cells along the long side; a cell belongs where half of it does."""
    height, width = mask.shape
    ratio = min(1.0, MASK_SIDE / max(width, height))
    size = max(round(width * ratio), 1), max(round(height * ratio), 1)
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(size, Image.Resampling.BOX)) >= 128


def _live_grid(width: int, height: int) -> list[int]:
    """Columns and rows of about square cells, never finer than the pixels."""
    ratio = min(1.0, LIVE_SIDE / max(width, height))
    return [max(round(width * ratio), 1), max(round(height * ratio), 1)]


def _short(number: float) -> float:
    return round(float(number), 4)
