"""One image's maps, probabilities and tags -> its prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from weakloc.data.readers.assembly import LabelVectors, Problems
from weakloc.data.readers.table import table_rows
from weakloc.errors import DataError, did_you_mean
from weakloc.files import ByName
from weakloc.geometry import GridTransform, Size, nearest_cells
from weakloc.localize.crf import CrfSettings, refine_unary
from weakloc.localize.maps import NORMALISATIONS, HeatMap, image_grid, resample
from weakloc.localize.places import (
    Background,
    FoundPeak,
    HeatBox,
    LabelGrid,
    Peak,
    PointMap,
    class_masks,
    disagreements,
    find_boxes,
    labels_of_stack,
    locate_point,
    locate_points,
    score_stack,
    segment,
    voted_boxes,
    whole_image_box,
    without_specks,
)
from weakloc.methods.method import PlaceRules
from weakloc.predictor.views import Proposals, SeenImage
from weakloc.settings import Places, ReaderOptions
from weakloc.structures import (
    PRESENT,
    UNKNOWN,
    Box,
    LabelVector,
    Mask,
    Point,
    Prediction,
    Problem,
    ScoreMaps,
)

REFINED_SIDE = 500  # pixels along the long side at which edges are followed


def find_masks(
    image: SeenImage,
    heat: ScoreMaps,
    classes: Sequence[int],
    behind: ScoreMaps | None,
    locating: Locating,
) -> tuple[Mask, ...]:
    """Of the classes whose maps win pixels; each pixel belongs to one of them or to none.

    `heat` holds the maps of `classes`, `behind` that of a background class, where that is what
    stands against them.
    """
    places, rules = locating.places, locating.rules
    if not classes:
        return ()
    if behind is None:
        thresholds = [locating.thresholds[index] for index in classes]
        maps, background = _against_a_level(heat, thresholds, rules)
    else:  # raw scores compete, with one another and with the background's
        maps = replace(heat, values=np.concatenate([heat.values, behind.values]))
        background = Background("class")
    if places.masks == "crf":
        labels = _by_crf(maps, image, background, rules)
    else:
        labels = segment(maps, image_grid(image.picture.size), background=background)
    won = class_masks(without_specks(labels, min_area=places.min_area))
    masks = [(classes[row], rle) for row, rle in won.items()]
    names, probabilities = locating.class_names, image.probabilities
    return tuple(Mask(names[index], rle, float(probabilities[index])) for index, rle in masks)


def _against_a_level(
    heat: ScoreMaps, thresholds: Sequence[float], rules: PlaceRules
) -> tuple[ScoreMaps, Background]:
    normalised = NORMALISATIONS[rules.threshold_mode](heat.values)
    if rules.background == "power":
        return ScoreMaps(normalised, heat.transform, "cam"), Background("power")
    # Shifted so that one background level stands for every class's own threshold.
    shares = np.asarray(thresholds, dtype=np.float32)
    level = float(shares.mean())
    shifted = ScoreMaps(normalised - shares[:, None, None] + level, heat.transform, "cam")
    return shifted, Background("threshold", level=level)


def _by_crf(
    maps: ScoreMaps, image: SeenImage, background: Background, rules: PlaceRules
) -> LabelGrid:
    """Refined at a bounded size, then each pixel of the image takes the nearest label."""
    grid = image_grid(image.picture.size, long_side=REFINED_SIDE)
    columns, rows = (round(side) for side in grid.grid_size)
    pixels = np.asarray(image.picture.resize((columns, rows)))
    stack = score_stack(resample(maps, grid).values, background)
    likely = log_softmax(stack, axis=0)
    if rules.crf_unary == "shares" and background.mode != "class":
        positive = np.maximum(stack, 1e-3)
        likely = np.log(positive / positive.sum(axis=0))
    labels = labels_of_stack(refine_unary(np.asarray(-likely, np.float32), pixels, CrfSettings()))
    return np.asarray(labels[nearest_cells(labels.shape, image.picture.size)])


@dataclass(frozen=True)
class Locating:
    """What is fixed for all images of a run."""

    class_names: tuple[str, ...]
    thresholds: tuple[float, ...]  # one a class
    places: Places
    rules: PlaceRules


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
    image: SeenImage,
    heat: ScoreMaps,
    classes: Sequence[int],
    tags: LabelVector | None,
    locating: Locating,
    *,
    point_maps: Sequence[tuple[PointMap, PointMap]],
) -> Prediction:
    """What is said of one image but its masks and doubt; `heat` holds the maps of `classes`."""
    names, rules, proposals = locating.class_names, locating.rules, image.proposals
    probabilities: list[float] = image.probabilities.tolist()
    points: list[Point] = []
    boxes: list[Box] = []
    for class_map, own_maps, index in zip(heat.values, point_maps, classes, strict=True):
        name, probability = names[index], probabilities[index]
        is_tagged = tags is not None and bool(tags[index] == PRESENT)
        weight = probability if rules.box_times_class else 1.0
        if proposals is None:
            find = _cutter(class_map, heat.transform, locating, index, weight)
            peaks = _peaks(*own_maps, locating)
        else:
            find = _voter(proposals, image.picture.size, locating, index, weight)
            peaks = _middles(find, locating)
        parts = _parts(find, heat.transform, locating, weight, min_count=int(is_tagged))
        points += [Point(name, peak.x, peak.y, probability, peak.heat) for peak in peaks]
        boxes += [Box(name, part.box, part.score) for part in parts]
    width, height = (int(side) for side in image.picture.size)
    prediction = Prediction(
        image=image.name,
        width=width,
        height=height,
        scores=dict(zip(names, probabilities, strict=True)),
        points=tuple(points),
        boxes=tuple(boxes),
    )
    return prediction if tags is None else _held_against(tags, prediction, image, locating)


def _held_against(
    tags: LabelVector, prediction: Prediction, image: SeenImage, locating: Locating
) -> Prediction:
    """The prediction with its tags, and where the model contradicts them."""
    names, sure = locating.class_names, locating.places.sure
    return replace(
        prediction,
        disagreements=disagreements(
            image.probabilities, tags, names, missing_below=1.0 - sure, unexpected_above=sure
        ),
        extra={"tags": [names[index] for index in np.flatnonzero(tags == PRESENT)]},
    )


def _peaks(first: PointMap, further: PointMap, locating: Locating) -> list[Peak]:
    """Where the points of a class are, the first of several being the only one of one."""
    places, method = locating.places, locating.rules.point_method
    if places.points == 0:
        return []
    hottest = locate_point(first.values, first.transform, method=method, within=first.within)
    if places.points == 1:
        return [hottest]
    return locate_points(
        further.values,
        further.transform,
        max_points=places.points,
        min_distance=places.peak_distance * max(further.transform.image_size),
        method=method,
        within=further.within,
        first=FoundPeak(hottest, first.transform),
    )


BoxFinder: TypeAlias = Callable[..., list[HeatBox]]  # choice and least area -> boxes, best first


def _cutter(
    class_map: HeatMap,
    transform: GridTransform,
    locating: Locating,
    class_index: int,
    weight: float,
) -> BoxFinder:
    rules = locating.rules
    return partial(
        find_boxes,
        class_map,
        transform,
        threshold=locating.thresholds[class_index],
        threshold_mode=rules.threshold_mode,
        max_area=locating.places.max_area,
        min_share=rules.min_share,
        score=rules.box_score,
        class_probability=weight,
    )


def _voter(
    proposals: Proposals, image_size: Size, locating: Locating, class_index: int, weight: float
) -> BoxFinder:
    return partial(
        voted_boxes,
        proposals.boxes,
        weight * proposals.scores[class_index],
        image_size,
        max_area=locating.places.max_area,
        min_share=locating.rules.min_share,
    )


def _middles(find: BoxFinder, locating: Locating) -> list[Peak]:
    """Where the points of a class are that has the boxes of a detector."""
    parts = find(select="all", min_area=locating.places.min_area)[: locating.places.points]
    return [
        Peak((left + right) / 2, (top + bottom) / 2, part.score)
        for part in parts
        for left, top, right, bottom in [part.box]
    ]


def _parts(
    find: BoxFinder,
    transform: GridTransform,
    locating: Locating,
    weight: float,
    *,
    min_count: int,
) -> list[HeatBox]:
    """The parts of the image that get a box of a class."""
    places, rules = locating.places, locating.rules
    if rules.boxes == "none":
        return []
    parts = find(select=rules.boxes, min_area=places.min_area)
    if len(parts) < min_count:  # the largest part whatever its size, else the whole image
        parts = find(select="largest", min_area=0.0, max_area=1.0, min_share=0.0)
        parts = parts or [whole_image_box(transform, weight)]
    return parts


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
    problems, shared = Problems(), LabelVectors(class_names)
    vectors: dict[str, LabelVector] = {}
    for row in table_rows(path, ReaderOptions(), problems):
        for name in sorted(row.claim.names - shared.class_index.keys()):
            raise DataError(
                f"the run has no class {name!r}",
                location=str(path.with_name(row.location)),
                remedy=did_you_mean(name, class_names),
            )
        vectors[row.image] = shared.of(row.claim)
    return Tags(vectors, len(class_names)), list(problems.listed)
