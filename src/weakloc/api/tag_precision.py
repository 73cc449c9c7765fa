"""How well class scores rank the images by their tags."""

from __future__ import annotations

import numpy as np

from weakloc.geometry import FloatArray
from weakloc.localize.rescoring import LabelMatrix
from weakloc.metrics.average_precision import average_precision


def mean_average_precision(scores: FloatArray, labels: LabelMatrix) -> float:
    """Over the classes that some image shows; NaN where there is none."""
    found = [
        average_precision(scores[:, index], labels[:, index]) for index in range(labels.shape[1])
    ]
    defined = [value for value in found if value is not None]
    return float(np.mean(defined)) if defined else float("nan")
