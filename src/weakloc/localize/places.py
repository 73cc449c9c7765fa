"""Heat maps in; points, boxes and masks of the image out, and how doubtful they are.

Heat on a coarse score map is best resampled to an image-aligned grid first (`maps.image_grid`
with a long side of 256 cells): a box's sides lie on the grid's cell borders.

Label images hold 0 for background and c + 1 for class c.

    doubt of a class = 1 - (1 - tag doubt) * (1 - place doubt)
    doubt of an image = the greatest of its classes

so an image is doubtful if any tag is likely wrong or any place is. The tag doubt is 1 - p for a
class tagged present, p for one tagged absent, and 1 - |2p - 1| where nothing is known. The place
doubt, for classes that were localised, is the mean of what could be measured of: the entropy of
the heat, the instability of the box over thresholds, and over views (scales and flips).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label

from weakloc.component_tree import component_tree, components_at
from weakloc.geometry import (
    BoxLTRB,
    FloatArray,
    GridTransform,
    IntArray,
    PointXY,
    Size,
    box_area,
    box_areas,
    box_iou,
    box_ious,
    clip_box,
    map_box_to_image,
    map_point_to_image,
)
from weakloc.localize.maps import (
    NORMALISATIONS,
    HeatMap,
    Maps,
    Normalisation,
    minmax,
    resample,
    unchanged,
)
from weakloc.rle import RunLengths, encode_mask
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, Disagreement, LabelVector, ScoreMaps

PointMethod: TypeAlias = Literal["arg_max", "plateau", "sub_cell", "densest"]
REACH = 0.06  # how far "around" reaches for `densest`: a share of the image's long side


@dataclass(frozen=True, slots=True)
class Peak:
    """A point inside the image and the heat it was found at."""

    x: float
    y: float
    heat: float


@dataclass(frozen=True)
class PointMap:
    """A map of one class in whose cells points are looked for; none lies outside of `within`."""

    values: HeatMap
    transform: GridTransform
    within: BoxLTRB


def hottest_views(views: Sequence[ScoreMaps], normalise: Normalisation) -> list[int]:
    """For each class the view with the greatest normalised value, of several the greatest raw one.

    Where the logistic function has no more digits the raw values still differ. A view whose map
    is not finite does not count.
    """
    keys = np.full((views[0].values.shape[0], len(views), 2), -np.inf)
    for index, view in enumerate(views):
        finite = np.isfinite(view.values).all(axis=(1, 2))
        normalised = NORMALISATIONS[normalise](view.values).max(axis=(1, 2))
        raw = unchanged(view.values).max(axis=(1, 2))
        keys[finite, index] = np.stack([normalised, raw], axis=1)[finite]
    return [max(range(len(views)), key=of_class.__getitem__) for of_class in keys.tolist()]


def outermost_centers(transforms: Sequence[GridTransform]) -> BoxLTRB:
    """The image box that the centres of all cells span, without those in the padding.

    A map that is resampled repeats its outermost cells up to the border of the image: a point
    between them and the border would be nearer to the border than anything that was seen.
    """
    spans = [
        map_box_to_image((0.5, 0.5, columns - 0.5, rows - 0.5), transform)
        for transform in transforms
        for columns, rows in [transform.grid_size]
    ]
    corners = np.min(spans, axis=0)[:2], np.max(spans, axis=0)[2:]
    inside = np.array(pixel_centers(transforms[0].image_size))
    left, top, right, bottom = np.clip(corners, inside[:2], inside[2:]).ravel().tolist()
    return left, top, right, bottom


def pixel_centers(image_size: Size) -> BoxLTRB:
    """The box that the centres of the pixels span: a point on it is still inside the image."""
    width, height = image_size
    return 0.5, 0.5, width - 0.5, height - 0.5


def nearest_inside(point: PointXY, box: BoxLTRB) -> PointXY:
    left, top, right, bottom = box
    return min(max(point[0], left), right), min(max(point[1], top), bottom)


def locate_point(point_map: PointMap, method: PointMethod) -> Peak:
    """Where the heat is greatest; the image's centre, with heat 0, if no value is finite.

    `arg_max`: centre of the greatest cell, the first in row-major order on ties. `plateau`: centre
    of the largest connected part of the greatest cells. `sub_cell`: the arg-max, refined.
    `densest`: centre of the cell with the most heat around it, so that a speck does not win over an
    object. A point outside of the map's `within` moves to its border: the hottest cell may lie in
    the padding.
    """
    if not np.isfinite(point_map.values).any():
        width, height = point_map.transform.image_size
        return Peak(width / 2, height / 2, 0.0)
    usable = _usable(point_map, method)
    cell = int(np.argmax(usable))
    if method == "plateau":
        labels, _ = label(usable == usable.max(), np.ones((3, 3)))
        largest = np.argmax(np.bincount(labels.ravel())[1:]) + 1
        cell = int(np.argmax(labels == largest))
    return _peak_at(cell, point_map, usable, method)


def locate_points(
    first: PointMap, further: PointMap, *, max_points: int, min_distance: float, method: PointMethod
) -> list[Peak]:
    """The hottest place of one map, then the regional maxima of another, hottest first.

    They are `min_distance` pixels apart, one for each plateau; what lies within a cell of the first
    is the same. There may be fewer than `max_points`.
    """
    peaks = [locate_point(first, method)] if max_points else []
    if max_points <= 1:
        return peaks
    usable = _usable(further, method)
    for cell in regional_maxima(usable).tolist():
        peak = _peak_at(cell, further, usable, method)
        across = abs((peak.x - peaks[0].x) * first.transform.scale_x)
        down = abs((peak.y - peaks[0].y) * first.transform.scale_y)
        distances = [np.hypot(peak.x - other.x, peak.y - other.y) for other in peaks]
        if max(across, down) >= 1.0 and min(distances) >= min_distance:
            peaks.append(peak)
        if len(peaks) == max_points:
            break
    return peaks


def _usable(point_map: PointMap, method: PointMethod) -> HeatMap:
    """The heat where it is finite; for `densest` what lies above the lowest, blurred: beyond the
    border there is none."""
    heat, transform = point_map.values, point_map.transform
    finite = np.isfinite(heat)
    if method != "densest" or not finite.any():
        return np.where(finite, heat, -np.inf)
    lowest = heat[finite].min()
    above = np.where(finite, heat, lowest) - lowest
    reach = REACH * max(transform.image_size)
    rows, columns = heat.shape
    return np.asarray(
        _blur(rows, reach * transform.scale_y) @ above @ _blur(columns, reach * transform.scale_x)
    )


def _peak_at(cell: int, point_map: PointMap, heat: HeatMap, method: PointMethod) -> Peak:
    """The cell's centre, or its plateau's; `sub_cell`: the top of the parabolas through it and its
    neighbours, at most half a cell away. `heat` is the usable one."""
    row, column = divmod(cell, heat.shape[1])
    x, y = column + 0.5, row + 0.5
    if method == "plateau":
        # The centroid, moved to the nearest of its cells if it misses all.
        labels, _ = label(heat == heat[row, column], np.ones((3, 3)))
        rows, columns = np.nonzero(labels == labels[row, column])
        center_row, center_column = rows.mean(), columns.mean()
        distance = np.maximum(np.abs(rows - center_row), np.abs(columns - center_column))
        if distance.min() > 0.5:  # the cell that holds the centroid is not one of them
            nearest = np.argmin(np.hypot(rows - center_row, columns - center_column))
            center_row, center_column = rows[nearest], columns[nearest]
        x, y = float(center_column) + 0.5, float(center_row) + 0.5
    elif method == "sub_cell":
        x, y = x + _parabola_top(heat[row, :], column), y + _parabola_top(heat[:, column], row)
    point = nearest_inside(map_point_to_image((x, y), point_map.transform), point_map.within)
    return Peak(*point, float(point_map.values.flat[cell]))


def _blur(cells: int, reach: float) -> FloatArray:
    distance = np.subtract.outer(np.arange(cells), np.arange(cells))
    return np.exp(-0.5 * np.square(distance / reach))


def regional_maxima(heat: HeatMap) -> IntArray:
    """First cells of the plateaus that have no higher neighbour, hottest first."""
    tree = component_tree(np.where(np.isfinite(heat), heat, np.nan))
    is_leaf = np.ones(len(tree.parent), dtype=np.bool_)
    is_leaf[tree.parent[tree.parent >= 0]] = False
    order = np.lexsort((tree.peak[is_leaf], -tree.level[is_leaf]))
    return tree.peak[is_leaf][order]


def _parabola_top(line: NDArray[np.floating], index: int) -> float:
    if index == 0 or index == len(line) - 1:
        return 0.0
    before, here, after = (float(value) for value in line[index - 1 : index + 2])
    curvature = before - 2.0 * here + after
    if not np.isfinite(curvature) or curvature >= 0.0:
        return 0.0
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5))


ThresholdMode: TypeAlias = Literal["minmax", "relu_max", "otsu", "none"]
BoxChoice: TypeAlias = Literal["all", "largest", "best", "proposals"]
BoxScore: TypeAlias = Literal["mean", "raw_mean", "max", "share"]
MAX_IOU = 0.5  # of two voted boxes that both stand
AGREEING_IOU = 0.6  # of boxes that mean the same object
PROPOSALS = 500  # of a class in an image, at most
_SMOOTHINGS = (0.0, 0.01, 0.02, 0.04)  # of the heat for proposals, as shares of its longer side
_ALIKE = 1.15  # proposals whose sides differ by less are one, if their middles lie as close


@dataclass(frozen=True, slots=True)
class HeatBox:
    """A box of the image around one component, and its score."""

    box: BoxLTRB
    score: float
    area_share: float  # of the image, covered by the component itself


@dataclass(frozen=True, kw_only=True)
class BoxLimits:
    """Which boxes are given: areas are shares of the image, `min_share` is one of all heat."""

    min_area: float = 0.001
    max_area: float = 1.0
    min_share: float = 0.0


def find_boxes(
    heat: HeatMap,
    transform: GridTransform,
    *,
    threshold: float,
    threshold_mode: ThresholdMode = "minmax",
    select: BoxChoice = "all",
    limits: BoxLimits = BoxLimits(),
    score: BoxScore = "mean",
    class_probability: float = 1.0,
) -> list[HeatBox]:
    """Tight boxes of the 8-connected parts of {normalised heat > threshold}, best first.

    `select` takes all parts, the one with the most cells (ties: the hotter, then the first), that
    with the best score, or the parts at every threshold, of the heat smoothed by several widths as
    well. The score is the mean normalised heat in the box ("mean"), the mean heat as given
    ("raw_mean", the beam's), the greatest in it ("max") or the box's share of all heat ("share"),
    times `class_probability`. A constant map says nothing about the place: it gives the whole
    image, with `class_probability` as its score. The list may be empty.
    """
    normalised = NORMALISATIONS[threshold_mode](heat)
    if normalised.min() == normalised.max():
        return [whole_image_box(transform, class_probability)]
    width, height = transform.image_size
    cells_in_image = abs(transform.scale_x * transform.scale_y) * width * height
    all_heat = float(normalised.sum(dtype=np.float64))
    if select == "proposals":
        cells, areas, peaks = _parts_at_all_levels(normalised, limits.min_area * cells_in_image)
    else:
        cells, areas, peaks = _parts_above(normalised, threshold, limits.min_share * all_heat)
    shares = np.minimum(areas / cells_in_image, 1.0)  # a part may reach into the padding
    shown = np.flatnonzero((limits.min_area <= shares) & (shares <= limits.max_area))
    if select == "largest":
        hottest = normalised.ravel()[peaks[shown]]
        shown = shown[np.lexsort((peaks[shown], -hottest, -areas[shown]))][:1]
    scored = heat if score == "raw_mean" else normalised
    rated = []
    for part in shown.tolist():
        left, top, right, bottom = cells[part].tolist()
        rating = float(_RATINGS[score](scored[top:bottom, left:right], all_heat))
        box = clip_box(map_box_to_image((left, top, right, bottom), transform), (width, height))
        heat_box = HeatBox(box, class_probability * rating, float(shares[part]))
        rated.append((-heat_box.score, -areas[part], peaks[part], part, heat_box))
    ranked = sorted(rated)[: 1 if select == "best" else None]
    return [heat_box for *_, heat_box in ranked if box_area(heat_box.box) > 0.0]


# Of parts of a map: half-open boxes (N, 4) and areas (N,) in cells, flat indices of peaks (N,).
_Parts: TypeAlias = tuple[IntArray, IntArray, IntArray]


def _parts_above(heat: HeatMap, threshold: float, least_heat: float) -> _Parts:
    level = float(np.float32(threshold))  # a cell that equals the threshold is not above it
    tree = component_tree(heat, above=level)
    nodes = components_at(tree, level)
    nodes = nodes[tree.heat_sum[nodes] >= least_heat]
    return tree.box[nodes], tree.area[nodes], tree.peak[nodes]


def _parts_at_all_levels(heat: HeatMap, least_area: float) -> _Parts:
    """Of the heat as it is and smoothed, those that last over most of 255 levels; of parts with
    nearly the same box one."""
    trees = []
    for smoothing in _SMOOTHINGS:
        step = 2 if smoothing else 1  # at half the resolution smoothed heat says as much
        smooth = heat[::step, ::step]
        smooth = gaussian_filter(smooth, smoothing * max(smooth.shape), mode="nearest")
        tree = component_tree((minmax(smooth) * 255).astype(np.uint8))
        rows, columns = np.divmod(tree.peak, smooth.shape[1])
        peaks = step * (rows * heat.shape[1] + columns)
        lasting = tree.level - np.maximum(tree.parent_level, -1.0)
        of_parts = tree.box * step, tree.area * step**2, peaks, lasting
        trees.append([values[tree.area * step**2 >= least_area] for values in of_parts])
    box, area, peak, lasting = map(np.concatenate, zip(*trees, strict=True))
    size = np.round(np.log(box[:, 2:] - box[:, :2]) / np.log(_ALIKE))
    middle = np.round((box[:, 2:] + box[:, :2]) / (2 * (_ALIKE - 1) * _ALIKE**size))
    alike = np.concatenate([size, middle], axis=1).astype(np.int64)
    numbers = np.ravel_multi_index(tuple(alike.T), tuple(alike.max(axis=0) + 1))
    _, first, kinds = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(-np.bincount(kinds, lasting), kind="stable")
    chosen = first[order[:PROPOSALS]]
    return box[chosen], area[chosen], peak[chosen]


def voted_boxes(
    boxes: FloatArray, scores: FloatArray, image_size: Size, *, select: BoxChoice, limits: BoxLimits
) -> list[HeatBox]:
    """What many proposals (N, 4) with their scores (N,) agree on, best first.

    The best stands, with all that overlap it by more than AGREEING_IOU, for one box: their mean,
    weighed by their scores. Then the best of those that overlap none of these by MAX_IOU, and so
    on. Here `min_share` is one of the best score.
    """
    width, height = image_size
    boxes = np.clip(boxes, 0.0, (width, height, width, height))
    known = (box_areas(boxes) > 0.0) & (scores > 0.0)  # not in the padding
    boxes, scores = boxes[known], scores[known]
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= limits.min_share * scores.max(initial=0.0)]
    voted: list[HeatBox] = []
    while len(order):
        overlaps = box_ious(boxes[order[0]], boxes[order]).ravel()
        agreeing = order[overlaps > AGREEING_IOU]
        left, top, right, bottom = np.average(boxes[agreeing], axis=0, weights=scores[agreeing])
        box = clip_box((float(left), float(top), float(right), float(bottom)), image_size)
        share = box_area(box) / (width * height)
        if limits.min_area <= share <= limits.max_area:
            voted.append(HeatBox(box, float(scores[order[0]]), share))
        order = order[1:][overlaps[1:] < MAX_IOU]
    return selected_boxes(voted, select)


def selected_boxes(boxes: list[HeatBox], select: BoxChoice | Literal["none"]) -> list[HeatBox]:
    """Of boxes, best first: all, the largest, the best or none."""
    if select == "largest":
        boxes = sorted(boxes, key=lambda part: -part.area_share)
    return boxes[: {"all": None, "proposals": None, "none": 0}.get(select, 1)]


def whole_image_box(transform: GridTransform, score: float) -> HeatBox:
    """The answer when nothing is known about the place."""
    width, height = transform.image_size
    return HeatBox((0.0, 0.0, width, height), score, 1.0)


# Of the heat in the box of a part, and the sum of all heat.
_RATINGS: dict[BoxScore, Callable[[HeatMap, float], np.floating]] = {
    "mean": lambda inside, _: inside.mean(dtype=np.float64),
    "raw_mean": lambda inside, _: inside.mean(dtype=np.float64),
    "max": lambda inside, _: inside.max(),
    "share": lambda inside, all_heat: inside.sum(dtype=np.float64) / all_heat,
}


LabelGrid: TypeAlias = NDArray[np.int32]  # (rows, columns)
BackgroundMode: TypeAlias = Literal["threshold", "class", "power"]

_ROWS_AT_ONCE = 256  # a label image of many megapixels is made strip by strip


@dataclass(frozen=True, slots=True)
class Background:
    """What stands against the classes: a constant `level` ("threshold"), the last of the maps
    ("class"), or (1 - greatest class score) ** `exponent` ("power")."""

    mode: BackgroundMode = "threshold"
    level: float = 0.3
    exponent: float = 8.0


def score_stack(maps: Maps, background: Background) -> Maps:
    """Background first, then the classes in order: (1 + C, rows, columns).

    `maps` (C, rows, columns) are normalised to [0, 1]. What a conditional random field refines.
    """
    classes = maps
    if background.mode == "class":
        classes, behind = maps[:-1], maps[-1]
    elif background.mode == "power":
        greatest = classes.max(axis=0, initial=0.0)
        behind = np.power(np.clip(1.0 - greatest, 0.0, 1.0), background.exponent)
    else:
        behind = np.full(maps.shape[1:], background.level)
    return np.concatenate([behind[None], classes]).astype(np.float32)


def labels_of_stack(stack: Maps) -> LabelGrid:
    """The label of the greatest score in each cell; background, then the first class, on ties."""
    return np.asarray(np.argmax(stack, axis=0), dtype=np.int32)


def segment(maps: ScoreMaps, grid: GridTransform, *, background: Background) -> LabelGrid:
    """The label image on a grid: maps resampled bilinearly, then the greatest score wins."""
    columns, rows = grid.grid_size
    strips = []
    for top in range(0, round(rows), _ROWS_AT_ONCE):
        strip = grid.crop((0.0, top, columns, min(top + _ROWS_AT_ONCE, rows)))
        strips.append(labels_of_stack(score_stack(resample(maps, strip).values, background)))
    return np.concatenate(strips)


def without_specks(labels: LabelGrid, *, min_area: float) -> LabelGrid:
    """The label image without 8-connected parts smaller than a share of all its pixels."""
    cleaned = labels.copy()
    for value in np.unique(labels[labels > 0]):
        parts, _ = label(labels == value, np.ones((3, 3)))
        small = np.bincount(parts.ravel()) < min_area * labels.size
        small[0] = False
        cleaned[small[parts]] = 0
    return cleaned


def class_masks(labels: LabelGrid) -> dict[int, RunLengths]:
    """One mask for each class that has pixels, in order of class index."""
    values = np.unique(labels[labels > 0]).tolist()
    return {value - 1: encode_mask(labels == value) for value in values}


def heat_entropy(heat: HeatMap) -> float:
    """The mean binary entropy, in bits, of the min-max normalised heat.

    0 if every cell is clearly in or out, whatever the object's size; 1 for a map that says
    nothing: constant, or not finite.
    """
    normalised = minmax(heat).astype(np.float64)
    if normalised.min() == normalised.max():
        return 1.0
    inside = np.clip(normalised, 1e-12, 1.0 - 1e-12)
    bits = -(inside * np.log2(inside) + (1.0 - inside) * np.log2(1.0 - inside))
    return float(np.clip(bits.mean(), 0.0, 1.0))


def instability(box_pairs: Iterable[tuple[BoxLTRB | None, BoxLTRB | None]]) -> float:
    """1 - the mean IoU of the pairs, which is 1 for two times no box and 0 for once."""
    ious = [
        float(first is second) if first is None or second is None else box_iou(first, second)
        for first, second in box_pairs
    ]
    return 1.0 - float(np.mean(ious))


def doubt(
    probabilities: NDArray[np.floating],
    evidence: Mapping[int, Sequence[float]],
    *,
    labels: LabelVector | None = None,
) -> float:
    """The doubt of one image; `evidence` is what was measured of each localised class by index.

    0 without classes.
    """
    certain = np.clip(np.asarray(probabilities, dtype=np.float64), 0.0, 1.0)
    tags = np.full(certain.shape, UNKNOWN) if labels is None else labels
    undecided = 1.0 - np.abs(2.0 * certain - 1.0)
    untagged = np.where(tags == ABSENT, certain, undecided)
    wrong_tag = np.where(tags == PRESENT, 1.0 - certain, untagged)
    wrong_place = np.zeros_like(wrong_tag)
    for class_index, measured in evidence.items():
        wrong_place[class_index] = float(np.mean(measured))
    either = 1.0 - (1.0 - wrong_tag) * (1.0 - wrong_place)
    return float(either.max(initial=0.0))


def disagreements(
    probabilities: NDArray[np.floating],
    labels: LabelVector,
    class_names: Sequence[str],
    *,
    missing_below: float,
    unexpected_above: float,
) -> tuple[Disagreement, ...]:
    """Tags that the model does not see and absent classes of which it is sure, worst first."""
    doubtful = [
        Disagreement(name, "missing" if label == PRESENT else "unexpected", float(probability))
        for name, label, probability in zip(class_names, labels, probabilities, strict=True)
        if (label == PRESENT and probability < missing_below)
        or (label == ABSENT and probability > unexpected_above)
    ]
    return tuple(
        sorted(doubtful, key=lambda tag: tag.score if tag.kind == "missing" else 1.0 - tag.score)
    )
