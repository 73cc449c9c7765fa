"""One image's maps, probabilities and tags -> its prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.config import PredictSettings
from weakloc.localize.boxes import BoxScore, find_at_least_one_box, find_boxes
from weakloc.localize.doubt import disagreements
from weakloc.localize.points import PointMethod, locate_point, locate_points
from weakloc.predictor.refining import find_masks
from weakloc.predictor.streaming import SeenImage
from weakloc.structures import (
    PRESENT,
    UNKNOWN,
    Box,
    Disagreement,
    LabelVector,
    Mask,
    Point,
    Prediction,
    ScoreMaps,
)

CRUMB = 0.02  # share of a class's heat


@dataclass(frozen=True)
class Locating:
    """What is fixed for all images of a run."""

    class_names: tuple[str, ...]
    thresholds: tuple[float, ...]  # one a class
    settings: PredictSettings


def wanted_classes(
    probabilities: NDArray[np.float64], tags: LabelVector | None, settings: PredictSettings
) -> list[int]:
    """The classes that get places: those the tags say, and the likely ones where no tag speaks."""
    likely = probabilities >= settings.min_score
    likely[np.argsort(-probabilities, kind="stable")[: settings.top]] = True
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
    settings, method = how.settings, _point_method(how.settings)
    if settings.points == 0:
        return []
    if settings.points == 1:
        peaks = [locate_point(heat.values[place], heat.transform, method=method)]
    else:
        peaks = locate_points(
            heat.values[place],
            heat.transform,
            max_points=settings.points,
            min_distance=settings.peak_distance * max(seen.size),
            method="arg_max" if method == "plateau" else method,
        )
    name, score = how.class_names[class_index], float(seen.probabilities[class_index])
    return [Point(name, peak.x, peak.y, score, peak.heat) for peak in peaks]


def _point_method(settings: PredictSettings) -> PointMethod:
    """Cells are judged one by one: the hottest may be a speck."""
    if settings.point_method != "auto":
        return settings.point_method
    return "densest" if settings.localiser == "cells" else "arg_max"


def _boxes_of(
    heat: ScoreMaps,
    place: int,
    class_index: int,
    seen: SeenImage,
    how: Locating,
    *,
    at_least_one: bool,
) -> list[Box]:
    settings = how.settings
    if settings.boxes == "none":
        return []
    probability = float(seen.probabilities[class_index]) if settings.box_times_class else 1.0
    found = find_boxes(
        heat.values[place],
        heat.transform,
        threshold=how.thresholds[class_index],
        threshold_mode=settings.threshold_mode,
        select=settings.boxes,
        min_area=settings.min_area,
        max_area=settings.max_area,
        min_share=least_share(settings),
        overlap=settings.overlap,
        score=_box_score(settings),
        class_probability=probability,
    )
    if not found and at_least_one:
        found = [
            find_at_least_one_box(
                heat.values[place],
                heat.transform,
                threshold=how.thresholds[class_index],
                threshold_mode=settings.threshold_mode,
                score=_box_score(settings),
                class_probability=probability,
            )
        ]
    return [Box(how.class_names[class_index], item.box, item.score) for item in found]


def _box_score(settings: PredictSettings) -> BoxScore:
    """Cells are hot all over an object and its parts: then the larger part is the better box."""
    if settings.box_score != "auto":
        return settings.box_score
    return "share" if settings.localiser == "cells" else "mean"


def least_share(settings: PredictSettings) -> float:
    """Cells are divided finely; crumbs are no objects."""
    if settings.min_share is not None:
        return settings.min_share
    return CRUMB if settings.localiser == "cells" else 0.0


def _masks_of(
    seen: SeenImage, heat: ScoreMaps, classes: Sequence[int], how: Locating
) -> tuple[Mask, ...]:
    thresholds = [how.thresholds[index] for index in classes]
    found = find_masks(seen, heat, thresholds, how.settings)
    return tuple(
        Mask(
            how.class_names[classes[mask.class_index]],
            mask.rle,
            float(seen.probabilities[classes[mask.class_index]]),
        )
        for mask in found
    )


def _disagreements(seen: SeenImage, tags: LabelVector, how: Locating) -> tuple[Disagreement, ...]:
    sure = how.settings.sure
    return disagreements(
        seen.probabilities,
        tags,
        how.class_names,
        missing_below=1.0 - sure,
        unexpected_above=sure,
    )
