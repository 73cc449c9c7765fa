"""Tasks in, outcomes out, in this process or in several; a failure stops only its own task."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from weakloc.errors import StoppedError, WeaklocError


class Work(Protocol):
    """Anything that can be done once, here or in another process."""

    @property
    def is_done(self) -> bool: ...

    def run(self) -> None: ...


Done = TypeVar("Done", bound=Work)
Prepare = Callable[[], object]
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task(Generic[Done]):
    """`then` is taken up once this has succeeded."""

    work: Done
    then: tuple[Task[Done], ...] = ()


@dataclass(frozen=True)
class Outcome(Generic[Done]):
    """`problem` is None where the work is done; what comes after a failed task is not tried."""

    task: Task[Done]
    problem: str | None


def work_through(
    tasks: Sequence[Task[Done]], *, jobs: int, prepare: Prepare
) -> Iterator[Outcome[Done]]:
    """Every task, in order where one process does them; `prepare` is called in each process."""
    if jobs == 1:
        prepare()
        yield from _here(tasks)
    else:
        yield from _in_processes(tasks, jobs, prepare)


def num_cores() -> int:
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def _here(tasks: Sequence[Task[Done]]) -> Iterator[Outcome[Done]]:
    waiting = deque(tasks)
    while waiting:
        task = waiting.popleft()
        problem = _attempt(task.work)
        if problem is None:
            waiting.extendleft(reversed(task.then))
        yield Outcome(task, problem)


def _in_processes(
    tasks: Sequence[Task[Done]], jobs: int, prepare: Prepare
) -> Iterator[Outcome[Done]]:
    with _threads_for_each(max(1, num_cores() // jobs)):
        yield from _in_pools(deque(tasks), jobs, prepare)


def _in_pools(waiting: deque[Task[Done]], jobs: int, prepare: Prepare) -> Iterator[Outcome[Done]]:
    """A pool in which a process died is replaced; what ran in it counts as failed."""
    running: dict[Future[str | None], Task[Done]] = {}
    pool = _pool(jobs, prepare)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                running[pool.submit(_attempt, task.work)] = task
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            if any(isinstance(each.exception(), BrokenProcessPool) for each in finished):
                finished = set(running)
                pool.shutdown()
                pool = _pool(jobs, prepare)
            for future in finished:
                task = running.pop(future)
                problem = _problem(future)
                if problem is None:
                    waiting.extendleft(reversed(task.then))
                yield Outcome(task, problem)
    finally:
        pool.shutdown(cancel_futures=True)


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


def _pool(jobs: int, prepare: Prepare) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # safe beside the threads of torch
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(prepare,))


def _begin(prepare: Prepare) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for its next task forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _problem(future: Future[str | None]) -> str | None:
    if not isinstance(future.exception(), BrokenProcessPool):
        return future.result()
    return "its process, or one beside it, died (out of memory?)"


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
