"""The maps in which the places of an image's classes are looked for.

Fused score maps as they are, weighed by objectness, or the heat of a beam search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from weakloc.config import PredictSettings
from weakloc.localize.maps import minmax, resample
from weakloc.localize.objectness import (
    axis_projection,
    bipartition,
    center_prior,
    feature_distance,
    fuse_product,
    principal_axis,
)
from weakloc.predictor.map_source import Floats
from weakloc.predictor.streaming import SeenImage
from weakloc.structures import ScoreMaps

HeatMaker: TypeAlias = Callable[[SeenImage, Sequence[int], PredictSettings], ScoreMaps]


def fused_maps(seen: SeenImage, classes: Sequence[int], settings: PredictSettings) -> ScoreMaps:
    """The maps of all views as one; weighed where the settings say so."""
    maps = seen.fused(classes, settings)
    if settings.objectness == "none" and not settings.center_prior:
        return maps
    heat = minmax(maps.values)
    if settings.objectness != "none":
        heat = fuse_product(heat, _objectness(seen, maps, settings))
    if settings.center_prior:
        heat = fuse_product(heat, center_prior(maps.transform))
    return ScoreMaps(heat, maps.transform, "cam")


def maps_in_words(settings: PredictSettings) -> str:
    """What thresholds are for: those of other maps do not fit."""
    factors: list[str] = [settings.localiser]
    if settings.localiser != "beam_search" and settings.objectness != "none":
        factors.append(f"objectness {settings.objectness} of stride {settings.objectness_stride}")
    if settings.localiser != "beam_search" and settings.center_prior:
        factors.append("center prior")
    return " x ".join(factors)


def _objectness(seen: SeenImage, maps: ScoreMaps, settings: PredictSettings) -> Floats:
    """What stands out in the features of each view of the whole image, averaged."""
    stride = settings.objectness_stride
    found = []
    for view in seen.views:
        if view.view.tile is None and stride in view.features:
            features = view.features[stride]
            values = OBJECTNESS[settings.objectness](features.values)
            alone = ScoreMaps(values[None], features.transform, "cam")
            found.append(resample(alone, maps.transform).values[0])
    if not found:
        raise ValueError(f"the source gave no features of stride {stride}")
    return np.asarray(np.mean(found, axis=0), dtype=np.float32)


def _axis(features: Floats) -> Floats:
    return axis_projection(features, principal_axis([features]))


OBJECTNESS: dict[str, Callable[[Floats], Floats]] = {
    "distance": feature_distance,
    "axis": _axis,
    "cut": bipartition,
}
