"""Ctrl-C and termination signals become a flag that training reads between two batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from weakloc.errors import StoppedError

# SIGUSR1 is what SLURM sends ahead of a time limit (`--signal=USR1@120`).
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


@dataclass
class Interruption:
    """The name of the signal that asked training to stop, once one has."""

    signal_name: str | None = None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_name is not None:
            raise StoppedError(
                "stopped at once, as asked twice",
                remedy="Continue with the same command and --resume from what was saved before",
            )
        self.signal_name = signal.Signals(number).name

    def listen(self) -> None:
        """Takes the signals over; nothing happens outside of the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in _numbers():
                signal.signal(number, self.receive)


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


@contextmanager
def restored_signals() -> Iterator[None]:
    """Gives the signals back to whoever handled them before the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _numbers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
