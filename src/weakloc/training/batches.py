"""Epochs of batches that can start at any batch, for an engine that resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import torch

from weakloc.data.loaders import Batch

# (epoch, first batch) -> the batches from there to the end of the epoch
EpochSource: TypeAlias = Callable[[int, int], Iterable[Batch]]


class Carried:
    """One batch, closed to the engine, which would otherwise look into every field of it."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Carried:
        return Carried(self.batch.to(device, non_blocking=non_blocking))


class ResumableEpochs:
    """What the engine takes as its data loader; its position is saved with the weights.

    Nothing is read before the first batch is asked for, so that the position can still be set
    after the engine has made its iterator.
    """

    def __init__(self, source: EpochSource, num_batches: int) -> None:
        self.epoch = 0
        self._first_batch = 0
        self._delivered = 0
        self._source = source
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Carried]:
        first, self._first_batch = self._first_batch, 0
        self._delivered = first
        for batch in self._source(self.epoch, first):
            self._delivered += 1
            yield Carried(batch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self._delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        finished, self._first_batch = divmod(state["batch"], self._num_batches)
        self.epoch = state["epoch"] + finished
