"""One image's maps, probabilities and tags -> its prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weakloc.data.readers.assembly import LabelClaim, Problems, ReaderOptions
from weakloc.data.readers.table_rows import read_rows
from weakloc.errors import DataError, did_you_mean
from weakloc.files import ByName
from weakloc.geometry import GridTransform
from weakloc.localize.boxes import BoxScore, find_at_least_one_box, find_boxes
from weakloc.localize.crf import CrfSettings, dense_crf
from weakloc.localize.doubt import disagreements
from weakloc.localize.maps import NORMALISATIONS, Maps, image_grid, resample
from weakloc.localize.masks import (
    Background,
    ClassMask,
    LabelGrid,
    class_masks,
    labels_of_stack,
    score_stack,
    segment,
    without_specks,
)
from weakloc.localize.pixel_affinity import PixelAffinitySettings, refine_by_pixel_affinity
from weakloc.localize.points import PointMethod, locate_point, locate_points
from weakloc.predictor.views import SeenImage
from weakloc.settings import Cut, Places
from weakloc.structures import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    Box,
    Disagreement,
    LabelVector,
    Mask,
    Point,
    Prediction,
    Problem,
    ScoreMaps,
)

REFINED_SIDE = 500  # pixels along the long side at which edges are followed


def find_masks(
    seen: SeenImage,
    heat: ScoreMaps,
    thresholds: Sequence[float],
    places: Places,
) -> list[ClassMask]:
    """Masks of the maps that win pixels; each pixel belongs to one of them or to none.

    `thresholds` are one a map of `heat`, and `class_index` of a mask is the place of its map.
    """
    if places.masks == "none" or not thresholds:
        return []
    shares = np.asarray(thresholds, dtype=np.float32)
    level = float(shares.mean())
    normalised = NORMALISATIONS[places.threshold_mode](heat.values)
    # Shifted so that one background level stands for every class's own threshold.
    shifted = ScoreMaps(normalised - shares[:, None, None] + level, heat.transform, "cam")
    background = Background("threshold", level=level)
    labels = _LABELLING[places.masks](shifted, seen, background)
    return class_masks(without_specks(labels, min_area=places.min_area))


def _by_threshold(maps: ScoreMaps, seen: SeenImage, background: Background) -> LabelGrid:
    return segment(maps, _all_present(maps), image_grid(seen.size), background=background)


def _by_crf(maps: ScoreMaps, seen: SeenImage, background: Background) -> LabelGrid:
    def refine(stack: Maps, pixels: NDArray[np.uint8]) -> Maps:
        positive = np.maximum(stack, 1e-3)
        shares = np.asarray(positive / positive.sum(axis=0), dtype=np.float32)
        return dense_crf(shares, pixels, CrfSettings())

    return _refined(maps, seen, background, refine)


def _by_pixel_affinity(maps: ScoreMaps, seen: SeenImage, background: Background) -> LabelGrid:
    def refine(stack: Maps, pixels: NDArray[np.uint8]) -> Maps:
        return np.asarray(refine_by_pixel_affinity(stack, pixels, PixelAffinitySettings()))

    return _refined(maps, seen, background, refine)


_LABELLING = {"threshold": _by_threshold, "crf": _by_crf, "par": _by_pixel_affinity}


def _refined(
    maps: ScoreMaps,
    seen: SeenImage,
    background: Background,
    refine: Callable[[Maps, NDArray[np.uint8]], Maps],
) -> LabelGrid:
    """Refined at a bounded size, then each pixel of the image takes the nearest label."""
    grid = image_grid(seen.size, long_side=REFINED_SIDE)
    columns, rows = (round(side) for side in grid.grid_size)
    pixels = np.asarray(seen.picture.resize((columns, rows)))
    present = _all_present(maps)
    stack = refine(score_stack(resample(maps, grid).values, present, background), pixels)
    labels = labels_of_stack(stack, present, background)
    return _enlarged(labels, grid)


def _enlarged(labels: LabelGrid, grid: GridTransform) -> LabelGrid:
    width, height = (round(side) for side in grid.image_size)
    rows = np.minimum((np.arange(height) + 0.5) * labels.shape[0] / height, labels.shape[0] - 1)
    columns = np.minimum((np.arange(width) + 0.5) * labels.shape[1] / width, labels.shape[1] - 1)
    return np.asarray(labels[rows.astype(np.intp)[:, None], columns.astype(np.intp)[None, :]])


def _all_present(maps: ScoreMaps) -> NDArray[np.bool_]:
    return np.ones(len(maps.values), dtype=np.bool_)


CRUMB = 0.02  # share of a class's heat


@dataclass(frozen=True)
class Locating:
    """What is fixed for all images of a run."""

    class_names: tuple[str, ...]
    thresholds: tuple[float, ...]  # one a class
    places: Places
    localiser: str


def wanted_classes(
    probabilities: NDArray[np.float64], tags: LabelVector | None, places: Places
) -> list[int]:
    """The classes that get places: those the tags say, and the likely ones where no tag speaks."""
    likely = probabilities >= places.min_score
    likely[np.argsort(-probabilities, kind="stable")[: places.top]] = True
    chosen = likely
    if tags is not None:
        chosen = (tags == PRESENT) | ((tags == UNKNOWN) & likely)
    return [int(index) for index in np.flatnonzero(chosen)]


def name_places(
    seen: SeenImage,
    heat: ScoreMaps,
    classes: Sequence[int],
    tags: LabelVector | None,
    how: Locating,
) -> Prediction:
    """All of the prediction of one image but its doubt; `heat` holds the maps of `classes`."""
    width, height = (int(side) for side in seen.size)
    points: list[Point] = []
    boxes: list[Box] = []
    for place, class_index in enumerate(classes):
        points += _points_of(heat, place, class_index, seen, how)
        is_tagged = tags is not None and bool(tags[class_index] == PRESENT)
        boxes += _boxes_of(heat, place, class_index, seen, how, at_least_one=is_tagged)
    return Prediction(
        image=seen.name,
        width=width,
        height=height,
        scores=dict(zip(how.class_names, seen.probabilities.tolist(), strict=True)),
        points=tuple(points),
        boxes=tuple(boxes),
        masks=_masks_of(seen, heat, classes, how),
        disagreements=() if tags is None else _disagreements(seen, tags, how),
        extra={} if tags is None else {"tags": _tagged(tags, how)},
    )


def _tagged(tags: LabelVector, how: Locating) -> list[str]:
    return [how.class_names[index] for index in np.flatnonzero(tags == PRESENT)]


def _points_of(
    heat: ScoreMaps, place: int, class_index: int, seen: SeenImage, how: Locating
) -> list[Point]:
    places, method = how.places, _point_method(how)
    if places.points == 0:
        return []
    if places.points == 1:
        peaks = [locate_point(heat.values[place], heat.transform, method=method)]
    else:
        peaks = locate_points(
            heat.values[place],
            heat.transform,
            max_points=places.points,
            min_distance=places.peak_distance * max(seen.size),
            method="arg_max" if method == "plateau" else method,
        )
    name, score = how.class_names[class_index], float(seen.probabilities[class_index])
    return [Point(name, peak.x, peak.y, score, peak.heat) for peak in peaks]


def _point_method(how: Locating) -> PointMethod:
    """Cells are judged one by one: the hottest may be a speck."""
    if how.places.point_method != "auto":
        return how.places.point_method
    return "densest" if how.localiser == "cells" else "arg_max"


def _boxes_of(
    heat: ScoreMaps,
    place: int,
    class_index: int,
    seen: SeenImage,
    how: Locating,
    *,
    at_least_one: bool,
) -> list[Box]:
    places = how.places
    if places.boxes == "none":
        return []
    probability = float(seen.probabilities[class_index]) if places.box_times_class else 1.0
    found = find_boxes(
        heat.values[place],
        heat.transform,
        threshold=how.thresholds[class_index],
        threshold_mode=places.threshold_mode,
        select=places.boxes,
        min_area=places.min_area,
        max_area=places.max_area,
        min_share=least_share(places, how.localiser),
        overlap=places.overlap,
        score=_box_score(how),
        class_probability=probability,
    )
    if not found and at_least_one:
        found = [
            find_at_least_one_box(
                heat.values[place],
                heat.transform,
                threshold=how.thresholds[class_index],
                threshold_mode=places.threshold_mode,
                score=_box_score(how),
                class_probability=probability,
            )
        ]
    return [Box(how.class_names[class_index], item.box, item.score) for item in found]


def _box_score(how: Locating) -> BoxScore:
    """Cells are hot all over an object and its parts: then the larger part is the better box."""
    if how.places.box_score != "auto":
        return how.places.box_score
    return "share" if how.localiser == "cells" else "mean"


def least_share(cut: Cut, localiser: str) -> float:
    """Cells are divided finely; crumbs are no objects."""
    if cut.min_share is not None:
        return cut.min_share
    return CRUMB if localiser == "cells" else 0.0


def _masks_of(
    seen: SeenImage, heat: ScoreMaps, classes: Sequence[int], how: Locating
) -> tuple[Mask, ...]:
    thresholds = [how.thresholds[index] for index in classes]
    found = find_masks(seen, heat, thresholds, how.places)
    return tuple(
        Mask(
            how.class_names[classes[mask.class_index]],
            mask.rle,
            float(seen.probabilities[classes[mask.class_index]]),
        )
        for mask in found
    )


def _disagreements(seen: SeenImage, tags: LabelVector, how: Locating) -> tuple[Disagreement, ...]:
    sure = how.places.sure
    return disagreements(
        seen.probabilities,
        tags,
        how.class_names,
        missing_below=1.0 - sure,
        unexpected_above=sure,
    )


class Tags:
    """Label vectors by image name; an image that no line names is unknown in every class.

    Tables often name images from another folder than the one that is predicted.
    """

    def __init__(self, vectors: dict[str, LabelVector], num_classes: int) -> None:
        self._num_tagged = len(vectors)
        self._vectors = ByName(vectors)
        self._nothing_known = np.full(num_classes, UNKNOWN, dtype=np.int8)

    def __len__(self) -> int:
        return self._num_tagged

    def of(self, image_name: str) -> LabelVector:
        vector = self._vectors.get(image_name)
        return self._nothing_known if vector is None else vector


def read_tags(path: Path, class_names: Sequence[str]) -> tuple[Tags, list[Problem]]:
    """Any table that `weakloc train --labels` takes; image names as in the predictions.

    A class that the model does not know is an error: its tag could never be honoured.
    """
    problems = Problems()
    index = {name: number for number, name in enumerate(class_names)}
    shared: dict[LabelClaim, LabelVector] = {}
    vectors: dict[str, LabelVector] = {}
    for row in read_rows(path, ReaderOptions(), problems).rows:
        if row.claim not in shared:
            shared[row.claim] = _vector(row.claim, index, where=f"{path}, line {row.line}")
        vectors[row.image.replace("\\", "/").removeprefix("./")] = shared[row.claim]
    return Tags(vectors, len(class_names)), list(problems.listed)


def _vector(claim: LabelClaim, index: dict[str, int], *, where: str) -> LabelVector:
    vector = np.full(len(index), claim.rest, dtype=np.int8)
    states = ((claim.absent, ABSENT), (claim.unknown, UNKNOWN), (claim.present, PRESENT))
    for names, state in states:
        for name in names:
            if name not in index:
                raise DataError(
                    f"the run has no class {name!r}", where=where, remedy=did_you_mean(name, index)
                )
            vector[index[name]] = state
    return vector
