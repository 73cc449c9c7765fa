"""A class's heat map in, scored boxes of the image out: threshold, components, tight boxes.

Heat on a coarse score map is best resampled to an image-aligned grid first (`maps.image_grid`
with a long side of 256 cells): a box's sides lie on the grid's cell borders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

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
Overlap: TypeAlias = Literal["keep", "merge", "nms"]
BoxScore: TypeAlias = Literal["mean", "raw_mean", "blob_mean", "max", "share"]
MAX_IOU = 0.5  # of two boxes that are both kept where overlap is not
AGREEING_IOU = 0.6  # of boxes that mean the same object


@dataclass(frozen=True, slots=True)
class HeatBox:
    """A box of the image around one component, and its score."""

    box: BoxLTRB
    score: float
    area_share: float  # of the image, covered by the component itself


@dataclass(frozen=True)
class _Blob:
    """A component in the grid frame, whole cells."""

    cells: IntArray  # (4,) left, top, right, bottom
    area: int
    area_share: float  # of the image; at most 1 for a component that reaches into the padding
    heat_sum: float
    peak: int

    @property
    def window(self) -> tuple[slice, slice]:
        left, top, right, bottom = self.cells
        return slice(top, bottom), slice(left, right)


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
    overlap: Overlap = "keep",
    score: BoxScore = "mean",
    class_probability: float = 1.0,
) -> list[HeatBox]:
    """Tight boxes of the 8-connected parts of {normalised heat > threshold}, best first.

    Areas are shares of the image, `min_share` is one of all heat. `select` takes all parts, the one
    with the most cells (ties: the hotter, then the first) or the one with the best score. Boxes
    that overlap by more than MAX_IOU are kept, merged into one, or reduced to the best. The score
    is the mean normalised heat in the box ("mean"), the mean heat as given ("raw_mean", the
    beam's), the mean over the component ("blob_mean"), the greatest ("max") or the box's share of
    all heat ("share"), times `class_probability`. A constant map says nothing about the place: it
    gives the whole image, with `class_probability` as its score. The list may be empty.
    """
    normalised = NORMALISATIONS[threshold_mode](heat)
    if normalised.min() == normalised.max():
        return [whole_image_box(transform, class_probability)]
    least = min_share * float(normalised.sum(dtype=np.float64))
    blobs = [
        blob
        for blob in _blobs(normalised, threshold, transform)
        if min_area <= blob.area_share <= max_area and blob.heat_sum >= least
    ]
    if select == "largest":
        blobs = blobs[:1]
    if overlap == "merge":
        blobs = _merged(blobs)
    rated = [
        (class_probability * float(_RATINGS[score](blob, heat, normalised)), blob) for blob in blobs
    ]
    ranked = sorted(rated, key=lambda pair: (-pair[0], -pair[1].area, pair[1].peak))
    if overlap == "nms":
        ranked = _boxes_apart(ranked)
    if select == "best":
        ranked = ranked[:1]
    boxes = [_in_image(blob, value, transform) for value, blob in ranked]
    return [heat_box for heat_box in boxes if box_area(heat_box.box) > 0.0]


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


def _blobs(normalised: HeatMap, threshold: float, transform: GridTransform) -> list[_Blob]:
    """The components above the threshold: most cells first, then the hotter, then the first."""
    level = float(np.float32(threshold))  # a cell that equals the threshold is not above it
    tree = component_tree(normalised, above=level)
    nodes = components_at(tree, level)
    peaks = tree.peak[nodes]
    order = np.lexsort((peaks, -normalised.ravel()[peaks], -tree.area[nodes]))
    width, height = transform.image_size
    cells_in_image = abs(transform.scale_x * transform.scale_y) * width * height
    return [
        _Blob(
            cells=tree.box[node],
            area=int(tree.area[node]),
            area_share=min(int(tree.area[node]) / cells_in_image, 1.0),
            heat_sum=float(tree.heat_sum[node]),
            peak=int(tree.peak[node]),
        )
        for node in nodes[order]
    ]


# Of a component, its heat as given and as normalised.
_RATINGS: dict[BoxScore, Callable[[_Blob, HeatMap, HeatMap], float]] = {
    "mean": lambda blob, _, normalised: normalised[blob.window].mean(dtype=np.float64),
    "raw_mean": lambda blob, heat, _: heat[blob.window].mean(dtype=np.float64),
    "blob_mean": lambda blob, _heat, _normalised: blob.heat_sum / blob.area,
    "max": lambda blob, _, normalised: normalised.ravel()[blob.peak],
    "share": lambda blob, _, normalised: (
        normalised[blob.window].sum(dtype=np.float64) / normalised.sum(dtype=np.float64)
    ),
}


def _boxes_apart(ranked: list[tuple[float, _Blob]]) -> list[tuple[float, _Blob]]:
    """Each that overlaps no better one too much."""
    kept: list[tuple[float, _Blob]] = []
    for value, blob in ranked:
        if not (_overlaps(blob, [better for _, better in kept]) > MAX_IOU).any():
            kept.append((value, blob))
    return kept


def _merged(blobs: list[_Blob]) -> list[_Blob]:
    """Each joins the first it overlaps too much, and so on until it overlaps none."""
    merged: list[_Blob] = []
    for blob in blobs:
        grown = blob
        while len(hits := np.flatnonzero(_overlaps(grown, merged) > MAX_IOU)):
            grown = _union(merged.pop(int(hits[0])), grown)
        merged.append(grown)
    return merged


def _overlaps(blob: _Blob, others: list[_Blob]) -> FloatArray:
    return box_ious(blob.cells, np.array([other.cells for other in others])).ravel()


def _union(first: _Blob, second: _Blob) -> _Blob:
    low = np.minimum(first.cells[:2], second.cells[:2])
    high = np.maximum(first.cells[2:], second.cells[2:])
    return replace(
        first,
        cells=np.concatenate([low, high]),
        area=first.area + second.area,
        area_share=min(first.area_share + second.area_share, 1.0),
        heat_sum=first.heat_sum + second.heat_sum,
    )


def _in_image(blob: _Blob, score: float, transform: GridTransform) -> HeatBox:
    left, top, right, bottom = (float(side) for side in blob.cells)
    box = map_box_to_image((left, top, right, bottom), transform)
    return HeatBox(clip_box(box, transform.image_size), score, blob.area_share)
