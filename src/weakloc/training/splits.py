"""Which images are learned from and which are only watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weakloc.config import TrainSettings
from weakloc.data.readers.assembly import ALL
from weakloc.errors import DataError, did_you_mean
from weakloc.structures import PRESENT, UNKNOWN, DataSet, Sample


@dataclass(frozen=True)
class Division:
    """`watched` may be empty; `watched_name` says where it comes from."""

    learned: Sequence[Sample]
    watched: Sequence[Sample]
    watched_name: str


def divide(data_set: DataSet, settings: TrainSettings) -> Division:
    """The named splits; without one to watch, a seeded share of the training images."""
    samples = _training_samples(data_set, settings.train_split)
    _check_tags(samples, data_set)
    watched = data_set.splits.get(settings.val_split, ())
    if watched:
        return Division(samples, watched, f"split {settings.val_split!r}")
    return _hold_out(samples, share=settings.hold_out, seed=settings.seed)


def learned_split(data_set: DataSet, name: str) -> str:
    """The split that `name` stands for: of data without splits, everything is learned from."""
    has_none = tuple(data_set.splits) == (ALL,) and name == TrainSettings.train_split
    return ALL if has_none else name


def _training_samples(data_set: DataSet, name: str) -> Sequence[Sample]:
    samples = data_set.splits.get(learned_split(data_set, name))
    if samples is None:
        raise DataError(
            f"there is no split {name!r}",
            where=str(data_set.root),
            remedy=f"Name the split to learn from with --train-split. "
            f"{did_you_mean(name, data_set.splits)}",
        )
    if not samples:
        raise DataError(
            f"split {name!r} holds no image",
            where=str(data_set.root),
            remedy="Look at what was found with 'weakloc data'",
        )
    return samples


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
    wanted = round(share * len(samples))
    left = np.sum([sample.labels == PRESENT for sample in samples], axis=0)  # (C,)
    watched: set[int] = set()
    for index in np.random.default_rng(seed).permutation(len(samples)).tolist():
        shown = samples[index].labels == PRESENT
        if len(watched) < wanted and (left[shown] > 1).all():
            left = left - shown
            watched.add(index)
    if not watched:
        return Division(samples, (), "nothing: too few images to keep some back")
    return Division(
        learned=[sample for index, sample in enumerate(samples) if index not in watched],
        watched=[samples[index] for index in sorted(watched)],
        watched_name=f"{len(watched)} of {len(samples)} training images, drawn with seed {seed}",
    )
