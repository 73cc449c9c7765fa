"""What the tags of the training images say: counts per class, and which classes meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.structures import ABSENT, PRESENT, UNKNOWN, Problem, Sample

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class LabelStatistics:
    """Counts over the training images; `co_occurrence[i, j]` counts images with both i and j."""

    num_images: int
    present: Counts  # (C,)
    absent: Counts  # (C,)
    unknown: Counts  # (C,)
    co_occurrence: Counts  # (C, C), the diagonal is `present`

    @property
    def is_single_label(self) -> bool:
        """Whether every image has exactly one present class and all others absent."""
        pairs = int(self.co_occurrence.sum() - self.present.sum())
        one_each = int(self.present.sum()) == self.num_images
        return one_each and pairs == 0 and not self.unknown.any()


def count_labels(samples: Sequence[Sample], num_classes: int) -> LabelStatistics:
    labels = np.array([sample.labels for sample in samples], dtype=np.int8)
    labels = labels.reshape(-1, num_classes)
    present = (labels == PRESENT).astype(np.int64)
    return LabelStatistics(
        num_images=len(samples),
        present=present.sum(axis=0),
        absent=(labels == ABSENT).sum(axis=0).astype(np.int64),
        unknown=(labels == UNKNOWN).sum(axis=0).astype(np.int64),
        co_occurrence=present.T @ present,
    )


def odd_classes(statistics: LabelStatistics, class_names: Sequence[str]) -> tuple[Problem, ...]:
    """The classes from whose tags little can be learned; training goes on with them."""
    return tuple(
        Problem("class without contrast", f"class {name!r} {reason}", "training images")
        for index, name in enumerate(class_names)
        if (reason := _oddity(statistics, index))
    )


def _oddity(statistics: LabelStatistics, index: int) -> str | None:
    if statistics.unknown[index] == statistics.num_images:
        return "is unknown on every image: nothing will be learned for it"
    if statistics.present[index] == 0:
        return "is on no image: its scores will only say 'absent'"
    if statistics.absent[index] == 0 and len(statistics.present) > 1:
        return "is absent from no image: its scores will only say 'present'"
    return None
