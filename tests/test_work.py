"""Work in this process and in others: every item once, whatever happens on the way."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from weakloc.errors import DataError
from weakloc.work import _begin, map_in_processes, num_cores


def square(number: int) -> int:
    if number == 13:
        raise DataError("13 brings bad luck", location="the list", remedy="Leave it out")
    if number == 66:
        os._exit(1)
    return number * number


def minus(number: int) -> int:
    return -number


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_comes_once_with_its_result(processes: int) -> None:
    results = list(map_in_processes(square, range(9), processes=processes, if_killed=minus))
    assert sorted(results) == [(n, n * n) for n in range(9)]


def test_one_process_keeps_the_order_and_takes_items_as_they_are_needed() -> None:
    items = iter(range(10**9))
    results = map_in_processes(square, items, processes=1, if_killed=minus)
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 4)]
    assert next(items) == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_what_follows_from_a_result_is_taken_up_next(processes: int) -> None:
    def then(number: int, result: int) -> Iterable[int]:
        return (number + 100, number + 200) if number < 100 and result >= 0 else ()

    results = map_in_processes(square, [1, 2, 3], processes=processes, if_killed=minus, then=then)
    numbers = [number for number, _ in results]
    assert sorted(numbers) == [1, 2, 3, 101, 102, 103, 201, 202, 203]
    if processes == 1:
        assert numbers == [1, 101, 201, 2, 102, 202, 3, 103, 203]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_child_comes_out_as_it_was_raised(processes: int) -> None:
    with pytest.raises(DataError, match=r"the list: 13 brings bad luck\. Leave it out"):
        list(map_in_processes(square, [13], processes=processes, if_killed=minus))


def test_the_items_of_a_killed_process_get_their_result_and_the_others_go_on() -> None:
    items = [66, *range(1, 9)]
    results = dict(map_in_processes(square, items, processes=2, if_killed=minus))
    assert results[66] == -66
    assert sorted(results) == sorted(items)
    assert all(results[n] in {n * n, -n} for n in range(1, 9))
    assert sum(result < 0 for result in results.values()) <= 2


def test_no_process_goes_on_without_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    is_gone, has_ended = threading.Event(), threading.Event()
    parent = SimpleNamespace(join=is_gone.wait)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(os, "_exit", lambda _: has_ended.set())
    _begin(dict)  # what each process of a pool calls first
    assert not has_ended.wait(0.05)
    is_gone.set()
    assert has_ended.wait(5)


def wait_for_the_others(path: Path) -> None:
    """The first waits until all others were done, by the other process."""
    while path.name == "0" and not (path.parent / "8").exists():
        time.sleep(0.01)
    path.touch()


def test_a_slow_process_holds_nothing_but_its_own_item(tmp_path: Path) -> None:
    items = [tmp_path / str(number) for number in range(9)]
    done = map_in_processes(wait_for_the_others, items, processes=2, if_killed=print)
    assert [path.name for path, _ in done] == [*"123456780"]


def fail_or_sleep(number: int) -> None:
    time.sleep(60 * number)
    raise DataError("stopped")


def test_what_fails_ends_the_other_processes_at_once() -> None:
    before = set(multiprocessing.active_children())
    began = time.monotonic()
    with pytest.raises(DataError, match="stopped"):
        list(map_in_processes(fail_or_sleep, [0, 1], processes=2, if_killed=print))
    assert set(multiprocessing.active_children()) == before
    assert time.monotonic() - began < 30


def test_at_least_one_process_is_needed() -> None:
    with pytest.raises(ValueError, match="processes is 0"):
        list(map_in_processes(square, [], processes=0, if_killed=minus))
    assert num_cores() >= 1
