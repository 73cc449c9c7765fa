"""Work in, (work, what went wrong) out, here or in processes; a failure stops itself alone."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol, TypeVar

from weakloc.errors import StoppedError, WeaklocError
from weakloc.work import map_in_processes, num_cores


class Work(Protocol):
    """Anything that can be done once, here or in another process."""

    def run(self) -> None: ...


AnyWork = TypeVar("AnyWork", bound=Work)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def work_through(
    works: Iterable[AnyWork],
    *,
    jobs: int,
    then: Callable[[AnyWork], Iterable[AnyWork]],
    prepare: Callable[[], object],
) -> Iterator[tuple[AnyWork, str | None]]:
    """Each work with its problem, None where it is done; what is to follow it comes right after.

    What follows a failed work is not tried. `prepare` is called in every process.
    """
    with nullcontext() if jobs == 1 else _threads_for_each(max(1, num_cores() // jobs)):
        yield from map_in_processes(
            _attempt,
            works,
            processes=jobs,
            prepare=prepare,
            then=lambda work, problem: then(work) if problem is None else (),
            if_killed=lambda _work: "its process, or one beside it, died (out of memory?)",
        )


def _attempt(work: Work) -> str | None:
    """What went wrong, in words for a user's mistake and with its place for ours."""
    try:
        work.run()
    except StoppedError as error:
        raise StoppedError("stopped", remedy="Go on with the same command") from error
    except WeaklocError as error:
        return str(error)
    except Exception:
        return traceback.format_exc(limit=-3).strip()
    return None


@contextmanager
def _threads_for_each(count: int) -> Iterator[None]:
    """What the libraries of new processes read as they are loaded."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
