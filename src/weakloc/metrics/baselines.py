"""One case in; what a trivial answer would have been in its place out.

A baseline keeps the class scores and heats, so that it differs from the run in the places alone,
and goes through the same accumulators. `chance` also gives up the scores: with grouped ties its
average precision is the frequency of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np

from weakloc.geometry import BoxLTRB, FloatArray, PointXY, clip_box
from weakloc.metrics.case import Case, ClassMap
from weakloc.metrics.uncertainty import image_key
from weakloc.rle import RunLengths, encode_mask
from weakloc.structures import Box, Mask, Point, Prediction

Placer: TypeAlias = Callable[[Prediction, np.random.Generator], tuple[PointXY, BoxLTRB]]
MapMaker: TypeAlias = Callable[[int, int, np.random.Generator], FloatArray]

CENTER_SHARE = 0.5  # of the image's area, in the central box
_GAUSSIAN_SHARE = 0.25  # of each side, in the standard deviation
_RANDOM_CELLS = 7  # of each side, in the random map: the coarseness of a usual network


def baseline_case(name: str, case: Case) -> Case:
    """The same image with the baseline's answer, which is measured without resamples."""
    prediction = baseline_prediction(name, case.prediction)
    maps = []
    for class_map, draw in zip(case.maps, case.map_draws, strict=True) if name in MAPS else ():
        if name == "random":  # noise differs from image to image
            trivial = _trivial_map(name, class_map.scores.shape, image_key(draw.image))
        else:
            trivial = _kept_map(name, class_map.scores.shape, 0)
        maps.append(replace(trivial, class_index=class_map.class_index))
    return replace(case, prediction=prediction, maps=tuple(maps), resamples=0)


def _trivial_map(name: str, shape: tuple[int, ...], seed: int) -> ClassMap:
    height, width = shape
    return ClassMap(0, MAPS[name](width, height, np.random.default_rng(seed)))


_kept_map = lru_cache(maxsize=2)(_trivial_map)  # center and full image


def baseline_prediction(name: str, prediction: Prediction) -> Prediction:
    """The prediction with one point, box and mask a class at the baseline's place."""
    if name == "chance":
        return replace(prediction, scores=dict.fromkeys(prediction.scores, 0.5))
    random = np.random.default_rng(image_key(prediction.image))
    point, box = PLACES[name](prediction, random)
    scores, heats = _best_scores_and_heats(prediction)
    masked = dict.fromkeys(mask.class_name for mask in prediction.masks)
    size = prediction.width, prediction.height
    return replace(
        prediction,
        points=tuple(Point(c, *point, score, heats.get(c)) for c, score in scores.items()),
        boxes=tuple(Box(c, box, score) for c, score in scores.items()),
        masks=tuple(Mask(c, rectangle_rle(box, size), scores[c]) for c in masked),
    )


def _best_scores_and_heats(prediction: Prediction) -> tuple[dict[str, float], dict[str, float]]:
    """By class: its score, else the best score of any of its places; the greatest heat."""
    scores: dict[str, float] = {}
    heats: dict[str, float] = {}
    scored: list[Point | Box | Mask] = [*prediction.points]
    scored += [*prediction.boxes, *prediction.masks]
    for part in scored:
        scores[part.class_name] = max(part.score, scores.get(part.class_name, part.score))
    for point in prediction.points:
        if point.heat is not None:
            heats[point.class_name] = max(point.heat, heats.get(point.class_name, point.heat))
    return {**scores, **prediction.scores}, heats


def rectangle_rle(box: BoxLTRB, image_size: tuple[int, int]) -> RunLengths:
    """Run lengths of the pixels whose centres lie in a box."""
    left, top, right, bottom = map(round, clip_box(box, image_size))
    mask = np.zeros(image_size[::-1], dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return encode_mask(mask)


def middle_place(
    prediction: Prediction, _: np.random.Generator, *, share: float
) -> tuple[PointXY, BoxLTRB]:
    """The middle of the image, and the box around it with that share of the image's area."""
    width, height = prediction.width, prediction.height
    return (width / 2, height / 2), middle_box(width, height, side=share**0.5)


def middle_box(width: int, height: int, *, side: float) -> BoxLTRB:
    """Around the middle of the image, with that share of each of its sides."""
    left, top = (1.0 - side) / 2 * width, (1.0 - side) / 2 * height
    return left, top, width - left, height - top


def random_place(prediction: Prediction, random: np.random.Generator) -> tuple[PointXY, BoxLTRB]:
    """A uniform point, and a box between two uniform points."""
    x, y = random.random((2, 3)) * np.array([[prediction.width], [prediction.height]])
    left, right = sorted(x[1:].tolist())
    top, bottom = sorted(y[1:].tolist())
    return (float(x[0]), float(y[0])), (left, top, right, bottom)


def center_map(width: int, height: int, _: np.random.Generator) -> FloatArray:
    """A Gaussian in the middle."""
    across = ((np.arange(width) + 0.5) / width - 0.5) / _GAUSSIAN_SHARE
    down = ((np.arange(height) + 0.5) / height - 0.5) / _GAUSSIAN_SHARE
    return np.exp(-0.5 * (down[:, None] ** 2 + across**2))


def full_map(width: int, height: int, _: np.random.Generator) -> FloatArray:
    """One everywhere but in a corner, without which the map would be constant and hold no box."""
    heat = np.ones((height, width))
    heat[0, 0] = 0.0
    return heat


def random_map(width: int, height: int, random: np.random.Generator) -> FloatArray:
    """Coarse uniform noise, linearly interpolated."""
    coarse = random.random((_RANDOM_CELLS, _RANDOM_CELLS))
    return np.asarray(_interpolation(height) @ coarse @ _interpolation(width).T)


def _interpolation(size: int) -> FloatArray:
    """What each cell adds to each pixel: (size, cells)."""
    pixels = (np.arange(size) + 0.5) * _RANDOM_CELLS / size
    cells = np.arange(_RANDOM_CELLS) + 0.5
    return np.stack([np.interp(pixels, cells, unit) for unit in np.eye(_RANDOM_CELLS)], axis=1)


PLACES: Mapping[str, Placer] = {
    "center": partial(middle_place, share=CENTER_SHARE),
    "full_image": partial(middle_place, share=1.0),
    "random": random_place,
}
MAPS: Mapping[str, MapMaker] = {"center": center_map, "full_image": full_map, "random": random_map}
BASELINES: tuple[str, ...] = (*PLACES, "chance")
