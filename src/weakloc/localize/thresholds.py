"""Heat maps in, what each of 255 threshold levels makes of them out: boxes, their fit, rules.

A level is a byte of the normalised heat. `level_quality` says how well a level's boxes fit drawn
ones; the RULES choose a level from heat maps of tagged images, without any drawn box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weakloc.component_tree import component_tree
from weakloc.geometry import (
    FloatArray,
    GridTransform,
    IntArray,
    box_ious,
    image_box_in_grid,
    map_box_to_grid,
)
from weakloc.localize.boxes import ThresholdMode
from weakloc.localize.maps import NORMALISATIONS, HeatMap

NUM_LEVELS = 255
THRESHOLDS: FloatArray = np.arange(1, NUM_LEVELS + 1) / 256.0
Counted: TypeAlias = Literal["all", "largest"]
Rule: TypeAlias = Literal["fixed", "otsu", "mean_ratio", "area_prior", "stability"]
FIXED = 0.2  # the threshold of the rule "fixed"
MEAN_RATIO = 1.0  # the multiple of the mean heat of the rule "mean_ratio"
AREA_PRIOR = 0.25  # the share of the image that "area_prior" expects to be foreground
_NEIGHBOUR = 13  # levels, 0.05: how far a threshold may be off without moving the box
_NEARLY = 0.95


@dataclass(frozen=True)
class LevelComponents:
    """The components of all levels, smallest first; each is there at levels first to last."""

    first: IntArray  # (N,)
    last: IntArray  # (N,)
    boxes: FloatArray  # (N, 4) in the grid frame, cut to the image


@dataclass(frozen=True)
class LevelQuality:
    """Per level, in [0, 1]: does the localisation succeed, and how far do the boxes overlap."""

    success: FloatArray  # (255,)
    overlap: FloatArray  # (255,)


def heat_levels(heat: HeatMap, *, threshold_mode: ThresholdMode) -> NDArray[np.uint8]:
    """The bytes whose components above t are those of the normalised heat above THRESHOLDS[t]."""
    normalised = NORMALISATIONS[threshold_mode](heat)
    return np.asarray(np.clip(np.ceil(normalised * 256.0) - 1.0, 0.0, 255.0), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class ComponentLimits:
    """Which components get a box, as `find_boxes` has it: shares of the image and of all heat."""

    min_area: float = 0.001
    max_area: float = 1.0
    min_share: float = 0.0


def level_components(
    levels: NDArray[np.uint8],
    transform: GridTransform,
    limits: ComponentLimits = ComponentLimits(),
) -> LevelComponents:
    """Components within the limits, the heat of each level being that of its middle; the whole
    image at all levels if constant."""
    frame = np.array(image_box_in_grid(transform))
    if levels.min() == levels.max():
        ends = np.array([0]), np.array([NUM_LEVELS - 1])
        return LevelComponents(*ends, boxes=frame[None])
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
    cut = np.clip(tree.box[shown], np.tile(frame[:2], 2), np.tile(frame[2:], 2))
    return LevelComponents(
        first=np.maximum(tree.parent_level[shown], 0).astype(np.int64),
        last=tree.level[shown].astype(np.int64) - 1,
        boxes=cut.astype(np.float64),
    )


def largest_boxes(components: LevelComponents, transform: GridTransform) -> FloatArray:
    """The box of each level's largest component as shares of the image's sides: (255, 4).

    Zeros where there is none.
    """
    frame = np.array(image_box_in_grid(transform))
    size = np.tile(frame[2:] - frame[:2], 2)
    winner = _last_of_level(components, np.arange(len(components.first)))
    boxes = np.zeros((NUM_LEVELS, 4))
    there = winner >= 0
    boxes[there] = (components.boxes[winner[there]] - np.tile(frame[:2], 2)) / size
    return boxes


def level_quality(
    components: LevelComponents,
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
    if counted == "largest":
        winner = _last_of_level(components, np.arange(len(ious)))
        overlap = np.append(ious.max(axis=1, initial=0.0), 0.0)[winner]  # entry -1: no component
        return LevelQuality((overlap >= min_iou).astype(np.float64), overlap)
    num_boxes = np.zeros(NUM_LEVELS + 1)
    np.add.at(num_boxes, components.first, 1.0)
    np.add.at(num_boxes, components.last + 1, -1.0)
    num_boxes = np.cumsum(num_boxes)[:NUM_LEVELS]
    greatest = []
    for column in ious.T:
        order = np.argsort(column, kind="stable")
        order = order[column[order] > 0]
        greatest.append(np.append(column, 0.0)[_last_of_level(components, order)])
    best = np.stack(greatest)  # (T, 255)
    hits = np.minimum((best >= min_iou).sum(axis=0), num_boxes)
    overlaps = np.minimum(best.sum(axis=0), num_boxes)
    in_all = np.maximum(num_boxes + len(drawn), 1.0)
    return LevelQuality(2.0 * hits / in_all, 2.0 * overlaps / in_all)


def _last_of_level(components: LevelComponents, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of the components of each level the one that comes last in `order`; -1 if there is none."""
    winner = np.full(NUM_LEVELS, -1, dtype=np.intp)
    first, last = components.first[order].tolist(), components.last[order].tolist()
    for component, start, end in zip(order.tolist(), first, last, strict=True):
        winner[start : end + 1] = component
    return winner


@dataclass(frozen=True)
class Evidence:
    """What a rule may know of one class in one image."""

    class_index: int
    shares: FloatArray  # (256,) of the cells by byte level, in the first view
    boxes: FloatArray  # (views, 255, 4) each level's largest component, as shares of the image

    @classmethod
    def of(
        cls,
        class_index: int,
        views: Sequence[NDArray[np.uint8]],
        transform: GridTransform,
        limits: ComponentLimits,
    ) -> Evidence:
        counts = np.bincount(views[0].ravel(), minlength=NUM_LEVELS + 1)
        boxes = [
            largest_boxes(level_components(view, transform, limits), transform) for view in views
        ]
        return cls(class_index, counts / views[0].size, np.stack(boxes))


def fixed_level(_: Sequence[Evidence]) -> int:
    return _nearest_level(FIXED)


def otsu_level(images: Sequence[Evidence]) -> int:
    """Otsu 1979 on the pooled heat: the greatest variance between foreground and background."""
    shares = _pooled(images)
    below = np.cumsum(shares)[:-1]
    moment = np.cumsum(shares * np.arange(NUM_LEVELS + 1))
    between = np.square(moment[-1] * below - moment[:-1])
    spread = below * (1.0 - below)
    variance = np.divide(between, spread, out=np.zeros(NUM_LEVELS), where=spread > 1e-12)
    best = np.flatnonzero(variance >= variance.max() * (1.0 - 1e-12))
    return int(best[len(best) // 2])


def mean_ratio_level(images: Sequence[Evidence]) -> int:
    mean = _pooled(images) @ (np.arange(NUM_LEVELS + 1) + 0.5) / 256.0
    return _nearest_level(MEAN_RATIO * float(mean))


def area_prior_level(images: Sequence[Evidence]) -> int:
    """The first level whose foreground is not above the expected share of the image."""
    foreground = 1.0 - np.cumsum(_pooled(images))[:-1]
    return int(np.argmax(foreground <= AREA_PRIOR + 1e-12))


def stable_level(images: Sequence[Evidence]) -> int:
    """The lowest level whose agreement is nearly the best: a part that all views find agrees
    best of all, and the extent of the object is below it."""
    curve = agreement_curve(images)
    return int(np.argmax(curve >= _NEARLY * curve.max()))


RULES: dict[Rule, Callable[[Sequence[Evidence]], int]] = {
    "stability": stable_level,
    "otsu": otsu_level,
    "mean_ratio": mean_ratio_level,
    "area_prior": area_prior_level,
    "fixed": fixed_level,
}


def agreement_curve(images: Sequence[Evidence]) -> FloatArray:
    """How far boxes of one image agree beyond chance, at every level: (255,), at most 1.

    A = mean IoU of an image's box with its other views' and with those of neighbouring levels;
    B = the same between different images, or with the whole image if there is one image only;
    the curve is (A - B) / (1 - B), so that boxes of the whole image, which always agree, count
    for nothing.
    """
    observed = np.mean([_own_agreement(image) for image in images], axis=0)
    others = [image.boxes[0] for image in (images[-1], *images[:-1])]
    if len(images) == 1:
        others = [np.tile([0.0, 0.0, 1.0, 1.0], (NUM_LEVELS, 1))]
    pairs = zip(images, others, strict=True)
    chance = np.mean([_ious(image.boxes[0], other) for image, other in pairs], axis=0)
    return np.asarray((observed - chance) / np.maximum(1.0 - chance, 1e-3))


def agreement_beyond_chance(images: Sequence[Evidence], levels: Sequence[int]) -> float:
    """The agreement of each class's images at the class's level, averaged over the images."""
    total = 0.0
    for class_index in sorted({image.class_index for image in images}):
        of_class = [image for image in images if image.class_index == class_index]
        total += len(of_class) * float(agreement_curve(of_class)[levels[class_index]])
    return total / len(images)


def _own_agreement(image: Evidence) -> FloatArray:
    main = image.boxes[0]
    up = np.concatenate([main[_NEIGHBOUR:], np.repeat(main[-1:], _NEIGHBOUR, axis=0)])
    down = np.concatenate([np.repeat(main[:1], _NEIGHBOUR, axis=0), main[:-_NEIGHBOUR]])
    over_levels = (_ious(main, up) + _ious(main, down)) / 2
    if len(image.boxes) == 1:
        return over_levels
    over_views = np.mean([_ious(main, view) for view in image.boxes[1:]], axis=0)
    return np.asarray((over_levels + over_views) / 2)


def _ious(first: FloatArray, second: FloatArray) -> FloatArray:
    """IoU of each box with its counterpart: (N, 4) and (N, 4) to (N,); empty pairs give 0."""
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, 2:], second[:, 2:])
    overlap = np.maximum(high - low, 0.0).prod(axis=1)
    union = sum((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (first, second)) - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros(len(first)), where=union > 0))


def _pooled(images: Sequence[Evidence]) -> FloatArray:
    return np.asarray(np.mean([image.shares for image in images], axis=0))


def _nearest_level(threshold: float) -> int:
    return int(np.argmin(np.abs(THRESHOLDS - threshold)))
