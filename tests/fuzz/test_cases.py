"""What once ended badly ends well now, and what is valid is read."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.arena import GOOD, prepare, run, without_places
from tests.fuzz.inputs import Input, input_of, valid_input
from tests.fuzz.readers import READERS
from tests.fuzz.shrinking import CASES, read_case

KEPT = sorted(CASES.glob("*.json"))


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> None:
    prepare(())


def test_no_kept_case_ends_badly_again() -> None:
    made = [read_case(path) for path in KEPT]
    tally = run(made.__getitem__, len(made), target="kept", until=time.monotonic() + 60)
    assert [f"{KEPT[f.number].name}: {f}" for f in tally.findings.values()] == []
    assert tally.num_inputs == len(KEPT)


def test_a_kept_trace_names_files_from_the_repository_and_from_the_libraries_alone() -> None:
    trace = 'File "/my code/src/weakloc/rle.py", line 1\n  File "/opt/lib/python3.12/abc.py"'
    told = 'File "src/weakloc/rle.py", line 1\n  File "python3.12/abc.py"'
    assert without_places(trace) == told
    for path in KEPT:
        found = json.loads(path.read_text("utf-8"))["found"]
        assert without_places(found) == found, path.name


def test_the_same_seed_and_number_are_the_same_input_and_another_one_is_not() -> None:
    for target in READERS:
        assert input_of(target, 3, 5) == input_of(target, 3, 5)
    assert input_of("coco", 3, 5) != input_of("coco", 3, 6)
    assert input_of("coco", 3, 5) != input_of("coco", 4, 5)


@pytest.mark.parametrize("target", sorted(set(READERS) - {"mixed", "lists", "requests"}))
def test_what_the_grammar_makes_is_read_without_an_error(target: str) -> None:
    tally = run(
        lambda number: valid_input(target, Random(number)),
        6,
        target=target,
        until=time.monotonic() + 30,
    )
    assert tally.counts["fine"] + tally.counts["skipped"] == tally.num_inputs == 6


def test_the_arena_tells_each_bad_end_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that fails in every way, each for a content of its own."""

    def escape(_: Path) -> None:
        Path("/etc/passwd").read_bytes()

    def hang(_: Path) -> None:
        time.sleep(60)

    ends = {
        "traceback": lambda _: 1 // 0,
        "memory": lambda _: bytearray(4 * 2**30),
        "crash": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
        "file outside": escape,
        "hang": hang,
    }
    monkeypatch.setattr("tests.fuzz.arena.SECONDS", 0.5)
    monkeypatch.setitem(READERS, "test", lambda folder: ends[next(folder.iterdir()).name](folder))
    made = [Input("test", {name: ("file", b"")}) for name in ends]
    tally = run(made.__getitem__, len(made), target="test", until=time.monotonic() + 30)
    assert {f.outcome: f.number for f in tally.findings.values()} == {
        name: number for number, name in enumerate(ends)
    }
    assert not any(tally.counts[name] for name in GOOD)
