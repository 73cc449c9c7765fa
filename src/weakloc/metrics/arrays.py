"""One image's truth and prediction in, the flat arrays that the kernels take out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from weakloc.errors import DataError, PredictionsError, did_you_mean
from weakloc.geometry import BoxLTRB, FloatArray, IntArray
from weakloc.structures import PRESENT, Box, Mask, Point, Prediction, Sample, Truth


@dataclass(frozen=True)
class TruthArrays:
    """The drawn objects of one image; `ignored` marks difficult objects and crowds."""

    classes: IntArray  # (G,)
    boxes: FloatArray  # (G, 4)
    difficult: NDArray[np.bool_]  # (G,)
    crowd: NDArray[np.bool_]  # (G,)

    @property
    def ignored(self) -> NDArray[np.bool_]:
        return self.difficult | self.crowd

    def boxes_of(self, class_index: int) -> FloatArray:
        return np.asarray(self.boxes[self.classes == class_index])


@dataclass(frozen=True)
class DetectionArrays:
    """The predicted boxes of one image, in the order of the prediction."""

    classes: IntArray  # (D,)
    boxes: FloatArray  # (D, 4)
    scores: FloatArray  # (D,)

    def best_of(self, class_index: int) -> int | None:
        """The first of the highest-scored boxes of a class."""
        mine = np.flatnonzero(self.classes == class_index)
        return int(mine[np.argmax(self.scores[mine])]) if mine.size else None


class ClassIndex:
    """The data set's class names, with the way back from a name to its index."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._index: Mapping[str, int] = {name: index for index, name in enumerate(self.names)}
        if len(self._index) != len(self.names):
            raise ValueError("class names must differ from each other")

    def __len__(self) -> int:
        return len(self.names)

    def index_of(self, name: str, *, where: str) -> int:
        index = self._index.get(name)
        if index is None:
            raise PredictionsError(
                f"class {name!r} is not a class of the data set",
                where=where,
                remedy=did_you_mean(name, self.names),
            )
        return index


def truth_of(sample: Sample) -> Truth:
    """What is drawn; readers give no truth to images without objects."""
    return Truth() if sample.truth is None else sample.truth


def truth_arrays(sample: Sample) -> TruthArrays:
    drawn = truth_of(sample).boxes
    return TruthArrays(
        classes=np.array([each.class_index for each in drawn], dtype=np.int64),
        boxes=np.array([each.box for each in drawn], dtype=np.float64).reshape(-1, 4),
        difficult=np.array([each.difficult for each in drawn], dtype=np.bool_),
        crowd=np.array([each.crowd for each in drawn], dtype=np.bool_),
    )


def detection_arrays(prediction: Prediction, classes: ClassIndex) -> DetectionArrays:
    found = prediction.boxes
    where = prediction.image
    return DetectionArrays(
        classes=np.array(
            [classes.index_of(each.class_name, where=where) for each in found], dtype=np.int64
        ),
        boxes=np.array([each.box for each in found], dtype=np.float64).reshape(-1, 4),
        scores=np.array([each.score for each in found], dtype=np.float64),
    )


def class_scores(prediction: Prediction, classes: ClassIndex) -> FloatArray:
    """(C,) scores in the order of the classes; each class must have one."""
    values = np.full(len(classes), np.nan)
    for name, score in prediction.scores.items():
        values[classes.index_of(name, where=prediction.image)] = score
    if np.isnan(values).any():
        missing = classes.names[int(np.flatnonzero(np.isnan(values))[0])]
        raise PredictionsError(
            f"class {missing!r} has no score, or not a number",
            where=prediction.image,
            remedy="Ranking needs the scores of every class on every image",
        )
    return values


def single_label(sample: Sample) -> int:
    """The one class of an image, for the metrics that are defined for such images only."""
    present = np.flatnonzero(sample.labels == PRESENT)
    if present.size != 1:
        raise DataError(
            f"{present.size} classes are present, but this metric needs exactly one",
            where=sample.name,
            remedy="Use mean average precision for images with several tags",
        )
    return int(present[0])


WhenMissing: TypeAlias = Literal["error", "empty"]


def pair_predictions(
    predictions: Iterable[Prediction],
    samples: Iterable[Sample],
    classes: ClassIndex,
    *,
    when_missing: WhenMissing = "error",
) -> Iterator[tuple[Sample, Prediction]]:
    """Each prediction with its sample, in the order of the predictions.

    An image without a prediction is an error, or with "empty" (COCO result files do not list
    images without detections) one on which nothing was found; those come last.
    """
    waiting = {sample.name: sample for sample in samples}
    if not waiting:
        raise PredictionsError("there are no images to evaluate", remedy="Choose another split")
    done: set[str] = set()
    for prediction in predictions:
        if prediction.image in done:
            raise PredictionsError("this image is predicted twice", where=prediction.image)
        if prediction.image not in waiting:
            raise PredictionsError(
                f"image {prediction.image!r} is not in the data set",
                remedy=did_you_mean(prediction.image, waiting),
            )
        check_prediction(prediction, classes)
        done.add(prediction.image)
        yield waiting.pop(prediction.image), prediction
    if waiting and when_missing == "error":
        raise PredictionsError(
            f"{len(waiting)} of {len(waiting) + len(done)} images have no prediction, "
            f"the first is {next(iter(waiting))!r}",
            remedy="Predict them too, or count them as images on which nothing was found",
        )
    for sample in waiting.values():
        yield sample, Prediction(image=sample.name, width=0, height=0, scores={})


def check_prediction(prediction: Prediction, classes: ClassIndex) -> None:
    where = prediction.image
    for name, score in prediction.scores.items():
        _check_score(score, name, where, classes)
    everything: list[Point | Box | Mask] = []
    everything += [*prediction.points, *prediction.boxes, *prediction.masks]
    for found in everything:
        _check_score(found.score, found.class_name, where, classes)
    for point in prediction.points:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            raise PredictionsError(f"a point lies at ({point.x}, {point.y})", where=where)
    for box in prediction.boxes:
        _check_box(box.box, where)
    for mask in prediction.masks:
        if list(mask.rle["size"]) != [prediction.height, prediction.width]:
            raise PredictionsError(
                f"a mask of {mask.class_name!r} has the size {list(mask.rle['size'])}, "
                f"the image is [{prediction.height}, {prediction.width}]",
                where=where,
            )


def _check_score(score: float, class_name: str, where: str, classes: ClassIndex) -> None:
    classes.index_of(class_name, where=where)
    if not math.isfinite(score):
        raise PredictionsError(
            f"the score of class {class_name!r} is {score}",
            where=where,
            remedy="Scores must be finite numbers",
        )


def _check_box(box: BoxLTRB, where: str) -> None:
    if not all(math.isfinite(side) for side in box):
        raise PredictionsError(f"box {list(box)} is not finite", where=where)
    if box[2] < box[0] or box[3] < box[1]:
        raise PredictionsError(
            f"box {list(box)} is inside out",
            where=where,
            remedy="Boxes are (left, top, right, bottom), not (left, top, width, height)",
        )


Record = TypeVar("Record")


class ImageRecords(Generic[Record]):
    """One record an image; a second one for the same image is an error, also across processes."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(self, image_name: str, record: Record) -> None:
        if image_name in self._records:
            raise PredictionsError(
                f"image {image_name!r} was measured twice",
                remedy="Give each image once, also when several processes share the work",
            )
        self._records[image_name] = record

    def merge(self, other: ImageRecords[Record]) -> None:
        for image_name, record in other._records.items():
            self.add(image_name, record)

    def sorted(self) -> tuple[tuple[str, ...], list[Record]]:
        """Names in order, and their records."""
        names = tuple(sorted(self._records))
        return names, [self._records[name] for name in names]


def place_of(scores: NDArray[np.float64], class_index: int) -> int:
    """0 for the first place; of equal scores the earlier class is ahead."""
    own = scores[class_index]
    return int((scores > own).sum() + (scores[:class_index] == own).sum())
