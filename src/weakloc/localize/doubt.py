"""What is known of an image's localisation in, one number in [0, 1] to sort a review by out.

    doubt of a class = 1 - (1 - tag doubt) * (1 - place doubt)
    doubt of an image = the greatest of its classes

so an image is doubtful if any tag is likely wrong or any place is. The tag doubt is 1 - p for a
class tagged present, p for one tagged absent, and 1 - |2p - 1| where nothing is known. The place
doubt, for classes that were localised, is the mean of what could be measured of: the entropy of
the heat, the instability of the box over thresholds, and over views (scales and flips).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from weakloc.geometry import BoxLTRB, box_iou
from weakloc.localize.maps import HeatMap, minmax
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, Disagreement, LabelVector


@dataclass(frozen=True, slots=True)
class PlaceEvidence:
    """What was measured of one class's place, each in [0, 1]; None was not measured."""

    entropy: float | None = None
    threshold_instability: float | None = None
    view_instability: float | None = None


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


def threshold_instability(boxes: Sequence[BoxLTRB | None]) -> float | None:
    """1 - the mean IoU of the boxes at neighbouring thresholds; None for fewer than two."""
    if len(boxes) < 2:
        return None
    return 1.0 - float(np.mean([_iou(first, second) for first, second in pairwise(boxes)]))


def view_instability(box: BoxLTRB | None, boxes_of_views: Sequence[BoxLTRB | None]) -> float | None:
    """1 - the mean IoU of the final box with each view's; None without views."""
    if not boxes_of_views:
        return None
    return 1.0 - float(np.mean([_iou(box, of_view) for of_view in boxes_of_views]))


def tag_doubts(
    probabilities: NDArray[np.floating], labels: LabelVector | None = None
) -> NDArray[np.float64]:
    """How far each class's probability is from its tag, or from certainty where there is none."""
    certain = np.clip(np.asarray(probabilities, dtype=np.float64), 0.0, 1.0)
    tags = np.full(certain.shape, UNKNOWN) if labels is None else labels
    undecided = 1.0 - np.abs(2.0 * certain - 1.0)
    return np.where(tags == PRESENT, 1.0 - certain, np.where(tags == ABSENT, certain, undecided))


def place_doubt(evidence: PlaceEvidence) -> float:
    """The mean of what was measured; 0 if nothing was."""
    instabilities = evidence.threshold_instability, evidence.view_instability
    measured = [value for value in (evidence.entropy, *instabilities) if value is not None]
    return float(np.mean(measured)) if measured else 0.0


def doubt(
    probabilities: NDArray[np.floating],
    places: dict[int, PlaceEvidence],
    *,
    labels: LabelVector | None = None,
) -> float:
    """The doubt of one image; `places` holds the localised classes by index. 0 without classes."""
    wrong_tag = tag_doubts(probabilities, labels)
    wrong_place = np.zeros_like(wrong_tag)
    for class_index, evidence in places.items():
        wrong_place[class_index] = place_doubt(evidence)
    either = 1.0 - (1.0 - wrong_tag) * (1.0 - wrong_place)
    return float(either.max(initial=0.0))


def disagreements(
    probabilities: NDArray[np.floating],
    labels: LabelVector,
    class_names: Sequence[str],
    *,
    missing_below: float = 0.1,
    unexpected_above: float = 0.9,
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


def _iou(first: BoxLTRB | None, second: BoxLTRB | None) -> float:
    """1 for two times no box, 0 for once."""
    if first is None or second is None:
        return float(first is second)
    return box_iou(first, second)
