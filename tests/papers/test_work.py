"""Tasks in one process and in several: order, failures, a process that dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from weakloc.errors import DataError, StoppedError
from weakloc.work import work_through


@dataclass(frozen=True)
class Writing:
    """Leaves a file that says how many threads it may use, or does not."""

    path: Path
    way: str = "well"
    then: tuple[Writing, ...] = ()

    def run(self) -> None:
        if self.way == "mistake":
            raise DataError("no such folder", remedy="Make it")
        if self.way == "bug":
            raise ZeroDivisionError("in our code")
        if self.way == "stop":
            raise StoppedError("stopped by SIGINT")
        if self.way == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        self.path.write_text(os.environ.get("OMP_NUM_THREADS", "unset"))


def _problems(works: list[Writing], jobs: int) -> dict[str, str | None]:
    pairs = work_through(works, jobs=jobs, then=lambda work: work.then)
    return {work.path.name: problem for work, problem in pairs}


def _work(folder: Path, name: str, way: str = "well", *then: Writing) -> Writing:
    return Writing(folder / name, way, then)


def test_what_follows_a_task_comes_right_after_it(tmp_path: Path) -> None:
    works = [_work(tmp_path, "a", "well", _work(tmp_path, "a1")), _work(tmp_path, "b")]
    assert _problems(works, 1) == {"a": None, "a1": None, "b": None}
    assert [*_problems(works, 1)] == ["a", "a1", "b"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failure_stops_its_own_task_and_what_follows_it_alone(tmp_path: Path, jobs: int) -> None:
    works = [
        _work(tmp_path, "a", "mistake", _work(tmp_path, "a1")),
        _work(tmp_path, "b", "bug"),
        _work(tmp_path, "c"),
    ]
    problems = _problems(works, jobs)
    assert problems["a"] == "no such folder. Make it"
    assert "ZeroDivisionError: in our code" in (problems["b"] or "")
    assert problems["c"] is None
    assert "a1" not in problems
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_process_that_dies_takes_at_most_the_task_beside_it(tmp_path: Path) -> None:
    works = [_work(tmp_path, "a", "die"), *(_work(tmp_path, name) for name in "bcdef")]
    problems = _problems(works, 2)
    assert set(problems) == set("abcdef")
    assert "died" in (problems["a"] or "")
    # Which task was beside it when the pool saw it die is a matter of chance.
    lost = {name for name, problem in problems.items() if problem is not None}
    assert len(lost - {"a"}) <= 1
    assert {path.name for path in tmp_path.iterdir()} >= set("abcdef") - lost


def test_processes_share_the_cores_and_the_environment_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    _problems([_work(tmp_path, "a"), _work(tmp_path, "b")], 2)
    assert (tmp_path / "a").read_text() == str(max(1, (cores or 1) // 2))
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("jobs", [1, 2])
def test_asked_to_stop_everything_stops(tmp_path: Path, jobs: int) -> None:
    works = [_work(tmp_path, "a", "stop"), *(_work(tmp_path, f"b{place}") for place in range(9))]
    with pytest.raises(StoppedError, match="same command"):
        _problems(works, jobs)
    assert jobs == 2 or not list(tmp_path.iterdir())  # two may have come far already


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Killed, the parent can tell them nothing."""
    parent = multiprocessing.get_context("spawn").Process(target=_wait_in_pool, args=(tmp_path,))
    parent.start()
    said = tmp_path / "a"
    while not (said.exists() and said.read_text()):
        time.sleep(0.05)
    running = [psutil.Process(int(said.read_text()))]
    parent.kill()
    parent.join()
    gone, _ = psutil.wait_procs(running, timeout=20)
    assert len(gone) == 1


@dataclass(frozen=True)
class Waiting:
    """Says who it is, then works on for longer than anybody waits."""

    path: Path

    def run(self) -> None:
        self.path.write_text(str(os.getpid()))
        time.sleep(60)


def _wait_in_pool(folder: Path) -> None:
    works = [Waiting(folder / name) for name in "ab"]
    list(work_through(works, jobs=2, then=lambda _work: ()))
