"""Images ranked by what is said of each class: average precision of tags and of points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.errors import PredictionsError
from weakloc.geometry import FloatArray
from weakloc.metrics.average_precision import RankedClasses, mean_average_precision, rank
from weakloc.metrics.case import FALSE_ALARM, FOUND, IGNORED, Case, MetricSetup
from weakloc.metrics.result import Detail, MetricResult
from weakloc.metrics.uncertainty import ImageRecords
from weakloc.structures import ABSENT, PRESENT, Point, Prediction

RankBy: TypeAlias = Literal["class_score", "heat"]

# Pixels by which a box grows on all sides before it is asked whether it holds a point.
TOLERANCES: Mapping[str, float] = {"exact": 0.0, "oquab": 18.0, "pointing_game": 15.0}


class ImageRow(NamedTuple):
    """What one image adds to the ranking of each class."""

    scores: FloatArray  # (C,)
    verdicts: NDArray[np.int8]  # (C,) FOUND, IGNORED or FALSE_ALARM
    positives: NDArray[np.bool_]  # (C,)
    num_missing: int  # classes without a place


class ImageRanking(ABC):
    """Average precision of every class's ranking of the images, where each image counts once.

    Parts that several processes fed can be merged.
    """

    name: str
    described: str

    def __init__(self, setup: MetricSetup) -> None:
        self.classes, self.convention = setup.classes, setup.ranking
        self._rows: ImageRecords[ImageRow] = ImageRecords()

    @abstractmethod
    def row(self, case: Case) -> ImageRow: ...

    def update(self, case: Case) -> None:
        self._rows.add(case.draw, self.row(case))

    def merge(self, other: ImageRanking) -> None:
        self._rows.merge(other._rows)

    def details(self, _rows: Sequence[ImageRow]) -> Mapping[str, Detail]:
        return {}

    def compute(self) -> tuple[MetricResult, ...]:
        images, rows = self._rows.sorted()
        shape = (len(rows), len(self.classes))
        scores = np.array([row.scores for row in rows]).reshape(shape)
        verdicts = np.array([row.verdicts for row in rows], dtype=np.int8).reshape(shape)
        positives = np.array([row.positives for row in rows], dtype=np.int64).reshape(shape)
        numbers = np.arange(len(rows))
        ranked = RankedClasses(
            rankings=[
                rank(scores[:, c], verdicts[:, c], ties=self.convention.ties, image=numbers)
                for c in range(len(self.classes))
            ],
            num_positives=images.sums(positives),
            images=images,
            class_names=self.classes.names,
        )
        return mean_average_precision(
            self.name, ranked, self.convention, described=self.described, details=self.details(rows)
        )


class ClassificationPrecision(ImageRanking):
    """Of the tags; unknown ones are skipped."""

    name = "classification_map"
    described = "images ranked by class score, unknown tags skipped"

    def row(self, case: Case) -> ImageRow:
        return ImageRow(case.scores, case.tags, case.tags == PRESENT, 0)


@dataclass(frozen=True, slots=True)
class PointConvention:
    """Tolerance in pixels of the original image, and the score by which images are ranked."""

    tolerance: float = TOLERANCES["exact"]
    rank_by: RankBy = "class_score"

    @property
    def name(self) -> str:
        tolerance = f"_{self.tolerance:g}px" if self.tolerance else ""
        return "point_map" + tolerance + ("_by_heat" if self.rank_by == "heat" else "")

    def __str__(self) -> str:
        return f"tolerance {self.tolerance:g} px, ranked by {self.rank_by.replace('_', ' ')}"


class PointPrecision(ImageRanking):
    """Of one point an image and class, after Oquab et al. 2015.

    A point inside a box of its class is a hit and anywhere else a false alarm; several objects
    still make one positive. Images on which all objects of the class are difficult, or on which
    the class is unknown or present but not drawn, are ignored for it. A point that only hits a
    difficult object is ignored while the image still counts among the positives.
    """

    def __init__(self, setup: MetricSetup, points: PointConvention = PointConvention()) -> None:
        super().__init__(setup)
        self.points = points
        self.name, self.described = points.name, str(points)

    def row(self, case: Case) -> ImageRow:
        objects = case.truth.objects
        num_classes = len(self.classes)
        certain = objects.classes[~objects.ignored]
        scores = np.zeros(num_classes)
        verdicts = np.zeros(num_classes, dtype=np.int8)
        verdicts_by_tag = np.where(case.tags == ABSENT, FALSE_ALARM, IGNORED).tolist()
        drawn = set(objects.classes.tolist())
        for c, point in case.best_points.items():
            scores[c] = self._score(point, case.prediction)
            verdicts[c] = self._verdict(point, c, case) if c in drawn else verdicts_by_tag[c]
        positives = np.bincount(certain, minlength=num_classes) > 0
        return ImageRow(scores, verdicts, positives, num_classes - len(case.best_points))

    def details(self, rows: Sequence[ImageRow]) -> Mapping[str, Detail]:
        return {"num_missing_points": sum(row.num_missing for row in rows)}

    def _score(self, point: Point, prediction: Prediction) -> float:
        if self.points.rank_by == "heat":
            return point.score if point.heat is None else point.heat
        if point.class_name not in prediction.scores:
            raise PredictionsError(
                f"class {point.class_name!r} has a point but no score",
                location=prediction.image,
                remedy="Rank by heat, or predict class scores too",
            )
        return prediction.scores[point.class_name]

    def _verdict(self, point: Point, class_index: int, case: Case) -> int:
        """FOUND, IGNORED or FALSE_ALARM for the image's point of a class that is drawn there."""
        objects, reach = case.truth.objects, self.points.tolerance
        of_class = objects.classes == class_index
        left, top, right, bottom = objects.boxes.T
        across = (left - reach <= point.x) & (point.x < right + reach)
        held = across & (top - reach <= point.y) & (point.y < bottom + reach) & of_class
        if (held & ~objects.ignored).any():
            return FOUND
        return IGNORED if held.any() or objects.ignored[of_class].all() else FALSE_ALARM
