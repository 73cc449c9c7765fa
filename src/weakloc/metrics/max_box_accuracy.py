"""Score maps and drawn boxes in; MaxBoxAcc and MaxBoxAccV2, all thresholds in one pass, out.

The threshold is one for all images and is the best one on the images that are evaluated: an upper
bound, with all their boxes as hidden supervision. V2 lets it differ between the IoU levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from weakloc.component_tree import component_tree, hole_level_boxes, level_boxes
from weakloc.errors import DataError
from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.arrays import truth_arrays
from weakloc.metrics.average_precision import ratio
from weakloc.metrics.largest_components import (
    NUM_LEVELS,
    largest_by_contour,
    largest_by_pixels,
)
from weakloc.metrics.result import Curve, Detail, MetricResult
from weakloc.metrics.score_levels import ScoreMap, count_below, floor_to_bytes, normalize_map
from weakloc.metrics.uncertainty import DEFAULT_RESAMPLING, ResampledSums, Resampling, interval_of
from weakloc.structures import Sample

Contours: TypeAlias = Literal["largest", "all"]
Reading: TypeAlias = Literal["clean", "compatible"]
Resolution: TypeAlias = Literal["224", "original"]


@dataclass(frozen=True, slots=True)
class MapConvention:
    """How maps become boxes and boxes become hits.

    "clean": scores above the threshold, as they are; half-open boxes; the largest component has
    the most pixels; a map without foreground has no box. "compatible" is the public evaluator of
    Choe et al. 2020 to the bit: maps floored to bytes; thresholds int(tau * 255); the boxes of hole
    contours count; the largest has the largest contour area; boxes are (x, y, min(x + w, W - 1),
    ...) compared inclusively with drawn boxes cut to whole pixels; no foreground is the box
    (0, 0, 0, 0).
    """

    contours: Contours = "largest"
    ious: tuple[float, ...] = (0.5,)
    reading: Reading = "clean"
    resolution: Resolution = "224"
    step: float = 0.01  # between thresholds in [0, 1)

    def __post_init__(self) -> None:
        if not self.ious:
            raise ValueError("an accuracy needs at least one IoU level")
        if self.reading == "clean" and self.thresholds.size > NUM_LEVELS:
            raise ValueError(
                f"a step of {self.step} makes {self.thresholds.size} thresholds; the clean "
                f"reading tells {NUM_LEVELS} apart"
            )

    @property
    def thresholds(self) -> FloatArray:
        return np.arange(0, 1, self.step)

    @property
    def name(self) -> str:
        known = {("largest", (0.5,)): "max_box_acc", ("all", (0.3, 0.5, 0.7)): "max_box_acc_v2"}
        levels = "_".join(f"{100 * iou:g}" for iou in self.ious)
        name = known.get((self.contours, self.ious), f"max_box_acc_{self.contours}_{levels}")
        size = "" if self.resolution == "224" else "_original"
        return name + size + ("_compatible" if self.reading == "compatible" else "")

    def __str__(self) -> str:
        levels = ", ".join(f"{iou:g}" for iou in self.ious)
        size = "224 x 224" if self.resolution == "224" else "the original size"
        return (
            f"{self.reading} reading, {self.contours} contours, IoU >= {levels}, "
            f"{self.thresholds.size} thresholds, maps at {size}"
        )


MAX_BOX_ACC = MapConvention()
MAX_BOX_ACC_V2 = MapConvention("all", (0.3, 0.5, 0.7))


class MaxBoxAccuracy:
    """The best share of images, over thresholds, on which some box of the map hits.

    With `guesses` (1, 5) the same is counted for images whose class is among the best guesses: the
    Top-1 and Top-5 localisation of evaluators that sweep the threshold.
    """

    def __init__(
        self,
        convention: MapConvention = MAX_BOX_ACC_V2,
        *,
        guesses: tuple[int, ...] = (),
        resampling: Resampling = DEFAULT_RESAMPLING,
    ) -> None:
        self.convention = convention
        self.guesses = guesses
        self._num_objects = 0
        num_counts = len(convention.ious) * NUM_LEVELS
        self._sums = {
            k: ResampledSums(num_counts + 1, resampling=resampling) for k in (None, *guesses)
        }

    def update(
        self,
        sample: Sample,
        score_map: ScoreMap,
        *,
        class_index: int,
        image_size: tuple[int, int],
        place: int | None = None,
    ) -> None:
        """One class's map over the whole image, against the drawn boxes of that class.

        `place` is the rank of the class among the guesses, 0 for the first.
        """
        objects = truth_arrays(sample).boxes_of(class_index)
        if not len(objects):
            raise DataError("no box of the class is drawn", where=sample.name)
        self._check_size(score_map, image_size)
        overlaps = best_overlaps(
            normalize_map(score_map, where=sample.name), objects, image_size, self.convention
        )
        hits = overlaps >= np.array(self.convention.ious)[:, None]  # (I, levels)
        self._num_objects += len(objects)
        for k, sums in self._sums.items():
            if k is not None and place is None:
                raise ValueError("guesses can only be counted when the place is given")
            counted = 1 if k is None or (place is not None and place < k) else 0
            sums.add(sample.name, np.append(hits * counted, 1))

    def merge(self, other: MaxBoxAccuracy) -> None:
        if (self.convention, self.guesses) != (other.convention, other.guesses):
            raise ValueError("accuracies of different conventions cannot be merged")
        self._num_objects += other._num_objects
        for k, sums in self._sums.items():
            sums.merge(other._sums[k])

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        return tuple(
            self._result(k, sums, hidden_supervision + self._num_objects)
            for k, sums in self._sums.items()
        )

    def _result(self, k: int | None, sums: ResampledSums, hidden_supervision: int) -> MetricResult:
        accuracies = self._accuracies(sums.total)  # (I, thresholds)
        is_defined = sums.num_images > 0
        replicates = sums.evaluate(
            lambda block: np.asarray(self._accuracies(block).max(axis=-1).mean(axis=-1))
        )
        return MetricResult(
            name=self.convention.name if k is None else f"top_{k}_{self.convention.name}",
            value=float(accuracies.max(axis=-1).mean()) if is_defined else None,
            convention=str(self.convention),
            num_images=sums.num_images,
            hidden_supervision=hidden_supervision,
            interval=interval_of(replicates),
            details=self._details(accuracies) if is_defined else {},
            curves=self._curves(accuracies) if is_defined else {},
            unavailable=None if is_defined else "no score map was given",
            replicates=replicates,
            image_digest=sums.image_digest,
        )

    def _accuracies(self, sums: FloatArray) -> FloatArray:
        """(..., I, thresholds) from the sums of hits at every level."""
        thresholds = self.convention.thresholds
        levels = np.arange(thresholds.size)
        if self.convention.reading == "compatible":
            levels = (thresholds * 255).astype(np.int64)
        hits = sums[..., :-1].reshape(*sums.shape[:-1], len(self.convention.ious), NUM_LEVELS)
        return ratio(hits[..., levels], sums[..., -1, None, None])

    def _details(self, accuracies: FloatArray) -> dict[str, Detail]:
        best = accuracies.argmax(axis=-1)
        details: dict[str, Detail] = {}
        for iou, row, k in zip(self.convention.ious, accuracies, best, strict=True):
            details[f"accuracy_{100 * iou:g}"] = float(row[k])
            details[f"threshold_{100 * iou:g}"] = float(self.convention.thresholds[k])
        return details

    def _curves(self, accuracies: FloatArray) -> dict[str, Curve]:
        thresholds = tuple(self.convention.thresholds.tolist())
        return {
            f"accuracy_{100 * iou:g}": Curve(thresholds, tuple(row.tolist()))
            for iou, row in zip(self.convention.ious, accuracies, strict=True)
        }

    def _check_size(self, score_map: ScoreMap, image_size: tuple[int, int]) -> None:
        original = self.convention.resolution == "original"
        width, height = image_size if original else (224, 224)
        if score_map.shape != (height, width):
            raise ValueError(
                f"the map is {score_map.shape[1]} x {score_map.shape[0]}, but "
                f"{self.convention.name} is defined at {width} x {height}"
            )


def best_overlaps(
    normalized_map: ScoreMap,
    objects: FloatArray,
    image_size: tuple[float, float],
    convention: MapConvention,
) -> FloatArray:
    """The largest IoU between a box of the map and a drawn one, at each of 255 levels.

    Level k is the convention's k-th threshold, or int(tau * 255) = k in the compatible reading.
    """
    height, width = normalized_map.shape
    scale = np.array([width, height, width, height], dtype=np.float64)
    drawn = objects * scale / np.array([*image_size, *image_size], dtype=np.float64)
    if convention.reading == "clean":
        levels = count_below(normalized_map, convention.thresholds)
        first, last, boxes = _shown_boxes(levels, convention)
        return np.asarray(_overlap_per_level(first, last, boxes.astype(np.float64), drawn, 0.0))
    levels = floor_to_bytes(normalized_map)
    first, last, boxes = _shown_boxes(levels, convention)
    inclusive = np.minimum(boxes, [width, height, width - 1, height - 1]).astype(np.float64)
    drawn = np.trunc(drawn)
    overlaps = np.asarray(_overlap_per_level(first, last, inclusive, drawn, 1.0))
    nothing = np.zeros((1, 4))
    empty = np.full(1, levels.max()), np.full(1, NUM_LEVELS - 1)
    return np.maximum(overlaps, _overlap_per_level(*empty, nothing, drawn, 1.0))


def _shown_boxes(
    levels: NDArray[np.uint8], convention: MapConvention
) -> tuple[IntArray, IntArray, IntArray]:
    """First level, last level and half-open box of what the convention looks at."""
    if convention.contours == "all":
        shown = [level_boxes(levels)]
        if convention.reading == "compatible":
            shown.append(hole_level_boxes(levels))
        return (
            np.concatenate([each.first_level for each in shown]),
            np.concatenate([each.last_level for each in shown]),
            np.concatenate([each.boxes for each in shown]),
        )
    tree = component_tree(levels, 8)
    if convention.reading == "compatible":
        largest = largest_by_contour(levels, tree)
    else:
        largest = largest_by_pixels(tree)
    shown_at = np.flatnonzero(largest >= 0)
    return shown_at, shown_at, tree.box[largest[shown_at]]


@njit(cache=True, nogil=True)
def _overlap_per_level(
    first: IntArray, last: IntArray, boxes: FloatArray, objects: FloatArray, extra: float
) -> FloatArray:
    best = np.zeros(NUM_LEVELS)
    for n in range(first.size):
        overlap = 0.0
        for g in range(len(objects)):
            width = min(boxes[n, 2], objects[g, 2]) - max(boxes[n, 0], objects[g, 0]) + extra
            height = min(boxes[n, 3], objects[g, 3]) - max(boxes[n, 1], objects[g, 1]) + extra
            if width <= 0 or height <= 0:
                continue
            shared = width * height
            area = (boxes[n, 2] - boxes[n, 0] + extra) * (boxes[n, 3] - boxes[n, 1] + extra)
            other = (objects[g, 2] - objects[g, 0] + extra) * (
                objects[g, 3] - objects[g, 1] + extra
            )
            overlap = max(overlap, shared / (area + other - shared))
        for t in range(first[n], last[n] + 1):
            best[t] = max(best[t], overlap)
    return best
