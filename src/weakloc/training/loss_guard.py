"""Stops training at a loss that is not a number or explodes, and says on which images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weakloc.errors import TrainingError

# Reading a loss makes a GPU wait, so there several are read at once.
_READ_EVERY = {"cpu": 1}
_READ_EVERY_ELSEWHERE = 20
EXPLODED = 1e4  # times the first loss, or times 1 where that is larger
_NUM_NAMES = 8


@dataclass(frozen=True)
class _Entry:
    loss: Tensor
    names: Sequence[str]
    learning_rate: float


class LossGuard:
    """Collects the losses of an epoch; `mean` is over all of them."""

    def __init__(self) -> None:
        self._waiting: list[_Entry] = []
        self._first: float | None = None
        self._sum, self._count = 0.0, 0
        self.latest = float("nan")

    def add(self, loss: Tensor, names: Sequence[str], learning_rate: float) -> None:
        self._waiting.append(_Entry(loss, names, learning_rate))
        if len(self._waiting) >= _READ_EVERY.get(loss.device.type, _READ_EVERY_ELSEWHERE):
            self.read()

    def read(self) -> None:
        """Looks at the losses that wait; called before weights are saved."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = torch.stack([entry.loss for entry in waiting]).tolist()
        for entry, value in zip(waiting, values, strict=True):
            self._check(entry, value)
            self._sum, self._count = self._sum + value, self._count + 1
            self.latest = value

    def mean(self) -> float:
        """Of all losses since the last call."""
        self.read()
        mean = self._sum / self._count if self._count else float("nan")
        self._sum, self._count = 0.0, 0
        return mean

    def state(self) -> dict[str, float | int | None]:
        self.read()
        return {"first": self._first, "sum": self._sum, "count": self._count}

    def restore(self, state: dict[str, float | int | None]) -> None:
        self._first = state["first"]
        self._sum, self._count = float(state["sum"] or 0.0), int(state["count"] or 0)

    def _check(self, entry: _Entry, value: float) -> None:
        if self._first is None and not math.isnan(value):
            self._first = value
        limit = EXPLODED * max(1.0, self._first or 1.0)
        if value <= limit:  # false for not-a-number too
            return
        shown = ", ".join(entry.names[:_NUM_NAMES])
        more = len(entry.names) - _NUM_NAMES
        others = f" and {more} more" if more > 0 else ""
        raise TrainingError(
            f"the loss became {value:g} at learning rate {entry.learning_rate:g} "
            f"on the images {shown}{others}",
            remedy=f"Try --learning-rate {entry.learning_rate / 10:.2g} or --precision fp32, and "
            "look at these images; the last saved weights are still good",
        )
