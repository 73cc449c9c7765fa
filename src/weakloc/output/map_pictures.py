"""Score maps -> arrays in the size of their image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weakloc.geometry import GridTransform
from weakloc.localize.maps import resample, sigmoid
from weakloc.structures import ScoreMaps


def image_maps(maps: ScoreMaps) -> NDArray[np.float32]:
    """(C, height, width): the maps at the pixels of their image, logits as probabilities."""
    width, height = (round(side) for side in maps.transform.image_size)
    values = resample(maps, GridTransform.identity((width, height))).values
    return sigmoid(values) if maps.kind == "logit" else values
