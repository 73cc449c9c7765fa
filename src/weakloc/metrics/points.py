"""Predicted points and drawn boxes in; point average precision and pointing accuracy out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.errors import PredictionsError
from weakloc.geometry import PointXY
from weakloc.metrics.arrays import ClassIndex, ImageRecords, TruthArrays, truth_arrays
from weakloc.metrics.average_precision import (
    DEFAULT_RANKING,
    RankedClasses,
    RankingConvention,
    mean_average_precision,
    rank,
)
from weakloc.metrics.uncertainty import DEFAULT_RESAMPLING, ClassShares, MetricResult, Resampling
from weakloc.structures import ABSENT, Point, Prediction, Sample

RankBy: TypeAlias = Literal["class_score", "heat"]

# Pixels by which a box grows on all sides before it is asked whether it holds a point.
TOLERANCES: Mapping[str, float] = {"exact": 0.0, "oquab": 18.0, "pointing_game": 15.0}

HIT, IGNORED, FALSE_ALARM = 1, 0, -1


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


DEFAULT_POINTS = PointConvention()


class _ImageRow(NamedTuple):
    scores: NDArray[np.float64]  # (C,)
    verdicts: NDArray[np.int8]  # (C,) HIT, IGNORED or FALSE_ALARM
    positives: NDArray[np.int64]  # (C,)
    missing_points: int


class PointPrecision:
    """Average precision of one point an image and class, after Oquab et al. 2015.

    A point inside a box of its class is a hit and anywhere else a false alarm; several objects
    still make one positive. Images on which all objects of the class are difficult, or on which
    the class is unknown or present but not drawn, are ignored for it. A point that only hits a
    difficult object is ignored while the image still counts among the positives.
    """

    def __init__(
        self,
        classes: ClassIndex,
        points: PointConvention = DEFAULT_POINTS,
        convention: RankingConvention = DEFAULT_RANKING,
    ) -> None:
        self.classes = classes
        self.points = points
        self.convention = convention
        self._rows: ImageRecords[_ImageRow] = ImageRecords()

    def update(self, sample: Sample, prediction: Prediction) -> None:
        truth = truth_arrays(sample)
        best = best_points(prediction, self.classes)
        num_classes = len(self.classes)
        scores = np.zeros(num_classes)
        verdicts = np.zeros(num_classes, dtype=np.int8)
        positives = np.zeros(num_classes, dtype=np.int64)
        for c in range(num_classes):
            certain = truth.boxes[(truth.classes == c) & ~truth.ignored]
            positives[c] = int(len(certain) > 0)
            if c in best:
                scores[c] = self._score(best[c], prediction)
                place = (best[c].x, best[c].y)
                label = int(sample.labels[c])
                verdicts[c] = judge_point(place, truth, c, label, self.points.tolerance)
        self._rows.add(sample.name, _ImageRow(scores, verdicts, positives, num_classes - len(best)))

    def merge(self, other: PointPrecision) -> None:
        self._rows.merge(other._rows)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        names, rows = self._rows.sorted()
        num_classes = len(self.classes)
        scores = np.array([row.scores for row in rows]).reshape(-1, num_classes)
        verdicts = np.array([row.verdicts for row in rows]).reshape(-1, num_classes)
        positives = np.array([row.positives for row in rows]).reshape(-1, num_classes)
        image = np.arange(len(names))
        ranked = RankedClasses(
            rankings=[
                rank(scores[:, c], verdicts[:, c], ties=self.convention.ties, image=image)
                for c in range(num_classes)
            ],
            positives=positives.astype(np.int64),
            image_names=names,
            class_names=self.classes.names,
        )
        result = mean_average_precision(
            self.points.name,
            ranked,
            self.convention,
            described=str(self.points),
            hidden_supervision=hidden_supervision,
            details={"num_missing_points": sum(row.missing_points for row in rows)},
        )
        return (result,)

    def _score(self, point: Point, prediction: Prediction) -> float:
        if self.points.rank_by == "heat":
            return point.score if point.heat is None else point.heat
        if point.class_name not in prediction.scores:
            raise PredictionsError(
                f"class {point.class_name!r} has a point but no score",
                where=prediction.image,
                remedy="Rank by heat, or predict class scores too",
            )
        return prediction.scores[point.class_name]


class PointingAccuracy:
    """The pointing game: for each tag of an image, does the class's point lie in a box of it?

    Knows the tags, needs no ranking, counts difficult objects; not comparable with `point_map`.
    """

    def __init__(
        self,
        classes: ClassIndex,
        *,
        tolerance: float = TOLERANCES["pointing_game"],
        resampling: Resampling = DEFAULT_RESAMPLING,
    ) -> None:
        self.classes = classes
        self.tolerance = tolerance
        self._shares = ClassShares(classes, resampling=resampling)

    def update(self, sample: Sample, prediction: Prediction) -> None:
        truth = truth_arrays(sample)
        best = best_points(prediction, self.classes)
        hits = {
            int(c): int(c in best and self._inside(best[int(c)], truth.boxes_of(int(c))))
            for c in np.unique(truth.classes)
        }
        self._shares.add(sample.name, hits, dict.fromkeys(hits, 1))

    def merge(self, other: PointingAccuracy) -> None:
        self._shares.merge(other._shares)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        result = self._shares.result(
            "pointing_accuracy",
            f"classes given, tolerance {self.tolerance:g} px",
            averaging="classes",
            hidden_supervision=hidden_supervision,
        )
        return (result,)

    def _inside(self, point: Point, boxes: NDArray[np.float64]) -> bool:
        left, top, right, bottom = boxes.T
        margin = self.tolerance
        across = (left - margin <= point.x) & (point.x <= right + margin)
        return bool((across & (top - margin <= point.y) & (point.y <= bottom + margin)).any())


def best_points(prediction: Prediction, classes: ClassIndex) -> dict[int, Point]:
    """The first of the highest-scored points of each class that has one."""
    best: dict[int, Point] = {}
    for point in prediction.points:
        c = classes.index_of(point.class_name, where=prediction.image)
        if c not in best or point.score > best[c].score:
            best[c] = point
    return best


def judge_point(
    point: PointXY, truth: TruthArrays, class_index: int, label: int, tolerance: float
) -> int:
    """HIT, IGNORED or FALSE_ALARM for one image's point of one class."""
    mine = truth.classes == class_index
    if not mine.any():
        return FALSE_ALARM if label == ABSENT else IGNORED
    held = _holds(truth.boxes, point, tolerance) & mine
    if (held & ~truth.ignored).any():
        return HIT
    if held.any() or truth.ignored[mine].all():
        return IGNORED
    return FALSE_ALARM


def _holds(boxes: NDArray[np.float64], point: PointXY, tolerance: float) -> NDArray[np.bool_]:
    x, y = point
    left, top, right, bottom = boxes.T
    across = (left - tolerance <= x) & (x < right + tolerance)
    return np.asarray(across & (top - tolerance <= y) & (y < bottom + tolerance))
