"""What is known of an image's localisation in, one number in [0, 1] to sort a review by out.

    doubt of a class = 1 - (1 - tag doubt) * (1 - place doubt)
    doubt of an image = the greatest of its classes

so an image is doubtful if any tag is likely wrong or any place is. The tag doubt is 1 - p for a
class tagged present, p for one tagged absent, and 1 - |2p - 1| where nothing is known. The place
doubt, for classes that were localised, is the mean of what could be measured of: the entropy of
the heat, the instability of the box over thresholds, and over views (scales and flips).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from weakloc.geometry import BoxLTRB, box_iou
from weakloc.localize.maps import HeatMap, minmax
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, Disagreement, LabelVector


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
