"""Which image is used when: order, repetition of rare classes, batches, shares of the ranks.

Everything follows from (seed, epoch) alone, so a run resumed at an epoch, or one with another
number of workers, sees the same images with the same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.errors import DataError, SettingError
from weakloc.structures import PRESENT, Sample

MOST_REPEATS = 10.0


@dataclass(frozen=True, slots=True)
class SampleKey:
    """One use of one image: all that its random numbers depend on, besides the seed."""

    index: int
    num_repeat: int  # 0 for the first use in an epoch
    epoch: int
    step: int


def mixed_seed(*numbers: int) -> int:
    """A seed of 64 bits from several small numbers; near ones give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def repetition_weights(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """How often each image should be used in an epoch, at least once: (N,).

    The largest of `median count / count` over the image's classes, at most `MOST_REPEATS`; that
    brings every class to the count of the median class. Images without a class count once.
    """
    present = np.stack([sample.labels for sample in samples]) == PRESENT  # (N, C)
    counts = present.sum(axis=0)
    if not counts.any():
        return np.ones(len(samples))
    median = float(np.median(counts[counts > 0]))
    class_weights = median / np.maximum(counts, 1)
    weights = np.where(present, class_weights, 1.0).max(axis=1)
    return np.asarray(weights.clip(1.0, MOST_REPEATS))


def draw_repeats(weights: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int64]:
    """Whole numbers of uses whose mean is the weight, and whose sum is always the same.

    Systematic sampling: the part above one is laid end to end and cut at every whole number,
    from a random start.
    """
    extra = weights - 1.0
    total = round(float(extra.sum()))
    if total == 0:
        return np.ones(len(weights), dtype=np.int64)
    ends = np.cumsum(extra) * (total / extra.sum())
    ends[-1] = total  # free of rounding, or the sum could be one short
    marks = np.floor(ends + random.random()).astype(np.int64)
    return np.asarray(1 + np.diff(marks, prepend=0))


class EpochBatches:
    """Lists of `SampleKey`, one list a batch: what a DataLoader calls a batch sampler.

    Every rank gets equally many batches in training: up to `world_size - 1` images are used twice
    to make the ranks' shares equal.
    """

    is_training = True

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int,
        weights: NDArray[np.float64] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check(num_samples, batch_size, rank, world_size)
        self.epoch, self.first_step, self.seed = 0, 0, seed
        self._weights = np.ones(num_samples) if weights is None else weights
        self._batch_size = batch_size
        self._rank, self._world_size = rank, world_size
        num_uses = num_samples + round(float((self._weights - 1.0).sum()))
        self._num_own = math.ceil(num_uses / world_size)

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        """`first_step` is where a run that stopped within the epoch goes on."""
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        return math.ceil(self._num_own / self._batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        random = np.random.default_rng([self.seed, epoch])
        uses = draw_repeats(self._weights, random)
        indices = np.repeat(np.arange(len(uses)), uses)
        repeats = np.arange(len(indices)) - np.repeat(np.cumsum(uses) - uses, uses)
        order = np.resize(random.permutation(len(indices)), self._num_own * self._world_size)
        of_rank = order[self._rank :: self._world_size]
        for step in range(self.first_step, len(self)):
            in_batch = of_rank[step * self._batch_size : (step + 1) * self._batch_size]
            pairs = zip(indices[in_batch].tolist(), repeats[in_batch].tolist(), strict=True)
            yield [SampleKey(index, repeat, epoch, step) for index, repeat in pairs]


class EveryImageOnce:
    """The images in their order, each exactly once over all ranks: for evaluation."""

    is_training = False
    seed = 0

    def __init__(
        self, num_samples: int, *, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        _check(num_samples, batch_size, rank, world_size)
        self._own = range(rank, num_samples, world_size)
        self._batch_size = batch_size

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        """Every epoch is the same, and whole."""

    def __len__(self) -> int:
        return math.ceil(len(self._own) / self._batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(len(self)):
            in_batch = self._own[step * self._batch_size : (step + 1) * self._batch_size]
            yield [SampleKey(index, 0, 0, step) for index in in_batch]


def _check(num_samples: int, batch_size: int, rank: int, world_size: int) -> None:
    if num_samples < 1:
        raise DataError("there are no images to load")
    if batch_size < 1:
        raise SettingError(f"a batch size of {batch_size} is too small", remedy="Use 1 or more")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in 0 .. {world_size - 1}")
