"""What a report shows, as plain values, and its pictures as the page's script draws them.

Any program that has predictions can fill it. Of each picture the page has a light index and a
block. The index is read at once; the blocks (JPEG, heat, masks) wait as text until they are shown.
"""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weakloc.errors import ImageError
from weakloc.geometry import BoxLTRB, box_area, box_iou, box_overlap
from weakloc.metrics.result import EvaluationRecord
from weakloc.rle import decode_mask, tight_box
from weakloc.structures import PRESENT, UNKNOWN, Point, Prediction, Sample

HEAT_CELLS = 32  # along the long side of a stored heat map
LIKELY = 0.5  # score from which a class or a point counts
CoarseHeat: TypeAlias = NDArray[np.uint8]  # (rows, columns) over the whole image
ClassNumbers: TypeAlias = defaultdict[str, int]  # those of the content first, then any others


@dataclass(frozen=True)
class ReportPicture:
    """One image of the gallery.

    `heat` holds a coarse map per class name whose cells tile the image, 255 being the share 1
    that thresholds are compared with. `open_picture` may raise an ImageError: the card says so.
    """

    prediction: Prediction
    open_picture: Callable[[], Image.Image]
    heat: Mapping[str, CoarseHeat] = field(default_factory=dict)
    truth: Sample | None = None


@dataclass
class Totals:
    """Counts over all predictions, of which the gallery may show a part."""

    num_images: int = 0
    present: Counter[str] = field(default_factory=Counter)  # images with a place or a likely tag
    boxes: Counter[str] = field(default_factory=Counter)
    disagreements: Counter[str] = field(default_factory=Counter)
    num_disagreeing: int = 0  # images

    def add(self, prediction: Prediction) -> None:
        self.num_images += 1
        self.num_disagreeing += bool(prediction.disagreements)
        self.present.update(classes_with_places(prediction, LIKELY))
        self.boxes.update(box.class_name for box in prediction.boxes)
        self.disagreements.update(item.class_name for item in prediction.disagreements)


@dataclass(frozen=True)
class ReportContent:
    """`run` is the content of run.json, if there is one, and `metrics` that of metrics.json.

    `truth_class_names` are the classes of the truth samples, where they are not `class_names`.
    `thresholds` are what the boxes were cut at, by class name; `facts` are lines of the summary,
    such as the data set's path.
    """

    class_names: tuple[str, ...]
    pictures: Iterable[ReportPicture]
    title: str = "weakloc report"
    run: Mapping[str, Any] = field(default_factory=dict)
    metrics: EvaluationRecord | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    truth_class_names: tuple[str, ...] | None = None
    min_area: float = 0.001  # of the image: smallest part of a map that gets a box


def classes_with_places(prediction: Prediction, min_score: float) -> list[str]:
    """Classes that have a place or a likely score, in the order of their scores."""
    placed = {box.class_name for box in prediction.boxes}
    placed.update(mask.class_name for mask in prediction.masks)
    placed.update(point.class_name for point in prediction.points if point.score >= min_score)
    likely = {name for name, score in prediction.scores.items() if score >= min_score}
    return sorted(placed | likely, key=lambda name: (-prediction.scores.get(name, 0.0), name))


OutcomeName: TypeAlias = Literal["hit", "part", "too big", "miss", "false alarm"]
OUTCOMES: tuple[OutcomeName, ...] = ("hit", "part", "too big", "miss", "false alarm")
HIT_IOU = 0.5
TOUCHING_IOU = 0.1
PICTURE_SIDES = ((100, 640), (250, 480))  # up to so many pictures: pixels of the long side
SMALLEST_PICTURE_SIDE = 320
JPEG_QUALITY = 80
MASK_SIDE = 160  # cells along the long side of a stored mask
LIVE_SIDE = 224  # cells along the long side of the map that the page finds boxes in
SHOWN_SCORE = 0.05
MOST_SCORES = 20
THREADS = 4


def gallery_items(
    pictures: Sequence[ReportPicture], truth_names: Sequence[str], numbers: ClassNumbers
) -> list[dict[str, dict[str, Any]]]:
    """The `index` and the `block` of every picture in order, plain JSON; a few threads read."""
    side = picture_side(len(pictures))

    def encode(picture: ReportPicture) -> bytes | None:
        try:
            small = picture.open_picture().convert("RGB")
            small.thumbnail((side, side), reducing_gap=2.0)
            encoded = io.BytesIO()
            small.save(encoded, "JPEG", quality=JPEG_QUALITY, optimize=True)
            return encoded.getvalue()
        except ImageError:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        return [
            {
                "index": _index(picture, truth_names, numbers),
                "block": _block(picture, jpeg, numbers),
            }
            for picture, jpeg in zip(pictures, pool.map(encode, pictures), strict=True)
        ]


def picture_side(num_pictures: int) -> int:
    """Pixels along the long side: fewer for many pictures, so that the file can be mailed."""
    fitting = (side for most, side in PICTURE_SIDES if num_pictures <= most)
    return next(fitting, SMALLEST_PICTURE_SIDE)


def _index(
    picture: ReportPicture, truth_names: Sequence[str], numbers: ClassNumbers
) -> dict[str, Any]:
    """What the page knows of a picture at once."""

    def row(class_name: str, *values: float) -> list[float]:
        return [numbers[class_name], *map(_short, values)]

    prediction = picture.prediction
    objects = () if picture.truth is None else true_objects(picture.truth, truth_names)
    has_truth = picture.truth is not None and picture.truth.truth is not None
    outcomes = outcomes_of(prediction, objects) if has_truth else []
    # Likely, or with something shown.
    scores = prediction.scores
    shown = {*classes_with_places(prediction, SHOWN_SCORE), *picture.heat}
    shown.update(item.class_name for item in prediction.disagreements)
    ranked = sorted(shown, key=lambda name: (-scores.get(name, 0.0), name))
    return {
        "name": prediction.image,
        "width": prediction.width,
        "height": prediction.height,
        "doubt": _short(prediction.doubt),
        "grid": list(_cells_within(LIVE_SIDE, prediction.width, prediction.height)),
        "classes": [numbers[name] for name in classes_with_places(prediction, LIKELY)],
        "scores": [row(name, scores.get(name, 0.0)) for name in ranked[:MOST_SCORES]],
        "points": [row(item.class_name, item.x, item.y, item.score) for item in prediction.points],
        "boxes": [row(item.class_name, *item.box, item.score) for item in prediction.boxes],
        "truth": [[*row(item.class_name, *item.box), int(item.is_optional)] for item in objects],
        "tags": _tags(picture, truth_names, numbers),
        "outcomes": [[numbers[name], outcome] for name, outcome in outcomes],
        "disagreements": [
            [numbers[item.class_name], item.kind, _short(item.score)]
            for item in prediction.disagreements
        ],
    }


def _tags(
    picture: ReportPicture, truth_names: Sequence[str], numbers: ClassNumbers
) -> list[list[int]]:
    """What people said: [class, 1 present or -1 absent], absent ones only where it is news."""
    if picture.truth is None:
        tags = picture.prediction.extra.get("tags")
        named = tags if isinstance(tags, list) else []
        return [[numbers[name], 1] for name in named if isinstance(name, str)]
    labels = zip(truth_names, picture.truth.labels.tolist(), strict=True)
    likely = set(classes_with_places(picture.prediction, LIKELY))
    return [
        [numbers[name], label]
        for name, label in labels
        if label == PRESENT or (label != UNKNOWN and name in likely)
    ]


def _block(picture: ReportPicture, jpeg: bytes | None, numbers: ClassNumbers) -> dict[str, Any]:
    """What the page decodes when it shows a picture: pixels, heat and masks, row by row.

    A mask is run lengths that start with outside, on a coarse grid.
    """
    heat = [
        [numbers[name], *cells.shape[::-1], base64.b64encode(cells.tobytes()).decode("ascii")]
        for name, cells in picture.heat.items()
    ]
    masks: list[list[Any]] = []
    for mask in picture.prediction.masks:
        small = shrunk_mask(decode_mask(mask.rle))
        borders = np.flatnonzero(np.diff(small.ravel(), prepend=False))
        runs = np.diff(borders, prepend=0, append=small.size)
        in_words = " ".join(map(str, runs.tolist()))
        masks.append([numbers[mask.class_name], *small.shape[::-1], in_words])
    encoded = None if jpeg is None else base64.b64encode(jpeg).decode("ascii")
    return {"jpeg": encoded, "heat": heat, "masks": masks}


def shrunk_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """At most MASK_SIDE cells along the long side; a cell belongs where half of it does."""
    height, width = mask.shape
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    small = grey.resize(_cells_within(MASK_SIDE, width, height), Image.Resampling.BOX)
    return np.asarray(small) >= 128


def _cells_within(side: int, width: int, height: int) -> tuple[int, int]:
    """Columns and rows of about square cells, so many on the long side, never finer than pixels."""
    ratio = min(1.0, side / max(width, height))
    return max(round(width * ratio), 1), max(round(height * ratio), 1)


def _short(number: float) -> float:
    return round(float(number), 4)


@dataclass(frozen=True, slots=True)
class TrueObject:
    """One drawn object; `is_optional` ones (difficult, crowds) are never missed."""

    class_name: str
    box: BoxLTRB
    is_optional: bool = False


def true_objects(sample: Sample, class_names: Sequence[str]) -> tuple[TrueObject, ...]:
    """The drawn boxes, or the boxes around the drawn masks where there are no boxes."""
    drawn = [(box.class_index, box.box, box.difficult or box.crowd) for box in sample.drawn.boxes]
    if not drawn:
        drawn = [(m.class_index, tight_box(m.rle), m.crowd) for m in sample.drawn.masks]
    return tuple(TrueObject(class_names[index], box, optional) for index, box, optional in drawn)


def outcomes_of(
    prediction: Prediction, objects: Sequence[TrueObject]
) -> list[tuple[str, OutcomeName]]:
    """Each outcome of each class once, in the order of OUTCOMES; points count where no box is."""
    outcomes: set[tuple[str, OutcomeName]] = set()
    names = {item.class_name for item in objects}
    names.update(box.class_name for box in prediction.boxes)
    names.update(point.class_name for point in prediction.points)
    for name in names:
        drawn = [item for item in objects if item.class_name == name]
        boxes = [box.box for box in prediction.boxes if box.class_name == name]
        if boxes:
            outcomes.update((name, judge_box(box, drawn)) for box in boxes)
            due = (item.box for item in drawn if not item.is_optional)
            is_missed = any(not any(touches(box, other) for box in boxes) for other in due)
        else:
            points = [point for point in prediction.points if point.class_name == name]
            likely = [point for point in points if point.score >= LIKELY]
            is_hit = any(_is_on_box(point, item.box) for point in likely for item in drawn)
            is_missed = not is_hit and not all(item.is_optional for item in drawn)
            if is_hit or (likely and not drawn):
                outcomes.add((name, "hit" if is_hit else "false alarm"))
        if is_missed:
            outcomes.add((name, "miss"))
    return sorted(outcomes, key=lambda pair: (OUTCOMES.index(pair[1]), pair[0]))


def judge_box(box: BoxLTRB, objects: Sequence[TrueObject]) -> OutcomeName:
    """The outcome of one box against the objects of its class."""
    touched = [item.box for item in objects if touches(box, item.box)]
    if not touched:
        return "false alarm"
    best = max(touched, key=lambda other: box_iou(box, other))
    if box_iou(box, best) >= HIT_IOU:
        return "hit"
    return "part" if box_area(box) <= box_area(best) else "too big"


def touches(box: BoxLTRB, other: BoxLTRB) -> bool:
    """Whether they overlap by much, or by half of the smaller one."""
    smaller = min(box_area(box), box_area(other))
    is_inside = smaller > 0 and box_overlap(box, other) >= smaller / 2
    return is_inside or box_iou(box, other) >= TOUCHING_IOU


def _is_on_box(point: Point, box: BoxLTRB) -> bool:
    left, top, right, bottom = box
    return left <= point.x < right and top <= point.y < bottom
