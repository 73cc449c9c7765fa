"""Readers in processes with limits; what came of each input, counted.

A process that is killed, that dies or that outgrows its memory is replaced by the next one, which
goes on behind the input that did it.
"""

from __future__ import annotations

import faulthandler
import gc
import mmap
import multiprocessing
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeAlias

import torch

from tests.fuzz.inputs import Input, input_of, valid_input
from tests.fuzz.readers import READERS
from tests.fuzz.templates import template
from weakloc.errors import WeaklocError
from weakloc.model.backbones import build_backbone
from weakloc.model.trunk import BackboneSpec

Outcome: TypeAlias = Literal[
    *("fine", "skipped", "error in one line", "error of several lines", "traceback"),
    *("hang", "memory", "crash", "file outside"),
]
GOOD: tuple[Outcome, ...] = ("fine", "skipped", "error in one line")
OUTCOMES: tuple[Outcome, ...] = (
    *GOOD, "error of several lines", "traceback", "hang", "memory", "crash", "file outside",
)  # fmt: skip
SECONDS = 5.0
MEMORY = 3 * 2**29  # 1.5 GB beyond what the process begins with
INPUTS_A_PROCESS = 20_000
REPOSITORY = Path(__file__).parents[2]
# What Python itself reads while it works: modules that are imported late, random numbers, zones.
_OWN = tuple(
    dict.fromkeys(
        os.path.realpath(path)
        for path in (
            *(sys.prefix, sys.base_prefix, REPOSITORY / "src", REPOSITORY / "tests"),
            *("/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/dev/null", "/dev/urandom"),
            *("/usr/lib", "/usr/share/zoneinfo", "/etc/localtime", "/sys/devices/system"),
            *filter(os.path.isdir, sys.path),
        )
    )
)
_FORBIDDEN = (
    *("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "subprocess.Popen"),
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile", "pty.spawn"),
    *("urllib.Request", "ftplib.connect", "http.client.connect"),
)
_ON_FILES = (
    *("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.rmdir"),
    "ctypes.dlopen",
)
# Files in memory: a disk would take more time than the readers do.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True)
class Finding:
    """One input that ended badly; `signature` is the same for the same fault."""

    target: str
    outcome: Outcome
    signature: str
    number: int = -1
    detail: str = ""


@dataclass
class Tally:
    """What came of the inputs of one target."""

    counts: Counter[Outcome] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)  # the first of each signature
    times: Counter[str] = field(default_factory=Counter)  # by signature
    seconds: float = 0.0

    @property
    def num_inputs(self) -> int:
        return sum(self.counts.values())

    def add(self, finding: Finding) -> None:
        self.counts[finding.outcome] += 1
        self.times[finding.signature] += 1
        self.findings.setdefault(finding.signature, finding)


class Escape(BaseException):
    """Something was touched that no reader may touch; not an Exception, so that none hides it."""


class _Guard:
    """An audit hook that knows one folder; nothing takes it off again, so processes own it."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self.escapes: list[str] = []
        self.is_on = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event.startswith(_FORBIDDEN):
            self._escape(f"{event} {str(arguments)[:200]}")
        elif event in _ON_FILES and _is_path(arguments[0]):
            self.is_on = False
            path = os.path.realpath(os.fsdecode(arguments[0]))
            self.is_on = True
            is_inside = path == self.folder or path.startswith(f"{self.folder}/")
            is_read = event in ("os.listdir", "os.scandir", "ctypes.dlopen") or (
                event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            )
            is_own = is_read or "__pycache__" in path  # numba and imports keep what they compiled
            if not is_inside and not (is_own and path.startswith(_OWN)):
                self._escape(f"{event} {path}")

    def _escape(self, what: str) -> None:
        self.escapes.append(what)
        raise Escape(what)


def _is_path(name: object) -> bool:
    """Not an open file's number, nor a library by its bare name."""
    return isinstance(name, str | bytes | os.PathLike) and not str(name).startswith("lib")


def judged(target: str, folder: Path, guard: _Guard) -> Finding:
    """What came of the input in a folder."""
    guard.escapes.clear()
    guard.is_on = True
    finding = Finding(target, "fine", "")
    try:
        finding = Finding(target, READERS[target](folder), "")
    except WeaklocError as error:
        text = str(error)
        outcome: Outcome = "error in one line"
        signature = ""
        if len(text.splitlines()) > 1 or not text:
            outcome, signature = "error of several lines", f"lines {_frames(error)}"
        finding = Finding(target, outcome, signature, detail=text[:300])
    except MemoryError as error:
        finding = Finding(target, "memory", f"MemoryError {_frames(error)}")
    except Exception as error:
        text = without_places("".join(traceback.format_exception(error, limit=-6)))
        finding = Finding(
            target, "traceback", f"{type(error).__name__} {_frames(error)}", detail=text[-2500:]
        )
    except Escape:
        pass
    guard.is_on = False
    if guard.escapes:
        first = guard.escapes[0]
        return Finding(target, "file outside", f"outside {first.split()[0]}", detail=first)
    return finding


def without_places(trace: str) -> str:
    """A trace whose files are named from the repository, or from Python's libraries: it is kept."""
    return re.sub(r'File "/[^"]*?/(?=(?:src/weakloc|tests|python3\.\d+)/)', 'File "', trace)


def _frames(error: BaseException) -> str:
    """The last two lines of the package that an error came through."""
    steps = traceback.extract_tb(error.__traceback__)
    own = [step for step in steps if "/src/weakloc/" in step.filename] or steps[-1:]
    return " < ".join(
        f"{step.filename.rpartition('/src/weakloc/')[2]}:{step.name}" for step in reversed(own[-2:])
    )


def confine() -> None:
    """The limits of this process, for good."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.setrecursionlimit(1000)
    warnings.simplefilter("ignore")


_BOARD = struct.Struct("qd3q")  # the input in work, since when, and how many ended well


class Board:
    """Where a process writes what it works at, for whoever watches it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BOARD.size)
        self.good: Counter[Outcome] = Counter()
        self.write(-1)

    def write(self, number: int) -> None:
        counts = (self.good[outcome] for outcome in GOOD)
        self._memory[:] = _BOARD.pack(number, time.monotonic(), *counts)

    def read(self) -> tuple[int, float]:
        """The number of the input in work and since when; `good` is as of now, too."""
        number, since, *counts = _BOARD.unpack(self._memory[:])
        self.good = Counter(dict(zip(GOOD, counts, strict=True)))
        return int(number), float(since)


def _work(
    make: Callable[[int], Input],
    numbers: Sequence[int],
    scratch: Path,
    board: Board,
    pipe: Connection,
) -> None:
    """Inputs one after the other; those that end badly are told, the last number as well."""
    folder = scratch / "data"
    stack = (scratch / STACK).open("w")
    faulthandler.enable(stack, all_threads=False)
    faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C complain there
    guard = _Guard(scratch)
    confine()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    number = numbers[0]
    for number in numbers:
        made = make(number)
        folder.mkdir()
        made.write(folder)
        os.chdir(folder)
        board.write(number)
        finding = judged(made.target, folder, guard)
        os.chdir(scratch)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) * 1024
        is_large = grown > 0.8 * MEMORY
        if is_large and finding.outcome in GOOD:
            finding = Finding(made.target, "memory", "grown", detail=f"{grown >> 20} MiB")
        if finding.outcome in GOOD:
            board.good[finding.outcome] += 1
        else:
            pipe.send((number, finding))
        board.write(-1)
        shutil.rmtree(folder, onerror=_open_up)
        if is_large:  # the next ones could not be told from this one
            break
    pipe.send(number)


STACK = "stack"  # where a process that hangs writes in which line


def _open_up(remove: Callable[[str], Any], path: str, _: object) -> None:
    Path(path).parent.chmod(0o700)
    remove(path)


def prepare(targets: Sequence[str]) -> None:
    """Everything that is imported, compiled or made once, before processes are forked."""
    torch.set_num_threads(1)
    with suppress(RuntimeError):  # of a process that has worked in parallel already
        torch.set_num_interop_threads(1)
    template()
    if "runs" in targets:  # a name that is not known is looked for in all of timm
        with suppress(WeaklocError):
            build_backbone(BackboneSpec.parse("unknown", weights="none"))
    here = Path.cwd()
    for target in targets:
        if target == "requests":
            continue  # its thread would not be in the forked process
        with tempfile.TemporaryDirectory(dir=SCRATCH) as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in range(40):
                folder = Path(name, str(number))
                folder.mkdir()
                valid_input(target, Random(number)).write(folder)
                os.chdir(folder)
                with suppress(WeaklocError):  # two layouts in one folder
                    READERS[target](folder)
        os.chdir(here)
    gc.collect()
    gc.freeze()


def run(
    make: Callable[[int], Input], count: int, *, target: str, until: float, start: int = 0
) -> Tally:
    """What comes of inputs `start` to `start + count`, as far as there is time."""
    tally = Tally()
    began = time.monotonic()
    number = start
    while number < start + count and time.monotonic() < until:
        numbers = range(number, min(start + count, number + INPUTS_A_PROCESS))
        with tempfile.TemporaryDirectory(
            prefix="fuzz-", dir=SCRATCH, ignore_cleanup_errors=True
        ) as scratch:
            number = _one_process(make, numbers, Path(scratch), target, until, tally)
    tally.seconds = time.monotonic() - began
    return tally


def _one_process(
    make: Callable[[int], Input],
    numbers: range,
    scratch: Path,
    target: str,
    until: float,
    tally: Tally,
) -> int:
    """The number of the input to go on with."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    board = Board()
    arguments = (make, numbers, scratch, board, there)
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    there.close()
    last, watch = numbers[0] - 1, _Watch(process.pid or 0)
    try:
        while True:
            number, since = board.read()
            last = max(last, number)
            if here.poll(0.05):
                try:
                    message = here.recv()
                except EOFError:
                    break
                if isinstance(message, int):
                    return message + 1
                last, finding = message
                tally.add(replace(finding, number=last))
            elif number >= 0 and watch.is_over_time(number, time.monotonic() - since):
                os.kill(process.pid or 0, signal.SIGUSR1)
                time.sleep(0.3)
                tally.add(Finding(target, "hang", f"hang {_line_of(scratch / STACK)}", number))
                return number + 1
            elif time.monotonic() > until:
                return numbers.stop
        process.join()
        last = max(last, board.read()[0])
        is_killed = process.exitcode == -signal.SIGKILL  # as the kernel does where memory ends
        outcome: Outcome = "memory" if is_killed else "crash"
        line = _line_of(scratch / STACK)
        tally.add(Finding(target, outcome, f"exit {process.exitcode} {line}", last))
        return last + 1
    finally:
        process.kill()
        process.join()
        here.close()
        board.read()
        tally.counts.update(board.good)


@dataclass
class _Watch:
    """Tells a reader that takes too long from one that waits for a processor.

    Too long is `SECONDS` of computing, or of waiting for what does not come, or ten times as long.
    """

    process: int
    number: int = -1
    ticks: int = 0  # of computing, when this input was first looked at

    def is_over_time(self, number: int, seconds: float) -> bool:
        state, ticks = self._state()
        if number != self.number:
            self.number, self.ticks = number, ticks
        computed = (ticks - self.ticks) / os.sysconf("SC_CLK_TCK")
        waits = seconds > SECONDS and state == "S" and computed < seconds / 100
        return computed > SECONDS or waits or seconds > 10 * SECONDS

    def _state(self) -> tuple[str, int]:
        try:
            text = Path(f"/proc/{self.process}/stat").read_text()
        except OSError:  # it has just ended
            return "R", self.ticks
        cells = text.rpartition(")")[2].split()
        return cells[0], int(cells[11]) + int(cells[12])


def _line_of(stack: Path) -> str:
    """Where the package was: the innermost of its lines in a written stack."""
    text = stack.read_text() if stack.is_file() else ""
    own = re.search(r'File "\S*/weakloc/(\S+)", line \d+ in (\S+)', text)
    return f"{own[1]}:{own[2]}" if own else ""


def generated(target: str, seed: int) -> Callable[[int], Input]:
    return lambda number: input_of(target, seed, number)
