"""A class's heat map in, scored boxes of the image out: threshold, components, tight boxes.

Heat on a coarse score map is best resampled to an image-aligned grid first (`maps.image_grid`
with a long side of 256 cells): a box's sides lie on the grid's cell borders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.component_tree import component_tree, components_at
from weakloc.geometry import (
    BoxLTRB,
    FloatArray,
    GridTransform,
    IntArray,
    Size,
    box_area,
    box_areas,
    box_ious,
    clip_box,
    map_box_to_image,
)
from weakloc.localize.maps import NORMALISATIONS, HeatMap

ThresholdMode: TypeAlias = Literal["minmax", "relu_max", "otsu", "none"]
BoxChoice: TypeAlias = Literal["all", "largest", "best"]
BoxScore: TypeAlias = Literal["mean", "raw_mean", "max", "share"]
MAX_IOU = 0.5  # of two voted boxes that both stand
AGREEING_IOU = 0.6  # of boxes that mean the same object


@dataclass(frozen=True, slots=True)
class HeatBox:
    """A box of the image around one component, and its score."""

    box: BoxLTRB
    score: float
    area_share: float  # of the image, covered by the component itself


def find_boxes(
    heat: HeatMap,
    transform: GridTransform,
    *,
    threshold: float,
    threshold_mode: ThresholdMode = "minmax",
    select: BoxChoice = "all",
    min_area: float = 0.001,
    max_area: float = 1.0,
    min_share: float = 0.0,
    score: BoxScore = "mean",
    class_probability: float = 1.0,
) -> list[HeatBox]:
    """Tight boxes of the 8-connected parts of {normalised heat > threshold}, best first.

    Areas are shares of the image, `min_share` is one of all heat. `select` takes all parts, the one
    with the most cells (ties: the hotter, then the first) or the one with the best score. The score
    is the mean normalised heat in the box ("mean"), the mean heat as given ("raw_mean", the
    beam's), the greatest of the part ("max") or the box's share of all heat ("share"), times
    `class_probability`. A constant map says nothing about the place: it gives the whole image, with
    `class_probability` as its score. The list may be empty.
    """
    normalised = NORMALISATIONS[threshold_mode](heat)
    if normalised.min() == normalised.max():
        return [whole_image_box(transform, class_probability)]
    level = float(np.float32(threshold))  # a cell that equals the threshold is not above it
    tree = component_tree(normalised, above=level)
    width, height = transform.image_size
    cells_in_image = abs(transform.scale_x * transform.scale_y) * width * height
    shares = np.minimum(tree.area / cells_in_image, 1.0)  # a part may reach into the padding
    is_shown = (min_area <= shares) & (shares <= max_area)
    is_shown &= tree.heat_sum >= min_share * float(normalised.sum(dtype=np.float64))
    nodes = components_at(tree, level)
    nodes = nodes[is_shown[nodes]]
    if select == "largest":
        peaks = tree.peak[nodes]
        nodes = nodes[np.lexsort((peaks, -normalised.ravel()[peaks], -tree.area[nodes]))][:1]
    rated = []
    for node in nodes.tolist():
        rating = _RATINGS[score](heat, normalised, tree.box[node], tree.peak[node])
        rated.append((-class_probability * float(rating), -tree.area[node], tree.peak[node], node))
    ranked = sorted(rated)[: 1 if select == "best" else None]
    boxes = []
    for negative_score, _, _, node in ranked:
        left, top, right, bottom = tree.box[node].tolist()
        box = clip_box(map_box_to_image((left, top, right, bottom), transform), (width, height))
        if box_area(box) > 0.0:
            boxes.append(HeatBox(box, -negative_score, float(shares[node])))
    return boxes


def voted_boxes(
    boxes: FloatArray,
    scores: FloatArray,
    image_size: Size,
    *,
    select: BoxChoice,
    min_area: float,
    max_area: float,
    min_share: float,
) -> list[HeatBox]:
    """What many proposals (N, 4) with their scores (N,) agree on, best first.

    The best stands, with all that overlap it by more than AGREEING_IOU, for one box: their mean,
    weighed by their scores. Then the best of those that overlap none of these by MAX_IOU, and so
    on. Areas are shares of the image, `min_share` is one of the best score.
    """
    width, height = image_size
    boxes = np.clip(boxes, 0.0, (width, height, width, height))
    boxes, scores = boxes[(known := box_areas(boxes) > 0.0)], scores[known]  # not in the padding
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= min_share * scores.max(initial=0.0)]
    voted: list[HeatBox] = []
    while len(order):
        overlaps = box_ious(boxes[order[0]], boxes[order]).ravel()
        agreeing = order[overlaps > AGREEING_IOU]
        left, top, right, bottom = np.average(boxes[agreeing], axis=0, weights=scores[agreeing])
        box = clip_box((float(left), float(top), float(right), float(bottom)), image_size)
        share = box_area(box) / (width * height)
        if min_area <= share <= max_area:
            voted.append(HeatBox(box, float(scores[order[0]]), share))
        order = order[1:][overlaps[1:] < MAX_IOU]
    if select == "largest":
        voted = sorted(voted, key=lambda part: -part.area_share)[:1]
    return voted[:1] if select == "best" else voted


def whole_image_box(transform: GridTransform, score: float) -> HeatBox:
    """The answer when nothing is known about the place."""
    width, height = transform.image_size
    return HeatBox((0.0, 0.0, width, height), score, 1.0)


def _inside(values: HeatMap, cells: IntArray) -> NDArray[np.floating]:
    left, top, right, bottom = cells
    return values[top:bottom, left:right]


# Of the heat as given and as normalised, a part's box and its hottest cell.
_RATINGS: dict[BoxScore, Callable[[HeatMap, HeatMap, IntArray, int], np.floating]] = {
    "mean": lambda _, normalised, cells, __: _inside(normalised, cells).mean(dtype=np.float64),
    "raw_mean": lambda heat, _, cells, __: _inside(heat, cells).mean(dtype=np.float64),
    "max": lambda _heat, normalised, _cells, peak: normalised.flat[peak],
    "share": lambda _, normalised, cells, __: (
        _inside(normalised, cells).sum(dtype=np.float64) / normalised.sum(dtype=np.float64)
    ),
}
