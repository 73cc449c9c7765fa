"""Tags that always meet, and maps of two classes that light up the same place.

A network that has only seen trains on rails may look at the rails: its score is right and its
box is wrong, and no score shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from weakloc.output.report_content import CoarseHeat

ALWAYS_SHARE = 0.9  # of a class's images that another class is in, from which it is a warning
FEWEST_IMAGES = 5
SAME_PLACE_OVERLAP = 0.6
MOST_WARNINGS = 12  # of each kind


@dataclass(frozen=True)
class ClassPair:
    """Two classes that cannot be told apart by `share` of what was counted."""

    first: str
    second: str
    share: float
    num_images: int
    num_together: int


def tag_warnings(run: Mapping[str, Any] | None) -> tuple[ClassPair, ...]:
    """Classes that hardly come without another, in the tags that were trained on."""
    labels = (run or {}).get("labels")
    names = (run or {}).get("class_names")
    if not isinstance(labels, Mapping) or not isinstance(names, list):
        return ()
    together = np.asarray(labels.get("co_occurrence", ()), dtype=np.int64)
    if together.shape != (len(names), len(names)):
        return ()
    num_images = int(labels.get("num_images", 0))
    found = []
    for first, second in zip(*np.nonzero(together), strict=True):
        own, other = int(together[first, first]), int(together[second, second])
        if first == second or own < FEWEST_IMAGES or other >= ALWAYS_SHARE * num_images:
            continue  # a class that is nearly everywhere tells nothing
        share = int(together[first, second]) / own
        if share >= ALWAYS_SHARE:
            pair = str(names[first]), str(names[second])
            found.append(ClassPair(*pair, share, own, int(together[first, second])))
    return _worst([pair for pair in found if not _is_said(pair, found)])


def _is_said(pair: ClassPair, pairs: list[ClassPair]) -> bool:
    """Whether the same two classes are named the other way round, and more strongly or first."""
    names = pair.second, pair.first
    other = next((each for each in pairs if (each.first, each.second) == names), None)
    return other is not None and (other.share, pair.first) > (pair.share, other.first)


def map_warnings(heats: Iterable[Mapping[str, CoarseHeat]]) -> tuple[ClassPair, ...]:
    """Pairs of classes whose maps overlap where both are shown.

    The overlap of two maps is the sum of their cells' lesser heat over that of the greater.
    """
    overlaps: dict[tuple[str, str], list[float]] = {}
    for heat in heats:
        for first, second in combinations(sorted(heat), 2):
            overlap = map_overlap(heat[first], heat[second])
            overlaps.setdefault((first, second), []).append(overlap)
    found = [
        ClassPair(*pair, float(np.mean(values)), len(values), len(values))
        for pair, values in overlaps.items()
        if len(values) >= FEWEST_IMAGES and float(np.mean(values)) >= SAME_PLACE_OVERLAP
    ]
    return _worst(found)


def map_overlap(first: CoarseHeat, second: CoarseHeat) -> float:
    if first.shape != second.shape:
        return 0.0
    union = float(np.maximum(first, second).sum(dtype=np.int64))
    return float(np.minimum(first, second).sum(dtype=np.int64)) / union if union else 0.0


def _worst(found: list[ClassPair]) -> tuple[ClassPair, ...]:
    ranked = sorted(found, key=lambda item: (-item.share, item.first, item.second))
    return tuple(ranked[:MOST_WARNINGS])
