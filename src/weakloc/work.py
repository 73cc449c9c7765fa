"""Work that is shared out: how many cores there are, who is told how far it is, and processes.

A task that fails stops itself alone in `work_through`, all of them in `map_in_processes`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from typing import Protocol, TypeAlias, TypeVar

from weakloc.errors import StoppedError, WeaklocError

Progress: TypeAlias = Callable[[int, int | None], None]  # (done, of how many if that is known)
Task = TypeVar("Task")
Result = TypeVar("Result")


def silent(_done: int, _total: int | None) -> None:
    """Progress that nobody watches."""


class Display:
    """Where long work is shown; this one shows nothing."""

    def count(self, work: str, done: int, total: int | None) -> None:
        """How far work is that comes before training."""

    def step(self, state: str, done: int, total: int) -> None:
        """How many batches of all epochs are done, and the latest numbers."""

    def share(self, work: str, share: float, seconds_left: float | None) -> None:
        """How much of several works one after the other is done, and which is under way."""

    def say(self, line: str) -> None:
        """What an epoch gave."""


NO_DISPLAY = Display()


def num_cores() -> int:
    """The cores that this process may use, which a container or scheduler may have limited."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


# From malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM = 2**31 - 1
_MMAP_THRESHOLDS = (2**30, 2**25)  # older versions take no more than 32 MiB


def keep_freed_memory() -> bool:
    """Lets glibc keep the memory of feature maps instead of giving it back after every layer.

    The system would hand it out again page by page, each page cleared first: on a CPU a tenth to
    a third of the time of a network. The process then stays as large as it once was, which is why
    a library must not do this; a command may. False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        for threshold in _MMAP_THRESHOLDS:
            if set_option(_MMAP_THRESHOLD, threshold):
                return bool(set_option(_TRIM_THRESHOLD, _LARGEST_TRIM))
    return False


def map_in_processes(
    function: Callable[[Task], Result],
    items: Iterable[Task],
    *,
    processes: int,
    if_killed: Callable[[Task], Result],
    then: Callable[[Task, Result], Iterable[Task]] = lambda _item, _result: (),
    prepare: Callable[[], object] = dict,
    ahead: int = 1,
) -> Iterator[tuple[Task, Result]]:
    """(item, what the function makes of it), in whichever order they are done.

    With one process all is done in this one, in order. Else `function`, a module's own, is sent to
    spawned ones, `ahead` items for each at a time, after `prepare` was called there once. The items
    that `then` makes of a result are taken up next. Exceptions of the function come out here; a
    pool of which a process was killed is replaced, and `if_killed` says what its items give.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes}, not at least 1")
    remaining, follow_ups = iter(items), deque[Task]()
    if processes == 1:
        prepare()
        while taken := _next_of(follow_ups, remaining, 1):
            result = function(taken[0])
            follow_ups.extendleft(reversed([*then(taken[0], result)]))
            yield taken[0], result
        return
    running: dict[Future[Result], Task] = {}
    pool = _pool(processes, prepare)
    try:
        with _children_that_end_early():
            while True:
                for item in _next_of(follow_ups, remaining, processes * ahead - len(running)):
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                if any(isinstance(future.exception(), BrokenProcessPool) for future in finished):
                    finished = set(running)
                    pool.shutdown()
                    pool = _pool(processes, prepare)
                for future in finished:
                    item = running.pop(future)
                    is_killed = isinstance(future.exception(), BrokenProcessPool)
                    result = if_killed(item) if is_killed else future.result()
                    follow_ups.extendleft(reversed([*then(item, result)]))
                    yield item, result
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _children_that_end_early() -> Iterator[None]:
    """Where the block fails the processes that it started end at once.

    Not where the user interrupts it: that reached them too, and they may have something to save.
    """
    others = multiprocessing.active_children()
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        for process in {*multiprocessing.active_children()}.difference(others):
            process.terminate()
        raise


def _next_of(follow_ups: deque[Task], remaining: Iterator[Task], count: int) -> list[Task]:
    """Up to `count` items, those that follow from results first."""
    taken = [follow_ups.popleft() for _ in range(min(count, len(follow_ups)))]
    return taken + [item for _, item in zip(range(count - len(taken)), remaining, strict=False)]


def _pool(processes: int, prepare: Callable[[], object]) -> ProcessPoolExecutor:
    # Not forked: the caller may have threads, of torch for example, that a fork would tear.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(prepare,)
    )


def _begin(prepare: Callable[[], object]) -> None:
    if parent := multiprocessing.parent_process():
        end_after(parent.join)
    prepare()


def end_after(wait: Callable[[], object]) -> None:
    """Ends this process when `wait` returns; without its parent it may wait for ever."""

    def end() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


class Work(Protocol):
    """Anything that can be done once, here or in another process."""

    def run(self) -> None: ...


AnyWork = TypeVar("AnyWork", bound=Work)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def work_through(
    works: Iterable[AnyWork], *, jobs: int, then: Callable[[AnyWork], Iterable[AnyWork]]
) -> Iterator[tuple[AnyWork, str | None]]:
    """Each work with its problem, None where it is done; what is to follow it comes right after.

    What follows a failed work is not tried.
    """
    with nullcontext() if jobs == 1 else _threads_for_each(max(1, num_cores() // jobs)):
        yield from map_in_processes(
            _attempt,
            works,
            processes=jobs,
            then=lambda work, problem: then(work) if problem is None else (),
            if_killed=lambda _work: "its process, or one beside it, died (out of memory?)",
            prepare=keep_freed_memory,
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
