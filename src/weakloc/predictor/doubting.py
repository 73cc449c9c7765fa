"""How far one image's places can be trusted: what is measured for `localize.doubt`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weakloc.geometry import BoxLTRB
from weakloc.localize.boxes import HeatMap, ThresholdMode, find_boxes
from weakloc.localize.doubt import (
    PlaceEvidence,
    doubt,
    heat_entropy,
    threshold_instability,
    view_instability,
)
from weakloc.localize.maps import image_grid, resample
from weakloc.predictor.streaming import SeenImage
from weakloc.structures import LabelVector, ScoreMaps

JUDGED_SIDE = 64  # cells along the long side: enough to see a box move
THRESHOLD_STEPS = (-0.1, 0.0, 0.1)


def doubt_of(
    seen: SeenImage,
    heat: ScoreMaps,
    classes: Sequence[int],
    tags: LabelVector | None,
    *,
    thresholds: Sequence[float],
    threshold_mode: ThresholdMode,
) -> float:
    """The doubt of one image whose `classes` have the maps in `heat`, in that order."""
    grid = image_grid(seen.size, long_side=JUDGED_SIDE)
    small = resample(heat, grid)
    views = _view_maps(seen, classes, small)
    places = {
        index: _evidence(
            small, [view.values[row] for view in views], row, thresholds[index], threshold_mode
        )
        for row, index in enumerate(classes)
    }
    return doubt(seen.probabilities, places, labels=tags)


def _view_maps(seen: SeenImage, classes: Sequence[int], small: ScoreMaps) -> list[ScoreMaps]:
    """The maps of each view of the whole image, where there are several."""
    whole = [view.maps for view in seen.views if view.view.tile is None]
    if len(whole) < 2 or not classes:
        return []
    return [
        resample(ScoreMaps(maps.values[list(classes)], maps.transform, maps.kind), small.transform)
        for maps in whole
    ]


def _evidence(
    small: ScoreMaps,
    views: Sequence[HeatMap],
    row: int,
    threshold: float,
    threshold_mode: ThresholdMode,
) -> PlaceEvidence:
    def largest(heat: HeatMap, share: float) -> BoxLTRB | None:
        found = find_boxes(
            heat,
            small.transform,
            threshold=share,
            threshold_mode=threshold_mode,
            select="largest",
            min_area=0.0,
        )
        return found[0].box if found else None

    heat = small.values[row]
    shares = np.clip([threshold + step for step in THRESHOLD_STEPS], 0.0, 0.95)
    at_thresholds = [largest(heat, float(share)) for share in shares]
    of_views = [largest(view, threshold) for view in views]
    return PlaceEvidence(
        entropy=heat_entropy(heat),
        threshold_instability=threshold_instability(at_thresholds),
        view_instability=view_instability(at_thresholds[1], of_views),
    )
