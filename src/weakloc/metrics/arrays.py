"""One image's truth and prediction in, the flat arrays that the kernels take out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.errors import DataError, PredictionsError, did_you_mean
from weakloc.geometry import FloatArray, IntArray
from weakloc.structures import PRESENT, Prediction, Sample, Truth


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
