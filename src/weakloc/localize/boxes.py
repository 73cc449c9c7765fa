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
    PointXY,
    box_area,
    box_ious,
    cell_center_in_image,
    clip_box,
    clip_point,
    map_box_to_image,
)
from weakloc.localize.maps import NORMALISATIONS, HeatMap

ThresholdMode: TypeAlias = Literal["minmax", "relu_max", "none"]
BoxChoice: TypeAlias = Literal["all", "largest", "best"]
Overlap: TypeAlias = Literal["keep", "merge", "nms"]
BoxScore: TypeAlias = Literal["mean", "raw_mean", "blob_mean", "max", "share"]
MAX_IOU = 0.5  # of two boxes that are both kept where overlap is not


@dataclass(frozen=True, slots=True)
class HeatBox:
    """A box of the image around one component, its score, and the component's hottest point."""

    box: BoxLTRB
    score: float
    area_share: float  # of the image, covered by the component itself
    peak: PointXY


@dataclass(frozen=True)
class _Blob:
    """A component in the grid frame, whole cells."""

    cells: IntArray  # (4,) left, top, right, bottom
    area: int
    heat_sum: float
    peak: int


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
    blobs = _blobs(normalised, threshold)
    blobs = [blob for blob in blobs if min_area <= _area_share(blob, transform) <= max_area]
    least = min_share * float(normalised.sum(dtype=np.float64))
    blobs = [blob for blob in blobs if blob.heat_sum >= least]
    if select == "largest":
        blobs = blobs[:1]
    rate = _rating(score, heat, normalised, class_probability)
    if overlap == "merge":
        blobs = _merged(blobs)
    ranked = sorted(((rate(blob), blob) for blob in blobs), key=_rank)
    if overlap == "nms":
        kept: list[tuple[float, _Blob]] = []
        for value, blob in ranked:
            if not (_overlaps(blob, [better for _, better in kept]) > MAX_IOU).any():
                kept.append((value, blob))
        ranked = kept
    if select == "best":
        ranked = ranked[:1]
    boxes = [_in_image(blob, value, heat.shape[1], transform) for value, blob in ranked]
    return [heat_box for heat_box in boxes if box_area(heat_box.box) > 0.0]


def whole_image_box(transform: GridTransform, score: float) -> HeatBox:
    """The answer when nothing is known about the place."""
    width, height = transform.image_size
    return HeatBox((0.0, 0.0, width, height), score, 1.0, (width / 2, height / 2))


def find_at_least_one_box(
    heat: HeatMap,
    transform: GridTransform,
    *,
    threshold: float,
    threshold_mode: ThresholdMode = "minmax",
    score: BoxScore = "mean",
    class_probability: float = 1.0,
) -> HeatBox:
    """The largest component's box whatever its size, else the whole image: for a class known to
    be there of which `find_boxes` shows nothing."""
    boxes = find_boxes(
        heat,
        transform,
        threshold=threshold,
        threshold_mode=threshold_mode,
        select="largest",
        min_area=0.0,
        score=score,
        class_probability=class_probability,
    )
    return boxes[0] if boxes else whole_image_box(transform, class_probability)


def _blobs(normalised: HeatMap, threshold: float) -> list[_Blob]:
    """The components above the threshold: most cells first, then the hotter, then the first."""
    level = float(np.float32(threshold))  # a cell that equals the threshold is not above it
    tree = component_tree(normalised, above=level)
    nodes = components_at(tree, level)
    peaks = tree.peak[nodes]
    order = np.lexsort((peaks, -normalised.ravel()[peaks], -tree.area[nodes]))
    return [
        _Blob(
            tree.box[node], int(tree.area[node]), float(tree.heat_sum[node]), int(tree.peak[node])
        )
        for node in nodes[order]
    ]


def _rating(
    score: BoxScore, heat: HeatMap, normalised: HeatMap, class_probability: float
) -> Callable[[_Blob], float]:
    ratings: dict[BoxScore, Callable[[_Blob], float]] = {
        "mean": lambda blob: float(_inside(normalised, blob).mean(dtype=np.float64)),
        "raw_mean": lambda blob: float(_inside(heat, blob).mean(dtype=np.float64)),
        "blob_mean": lambda blob: blob.heat_sum / blob.area,
        "max": lambda blob: float(normalised.ravel()[blob.peak]),
        "share": lambda blob: float(
            _inside(normalised, blob).sum(dtype=np.float64) / normalised.sum(dtype=np.float64)
        ),
    }
    rating = ratings[score]
    return lambda blob: class_probability * rating(blob)


def _inside(heat: HeatMap, blob: _Blob) -> HeatMap:
    left, top, right, bottom = blob.cells
    return heat[top:bottom, left:right]


def _rank(scored: tuple[float, _Blob]) -> tuple[float, int, int]:
    score, blob = scored
    return -score, -blob.area, blob.peak


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
        heat_sum=first.heat_sum + second.heat_sum,
    )


def _area_share(blob: _Blob, transform: GridTransform) -> float:
    """Of the image; at most 1 for a component that reaches into the padding."""
    width, height = transform.image_size
    cells_in_image = abs(transform.scale_x * transform.scale_y) * width * height
    return min(blob.area / cells_in_image, 1.0)


def _in_image(blob: _Blob, score: float, columns: int, transform: GridTransform) -> HeatBox:
    left, top, right, bottom = (float(side) for side in blob.cells)
    box = clip_box(map_box_to_image((left, top, right, bottom), transform), transform.image_size)
    peak = cell_center_in_image(*divmod(blob.peak, columns), transform)
    return HeatBox(
        box=box,
        score=score,
        area_share=_area_share(blob, transform),
        peak=clip_point(peak, transform.image_size),
    )
