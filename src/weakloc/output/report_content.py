"""What a report shows, as plain values: any program that has predictions can fill it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weakloc.metrics.result import EvaluationRecord
from weakloc.structures import Prediction, Sample

HEAT_CELLS = 32  # along the long side of a stored heat map
LIKELY = 0.5  # score from which a class or a point counts
CoarseHeat: TypeAlias = NDArray[np.uint8]  # (rows, columns) over the whole image


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
    such as the data set's path; `totals` is counted from the pictures where it is None.
    """

    class_names: tuple[str, ...]
    pictures: Iterable[ReportPicture]
    title: str = "weakloc report"
    run: Mapping[str, Any] = field(default_factory=dict)
    metrics: EvaluationRecord | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    totals: Totals | None = None
    truth_class_names: tuple[str, ...] | None = None
    min_area: float = 0.001  # of the image: smallest part of a map that gets a box


def count_predictions(predictions: Iterable[Prediction]) -> Totals:
    totals = Totals()
    for prediction in predictions:
        totals.add(prediction)
    return totals


def classes_with_places(prediction: Prediction, min_score: float) -> list[str]:
    """Classes that have a place or a likely score, in the order of their scores."""
    placed = {box.class_name for box in prediction.boxes}
    placed.update(mask.class_name for mask in prediction.masks)
    placed.update(point.class_name for point in prediction.points if point.score >= min_score)
    likely = {name for name, score in prediction.scores.items() if score >= min_score}
    return sorted(placed | likely, key=lambda name: (-prediction.scores.get(name, 0.0), name))
