"""Heat maps in, what each of 255 threshold levels makes of them out: boxes, and their fit.

A level is a byte of the normalised heat. `level_quality` says how well a level's boxes fit drawn
ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weakloc.component_tree import LevelBoxes, component_tree
from weakloc.geometry import (
    FloatArray,
    GridTransform,
    box_ious,
    image_box_in_grid,
    map_box_to_grid,
)
from weakloc.localize.boxes import ThresholdMode
from weakloc.localize.maps import NORMALISATIONS, HeatMap

NUM_LEVELS = 255
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
    cut = np.clip(tree.box[shown], np.tile(frame[:2], 2), np.tile(frame[2:], 2))
    return LevelBoxes(
        first_level=np.maximum(tree.parent_level[shown], 0).astype(np.int64),
        last_level=tree.level[shown].astype(np.int64) - 1,
        boxes=cut.astype(np.float64),
    )


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
    if counted == "largest":
        winner = _last_of_level(components, np.arange(len(ious)))
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
        greatest.append(np.append(column, 0.0)[_last_of_level(components, order)])
    best = np.stack(greatest)  # (T, 255)
    hits = np.minimum((best >= min_iou).sum(axis=0), num_boxes)
    overlaps = np.minimum(best.sum(axis=0), num_boxes)
    in_all = np.maximum(num_boxes + len(drawn), 1.0)
    return LevelQuality(2.0 * hits / in_all, 2.0 * overlaps / in_all)


def _last_of_level(components: LevelBoxes, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of the components of each level the one that comes last in `order`; -1 if there is none."""
    winner = np.full(NUM_LEVELS, -1, dtype=np.intp)
    ends = components.first_level[order].tolist(), components.last_level[order].tolist()
    for component, start, end in zip(order.tolist(), *ends, strict=True):
        winner[start : end + 1] = component
    return winner
