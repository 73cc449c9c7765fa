"""Heat maps of a validation set in, the threshold that cuts boxes from them out.

Two sources, never mixed up: a few drawn boxes (`with_boxes`), or the boxes of the very
set that is evaluated (`oracle`, an upper bound and not a result). Both ask what each of
255 levels, a byte of the normalised heat, makes of a map: boxes, and how well they fit drawn ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from weakloc.component_tree import NUM_LEVELS, LevelBoxes, component_tree, last_shown, level_boxes
from weakloc.errors import SettingError
from weakloc.geometry import (
    BoxLTRB,
    FloatArray,
    GridTransform,
    IntArray,
    box_ious,
    image_box_in_grid,
    map_box_to_grid,
)
from weakloc.localize.maps import NORMALISATIONS, HeatMap
from weakloc.localize.places import BoxLimits, ThresholdMode

THRESHOLDS: FloatArray = np.arange(1, NUM_LEVELS + 1) / 256.0
Counted: TypeAlias = Literal["all", "largest"]


@dataclass(frozen=True)
class LevelQuality:
    """Per level, in [0, 1]: does the localisation succeed, and how far do the boxes overlap."""

    success: FloatArray  # (255,)
    overlap: FloatArray  # (255,)


def heat_levels(heat: HeatMap, *, threshold_mode: ThresholdMode) -> NDArray[np.uint8]:
    """The bytes whose components above t are those of the normalised heat above THRESHOLDS[t]."""
    normalised = NORMALISATIONS[threshold_mode](heat)
    return np.asarray(np.clip(np.ceil(normalised * 256.0) - 1.0, 0.0, 255.0), dtype=np.uint8)


def level_components(
    levels: NDArray[np.uint8], transform: GridTransform, limits: BoxLimits = BoxLimits()
) -> LevelBoxes:
    """Boxes in the grid frame, cut to the image, of the components within the limits.

    The smallest come first. The heat of each level is that of its middle; a constant map gives the
    whole image at all levels.
    """
    frame = np.array(image_box_in_grid(transform))
    if levels.min() == levels.max():
        ends = np.array([0]), np.array([NUM_LEVELS - 1])
        return LevelBoxes(*ends, boxes=frame[None])
    tree = component_tree(levels)
    cells_in_image = float((frame[2] - frame[0]) * (frame[3] - frame[1]))
    heat = tree.heat_sum + 0.5 * tree.area
    all_heat = levels.sum(dtype=np.float64) + 0.5 * levels.size
    shown = np.flatnonzero(
        (tree.level > 0)
        & (tree.area >= limits.min_area * cells_in_image)
        & (np.minimum(tree.area / cells_in_image, 1.0) <= limits.max_area)
        & (heat >= limits.min_share * all_heat)
    )
    hottest = levels.ravel()[tree.peak[shown]].astype(np.int64)
    shown = shown[np.lexsort((-tree.peak[shown], hottest, tree.area[shown]))]
    whole = level_boxes(tree)
    cut = np.clip(whole.boxes[shown], np.tile(frame[:2], 2), np.tile(frame[2:], 2))
    return LevelBoxes(whole.first_level[shown], whole.last_level[shown], cut)


def level_quality(
    components: LevelBoxes,
    truth_boxes: ArrayLike,
    transform: GridTransform,
    *,
    counted: Counted,
    min_iou: float,
) -> LevelQuality:
    """How well the boxes of each level fit the drawn ones (T, 4) of the image frame.

    "largest": does the largest component's box reach `min_iou` with any drawn box; its greatest
    IoU. "all": the F1 score of all boxes against all drawn ones, by counts and by IoU.
    """
    drawn = [map_box_to_grid((*truth,), transform) for truth in np.asarray(truth_boxes).tolist()]
    ious = box_ious(components.boxes, drawn)  # (N, T)
    ranges = components.first_level, components.last_level
    if counted == "largest":
        winner = last_shown(*ranges, np.arange(len(ious)))
        overlap = np.append(ious.max(axis=1, initial=0.0), 0.0)[winner]  # entry -1: no component
        return LevelQuality((overlap >= min_iou).astype(np.float64), overlap)
    num_boxes = np.zeros(NUM_LEVELS + 1)
    np.add.at(num_boxes, components.first_level, 1.0)
    np.add.at(num_boxes, components.last_level + 1, -1.0)
    num_boxes = np.cumsum(num_boxes)[:NUM_LEVELS]
    greatest = []
    for column in ious.T:
        order = np.argsort(column, kind="stable")
        order = order[column[order] > 0]
        greatest.append(np.append(column, 0.0)[last_shown(*ranges, order)])
    best = np.stack(greatest)  # (T, 255)
    hits = np.minimum((best >= min_iou).sum(axis=0), num_boxes)
    overlaps = np.minimum(best.sum(axis=0), num_boxes)
    in_all = np.maximum(num_boxes + len(drawn), 1.0)
    return LevelQuality(2.0 * hits / in_all, 2.0 * overlaps / in_all)


Granularity: TypeAlias = Literal["class", "global"]
Groups: TypeAlias = Mapping[int | None, NDArray[np.intp]]  # rows by class; None: all of them
FEWEST_IMAGES = 5  # of a class that has a threshold of its own
MIN_IOU = 0.5
CONFIDENCE = 0.9
NUM_RESAMPLES = 1000
_OVERLAP_BREAKS_TIES = 1e-6


@dataclass(frozen=True)
class ClassBasis:
    """The drawn images and boxes of a class, and whether its threshold follows from them alone."""

    num_images: int
    num_boxes: int
    is_own: bool


@dataclass(frozen=True)
class Calibration:
    """One threshold a class on the normalised heat, and everything that was used to find it.

    `basis` tells the classes with a threshold of their own from those that took that of all drawn
    images. `intervals` hold the threshold of resampled drawn images with the stated confidence;
    `leave_one_out` is the share of drawn images localised with a threshold found on the others;
    `maps` says in words which maps they belong to and `split` which images, "" where not kept.
    """

    thresholds: tuple[float, ...]
    threshold_mode: ThresholdMode
    method: str
    num_boxes_used: int = 0
    basis: tuple[ClassBasis, ...] | None = None
    intervals: tuple[tuple[float, float], ...] | None = None
    confidence: float | None = None
    leave_one_out: float | None = None
    is_oracle: bool = False
    maps: str = ""
    split: str = ""

    @property
    def supervision(self) -> str:
        """What tuned the thresholds, to be printed with every number that depends on them."""
        if self.is_oracle:
            return f"ORACLE: tuned on the {self.num_boxes_used} evaluated boxes (upper bound)"
        if self.num_boxes_used:
            return f"{self.num_boxes_used} drawn boxes ({self.method})"
        return f"image-level labels only ({self.method})"


@dataclass(frozen=True)
class DrawnHeat:
    """The heat of one class in one image, and the boxes people drew around it."""

    class_index: int
    heat: HeatMap
    transform: GridTransform
    boxes: Sequence[BoxLTRB]


@dataclass(frozen=True)
class _Curves:
    """Quality at every level of every drawn image: (N, 255)."""

    class_indices: IntArray
    success: FloatArray
    overlap: FloatArray
    num_boxes: IntArray  # (N,)


def require_boxes(most: int) -> None:
    if not most:
        raise SettingError(
            "thresholds are tuned on drawn boxes, and none may be looked at",
            remedy="Give --boxes 20 (in all) or --boxes-per-class 10; without boxes keep the "
            "method's threshold, which was better than any tuned on tags",
        )


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What thresholds are tuned for: the kind of heat, and the components that get a box of it."""

    num_classes: int
    threshold_mode: ThresholdMode
    counted: Counted = "largest"
    limits: BoxLimits = BoxLimits()
    granularity: Granularity = "class"

    def with_boxes(self, drawn: Iterable[DrawnHeat], random: Generator) -> Calibration:
        """Thresholds from a few drawn images (5 to 50), with what that number leaves uncertain.

        The sum of success and overlap is maximised: with few images success alone is a staircase.
        A class with fewer than FEWEST_IMAGES takes the threshold of all classes together.
        """
        curves = self._curves(drawn)
        groups = self._groups(curves.class_indices, FEWEST_IMAGES)
        gain = curves.success + curves.overlap
        intervals = {key: _interval(gain[rows], random) for key, rows in groups.items()}
        return replace(
            self._calibration(curves, gain, groups),
            intervals=tuple(intervals[k if k in groups else None] for k in range(self.num_classes)),
            confidence=CONFIDENCE,
            leave_one_out=_leave_one_out(curves, gain, groups),
        )

    def oracle(self, drawn: Iterable[DrawnHeat]) -> Calibration:
        """The best for the boxes they are evaluated on: what no honest tuning exceeds."""
        curves = self._curves(drawn)
        groups = self._groups(curves.class_indices, 1)
        gain = curves.success + _OVERLAP_BREAKS_TIES * curves.overlap
        return replace(self._calibration(curves, gain, groups), is_oracle=True)

    def _curves(self, drawn: Iterable[DrawnHeat]) -> _Curves:
        rows = []
        for heat in drawn:
            levels = heat_levels(heat.heat, threshold_mode=self.threshold_mode)
            components = level_components(levels, heat.transform, self.limits)
            quality = level_quality(
                components, heat.boxes, heat.transform, counted=self.counted, min_iou=MIN_IOU
            )
            rows.append((heat.class_index, quality.success, quality.overlap, len(heat.boxes)))
        if not rows:
            raise ValueError("there is no drawn box to calibrate with")
        return _Curves(*map(np.array, zip(*rows, strict=True)))

    def _groups(self, class_indices: IntArray, fewest: int) -> Groups:
        """Which images give a threshold together: those of a class with enough, (None) all."""
        groups: dict[int | None, NDArray[np.intp]] = {None: np.arange(len(class_indices))}
        for class_index in range(self.num_classes if self.granularity == "class" else 0):
            rows = np.flatnonzero(class_indices == class_index)
            if len(rows) >= fewest:
                groups[class_index] = rows
        return groups

    def _calibration(self, curves: _Curves, gain: FloatArray, groups: Groups) -> Calibration:
        """The thresholds of the greatest gain."""
        levels = {key: _best_level(gain[rows].mean(axis=0)) for key, rows in groups.items()}
        classes = range(self.num_classes)
        in_words = f"{len(groups) - 1} of {self.num_classes} classes by themselves"
        of_class = [curves.class_indices == index for index in classes]
        return Calibration(
            thresholds=tuple(
                float(THRESHOLDS[levels[index if index in groups else None]]) for index in classes
            ),
            threshold_mode=self.threshold_mode,
            method=f"{self.counted} box, {in_words if len(groups) > 1 else 'one threshold'}",
            num_boxes_used=int(curves.num_boxes.sum()),
            basis=tuple(
                ClassBasis(int(rows.sum()), int(curves.num_boxes[rows].sum()), index in groups)
                for index, rows in enumerate(of_class)
            ),
        )


def _best_level(gain: FloatArray) -> int:
    """The middle one of the levels that reach the maximum."""
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    return int(best[len(best) // 2])


def _interval(gain: FloatArray, random: Generator) -> tuple[float, float]:
    """The central CONFIDENCE of the thresholds of images drawn with replacement."""
    num_images = len(gain)
    shares = np.full(num_images, 1.0 / num_images)
    counts = random.multinomial(num_images, shares, size=NUM_RESAMPLES)
    thresholds = [THRESHOLDS[_best_level(total)] for total in counts @ gain / num_images]
    tails = [50.0 * (1.0 - CONFIDENCE), 50.0 * (1.0 + CONFIDENCE)]
    low, high = np.percentile(thresholds, tails).tolist()
    return low, high


def _leave_one_out(curves: _Curves, gain: FloatArray, groups: Groups) -> float | None:
    """The mean success at the threshold found without the image; None for a single image."""
    if len(gain) < 2:
        return None
    reached = []
    for image, class_index in enumerate(curves.class_indices):
        rows = groups.get(int(class_index), groups[None])
        rows = rows if len(rows) > 1 else groups[None]
        others = (gain[rows].sum(axis=0) - gain[image]) / (len(rows) - 1)
        reached.append(curves.success[image, _best_level(others)])
    return float(np.mean(reached))
