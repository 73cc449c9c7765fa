"""Which images are learned from and which are only watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.data.readers.assembly import ALL
from weakloc.errors import DataError
from weakloc.settings import TrainSettings
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, DataSet, Problem, Sample


@dataclass(frozen=True)
class Division:
    """`watched` may be empty; `watched_name` says where it comes from."""

    learned: Sequence[Sample]
    watched: Sequence[Sample]
    watched_name: str


def divide(data_set: DataSet, settings: TrainSettings) -> Division:
    """The named splits; without one to watch, a seeded share of the training images."""
    samples = data_set.split(learned_split(data_set, settings.train_split), flag="--train-split")
    _check_tags(samples, data_set)
    watched = data_set.splits.get(settings.val_split, ())
    if watched:
        return Division(samples, watched, f"split {settings.val_split!r}")
    return _hold_out(samples, share=settings.hold_out, seed=settings.seed)


def learned_split(data_set: DataSet, name: str) -> str:
    """The split that `name` stands for: of data without splits, everything is learned from."""
    has_none = tuple(data_set.splits) == (ALL,) and name == TrainSettings.train_split
    return ALL if has_none else name


def _check_tags(samples: Sequence[Sample], data_set: DataSet) -> None:
    if not data_set.class_names:
        raise DataError("there is no class", where=str(data_set.root), remedy="Give tags first")
    if all((sample.labels == UNKNOWN).all() for sample in samples):
        raise DataError(
            "the tags of all training images are unknown, so there is nothing to learn from",
            where=str(data_set.root),
            remedy="Say for some images which classes are there and which are not",
        )


def _hold_out(samples: Sequence[Sample], *, share: float, seed: int) -> Division:
    """Draws images, but never the last one that shows a class."""
    num_watched = round(share * len(samples))
    left = np.sum([sample.labels == PRESENT for sample in samples], axis=0)  # (C,)
    watched: set[int] = set()
    for index in np.random.default_rng(seed).permutation(len(samples)).tolist():
        shown = samples[index].labels == PRESENT
        if len(watched) < num_watched and (left[shown] > 1).all():
            left = left - shown
            watched.add(index)
    if not watched:
        return Division(samples, (), "nothing: too few images to keep some back")
    return Division(
        learned=[sample for index, sample in enumerate(samples) if index not in watched],
        watched=[samples[index] for index in sorted(watched)],
        watched_name=f"{len(watched)} of {len(samples)} training images, drawn with seed {seed}",
    )


@dataclass(frozen=True)
class LabelStatistics:
    """Counts over the training images; `co_occurrence[i, j]` counts images with both i and j."""

    num_images: int
    present: NDArray[np.int64]  # (C,)
    absent: NDArray[np.int64]  # (C,)
    unknown: NDArray[np.int64]  # (C,)
    co_occurrence: NDArray[np.int64]  # (C, C), the diagonal is `present`

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
