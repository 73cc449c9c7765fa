"""One interruption after the other, then the end undisturbed: is the result that of no story?

The package is imported once; each command runs in a forked process, so that a kill meets its work.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, TypeAlias

import psutil

from tests.kills.commands import COMMANDS, Command, draw_photos

Fault: TypeAlias = Literal["kill", "full disk", "small disk", "read-only", "clock back"]
FAULTS: tuple[Fault, ...] = ("kill", "full disk", "small disk", "read-only", "clock back")
SAID = "said.txt"  # what a process wrote to standard output and standard error
SECONDS = 180.0  # an undisturbed command takes so long at most
MOST_KILLS = 3  # in one story


@dataclass
class Verdicts:
    """What came of the stories of one command."""

    stories: int = 0
    interruptions: int = 0
    in_work: int = 0  # interruptions that met a process which had not ended by itself
    differences: list[str] = field(default_factory=list)


class Stage:
    """A folder in which one command can be run again and again from the same beginning."""

    def __init__(self, name: str, folder: Path) -> None:
        self.command: Command = COMMANDS[name]
        self.name = name
        self._start = folder / "start"
        self.work = folder / "work"
        self._start.mkdir(parents=True)
        draw_photos(self._start / "photos")
        for arguments in self.command.before:
            code, said = finished(start(arguments, self._start), self._start)
            if code != 0:
                raise RuntimeError(f"weakloc {' '.join(arguments)} ends with {code}: {said}")
        began = time.monotonic()
        self.set()
        self.go_on(self.command.arguments)
        self.seconds = time.monotonic() - began
        self.right = digests(self.work / self.command.out)
        self.set()
        self.go_on(self.command.arguments)
        again = digests(self.work / self.command.out)
        # What differs without any disturbance says nothing: it is named, not compared.
        self.unlike = {
            name for name in self.right | again if again.get(name) != self.right.get(name)
        }

    def set(self) -> None:
        self.work.mkdir(exist_ok=True)
        for path in self.work.iterdir():  # a file system may be mounted there
            path.unlink() if path.is_file() else shutil.rmtree(path)
        shutil.copytree(self._start, self.work, symlinks=True, dirs_exist_ok=True)

    def begin(self, arguments: Sequence[str], prepare: Callable[[], None] = lambda: None) -> int:
        return start(arguments, self.work, prepare=prepare)

    def go_on(self, arguments: Sequence[str]) -> None:
        code, said = finished(self.begin(arguments), self.work)
        if code != 0:
            raise StoryError(f"weakloc {' '.join(arguments)} ends with {code}: {said}")

    def difference(self) -> str:
        """What is otherwise than in the undisturbed result; empty where nothing is."""
        met = digests(self.work / self.command.out)
        names = sorted((met.keys() | self.right.keys()) - self.unlike)
        odd = [name for name in names if met.get(name) != self.right.get(name)]
        states = ("missing", "more than there should be", "other")
        return ", ".join(
            f"{name} ({states[0 if name not in met else 1 if name not in self.right else 2]})"
            for name in odd
        )


class StoryError(Exception):
    """A command that should have gone on did not."""


def start(
    arguments: Sequence[str], folder: Path, *, prepare: Callable[[], None] = lambda: None
) -> int:
    """The process of one command, forked, in a session of its own with all that it starts."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        _play(arguments, folder, prepare)
    return process


def _play(arguments: Sequence[str], folder: Path, prepare: Callable[[], None]) -> None:
    """The whole life of a forked process."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        said = os.open(folder.with_name(SAID), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = ["weakloc", *arguments]
        prepare()
        from weakloc.cli import run

        code = run([*arguments, "--quiet"])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def finished(process: int, folder: Path) -> tuple[int, str]:
    """The exit code and the last that was said; 124 where it takes too long."""
    code = _code_of(process, time.monotonic() + SECONDS)
    said = folder.with_name(SAID)
    lines = said.read_text(errors="replace").strip().splitlines() if said.is_file() else [""]
    said.unlink(missing_ok=True)
    return code, " | ".join(lines[-8:])


def _code_of(process: int, until: float) -> int:
    while time.monotonic() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return abs(os.waitstatus_to_exitcode(status))
        time.sleep(0.01)
    kill(process)
    return 124


def kill(process: int) -> bool:
    """Ends a session at once; whether it was still at work."""
    ended, _ = os.waitpid(process, os.WNOHANG)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
        if not ended:
            os.waitpid(process, 0)
    return not ended


def kill_some(process: int, random: Random) -> bool:
    """Ends any of a command and the processes that it started, the others a little later."""
    command = psutil.Process(process)
    was_at_work = command.status() != psutil.STATUS_ZOMBIE
    family = [command, *command.children(recursive=True)]
    for victim in random.sample(family, random.randint(1, len(family))):
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    time.sleep(random.uniform(0, 0.5))
    kill(process)
    return was_at_work


_TIMES = re.compile(rb'"(seconds|date|time|started|finished_at)": *("[^"]*"|[-+.\de]+)')


def digests(folder: Path) -> dict[str, str]:
    """Of every file, without what tells how long something took; nothing of checkpoints and logs.

    A checkpoint holds the state of a training that has ended, with times in it; so do the logs of
    TensorBoard, of which each process writes one.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix == ".ckpt" or path.parent.name == "tensorboard":
            continue
        content = path.read_bytes()
        if path.suffix in (".json", ".html"):
            content = _TIMES.sub(b"", content)
        if path.name == "epochs.csv":
            content = re.sub(rb",[^,\n]*\n", b"\n", content)
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def tell(stage: Stage, times: int, random: Random, until: float) -> Verdicts:
    """Stories of kills until there were so many, or until the time is up."""
    verdicts = Verdicts()
    while verdicts.interruptions < times and time.monotonic() < until:
        stage.set()
        verdicts.stories += 1
        moments = []
        arguments = stage.command.arguments
        for _ in range(min(random.randint(1, MOST_KILLS), times - verdicts.interruptions)):
            moment = random.uniform(0, stage.seconds)
            process = stage.begin(arguments)
            time.sleep(moment)
            verdicts.in_work += kill_some(process, random)
            verdicts.interruptions += 1
            moments.append(round(moment, 3))
            arguments = (*stage.command.arguments, *stage.command.to_go_on)
        _judge(stage, verdicts, f"killed after {moments} s")
    return verdicts


def _judge(stage: Stage, verdicts: Verdicts, story: str) -> None:
    """The end, undisturbed; what was whole already may be refused a second time."""
    refused = ""
    try:
        stage.go_on((*stage.command.arguments, *stage.command.to_go_on))
    except StoryError as error:
        refused = f"; {error}"
    difference = stage.difference()
    difference += refused if difference else ""
    if difference:
        verdicts.differences.append(f"{story}: {difference}")


def disturb(stage: Stage, fault: Fault, times: int, random: Random, until: float) -> Verdicts:
    """A disk that is full after some bytes, a folder that cannot be written, a clock gone back."""
    verdicts = Verdicts()
    size = sum(path.stat().st_size for path in _files(stage.work)) + 2**16
    if fault == "small disk":
        size = _put_on_a_disk(stage)
    while verdicts.interruptions < times and time.monotonic() < until:
        stage.set()
        verdicts.stories += 1
        verdicts.interruptions += 1
        share = random.uniform(0.0, 1.0)
        with _faulty(stage, fault, int(share * size)) as prepare:
            code, said = finished(stage.begin(stage.command.arguments, prepare), stage.work)
            verdicts.in_work += code != 0
        codes = (1, 2) if fault == "read-only" else (0, 1, 2)
        if code not in codes or (code and not re.fullmatch(r"weakloc: [^|]*", said)):
            verdicts.differences.append(f"{fault} at {share:.3f}: exit {code}: {said}")
            continue
        _judge(stage, verdicts, f"{fault} at {share:.3f}, exit {code}, {said[-200:]!r}")
    if fault == "small disk":
        ctypes.CDLL(None).umount(os.fsencode(stage.work))
    return verdicts


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@contextmanager
def _faulty(stage: Stage, fault: Fault, num_bytes: int) -> Iterator[Callable[[], None]]:
    """What a process does to itself before it begins."""
    if fault == "full disk":
        yield lambda: _limit_files(num_bytes)
    elif fault == "small disk":
        taken = _taken(stage.work)
        _mount(None, stage.work, None, _REMOUNT, f"size={taken + num_bytes}")
        yield lambda: None
        _mount(None, stage.work, None, _REMOUNT, "size=50%")
    elif fault == "read-only":
        yield lambda: _mount_read_only(stage.work)
    else:
        ahead = time.time() + 86_400
        for path in _files(stage.work):
            os.utime(path, (ahead, ahead))
        yield _turn_back_the_clock


def _limit_files(num_bytes: int) -> None:
    """No file may grow beyond so many bytes: what writing to a full disk looks like."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = max(num_bytes // 8, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


_NEW_NAMESPACE, _BIND, _REMOUNT, _READ_ONLY, _PRIVATE = 0x20000, 4096, 32, 1, 0x44000


def _own_mounts() -> None:
    """What this process mounts from now on is its own; needs the right to mount."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NAMESPACE) != 0:
        raise OSError(ctypes.get_errno(), "cannot mount")
    _mount(None, Path("/"), None, _PRIVATE, None)


def _mount(what: str | None, where: Path, kind: str | None, flags: int, data: str | None) -> None:
    texts = [text and text.encode() for text in (what, str(where), kind, data)]
    if ctypes.CDLL(None, use_errno=True).mount(*texts[:3], flags, texts[3]) != 0:
        raise OSError(ctypes.get_errno(), "cannot mount")


def _mount_read_only(folder: Path) -> None:
    """For this process alone."""
    _own_mounts()
    _mount(str(folder), folder, None, _BIND, None)
    _mount(str(folder), folder, None, _BIND | _REMOUNT | _READ_ONLY, None)
    os.chdir(folder)


def _put_on_a_disk(stage: Stage) -> int:
    """The stage's work gets a file system in memory; how many bytes the command adds there."""
    _own_mounts()
    _mount("tmpfs", stage.work, "tmpfs", 0, "size=50%")
    stage.set()
    before = _taken(stage.work)
    stage.go_on(stage.command.arguments)
    return _taken(stage.work) - before


def _taken(disk: Path) -> int:
    state = os.statvfs(disk)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def _turn_back_the_clock() -> None:
    """A day back, and a second further back with each look at it."""
    real = time.time
    looks = iter(range(10**9))
    time.time = lambda: real() - 86_400 - next(looks)


def summary(name: str, fault: Fault, stage: Stage, verdicts: Verdicts) -> Mapping[str, object]:
    return {
        "command": name,
        "fault": fault,
        "stories": verdicts.stories,
        "interruptions": verdicts.interruptions,
        "in_work": verdicts.in_work,
        "different": len(verdicts.differences),
        "seconds_undisturbed": round(stage.seconds, 2),
        "not_compared": sorted(stage.unlike),
        "differences": verdicts.differences[:5],
    }


def as_line(record: Mapping[str, object]) -> str:
    return json.dumps(record, ensure_ascii=False)
