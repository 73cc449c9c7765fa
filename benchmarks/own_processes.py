"""Each variant of a benchmark in a process of its own, so that its peak of memory is its own.

The processes wait while another one works; rounds stay interleaved and paired.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Work = Callable[[], Any]
Prepare = Callable[..., Work]


@dataclass(frozen=True)
class OwnProcess:
    """A prepared variant; calling it does the work once and gives what it gave."""

    connection: Connection

    def __call__(self) -> Any:
        self.connection.send("work")
        return self._answer()

    def peak_mebibytes(self) -> float:
        self.connection.send("peak")
        return float(self._answer())

    def _answer(self) -> Any:
        answer = self.connection.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer


@contextmanager
def own_processes(
    variants: Mapping[str, tuple[Prepare, tuple[Any, ...]]],
) -> Iterator[dict[str, OwnProcess]]:
    """name -> (function that prepares, its arguments); both have to be importable."""
    context = multiprocessing.get_context("spawn")
    started = {}
    for name, (prepare, arguments) in variants.items():
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, prepare, arguments), daemon=True)
        process.start()
        started[name] = (OwnProcess(here), process)
    try:
        yield {name: variant for name, (variant, _) in started.items()}
    finally:
        for variant, process in started.values():
            variant.connection.send("end")
            process.join(timeout=30)


def _serve(connection: Connection, prepare: Prepare, arguments: tuple[Any, ...]) -> None:
    work: Work | None = None
    while (request := connection.recv()) != "end":
        try:
            if request == "peak":
                usage = resource.getrusage(resource.RUSAGE_SELF)
                connection.send(usage.ru_maxrss / 1024)
            else:
                work = work or prepare(*arguments)
                connection.send(work())
        except Exception as error:
            connection.send(RuntimeError(repr(error)))
