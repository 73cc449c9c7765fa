"""Whole files and safe names."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from weakloc.errors import DataError, FailureError, OutputError, RunError
from weakloc.files import (
    LOCK_NAME,
    append_synced,
    file_name_of,
    fit_json,
    is_text,
    one_line,
    only_writer,
    open_whole,
    parse_json,
    plain,
    read_json,
    require_own,
    write_json,
    write_text,
    write_whole,
)


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "result.json"
    with open_whole(path) as stream:
        stream.write("old é\n")
    with pytest.raises(KeyError), open_whole(path) as stream:  # noqa: PT012 (the block must fail)
        stream.write("half")
        raise KeyError("stop")
    assert path.read_bytes() == "old é\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_the_target_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with write_whole(path) as temporary:
        temporary.write_bytes(b"\x00\x01")
        assert not path.exists()
        assert temporary.suffix == ".bin"
    assert path.read_bytes() == b"\x00\x01"


NAMES = [
    "", ".", "..", " ", "dog", "a/b", "a\\b", "a%2Fb", "日本 犬", "tab\there", 'say "hi"', "<b>",
    "a:b", "CON*?", "é", "e\u0301",
]  # fmt: skip


def test_file_names_are_one_part_of_a_path_and_never_collide(tmp_path: Path) -> None:
    made = [file_name_of(name) for name in NAMES]
    assert len(set(made)) == len(NAMES)
    for name in made:
        (tmp_path / name).write_text("here")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(made)
    assert "dog" in made
    assert "日本 犬" in made


def test_json_comes_back_and_a_number_that_is_none_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    content = {"name": "犬", "share": 1e-05, "parts": [1, None]}
    write_json(path, content)
    assert path.read_text(encoding="utf-8").startswith('{\n  "name": "犬",\n  "share": 1e-05,')
    assert read_json(path, error=RunError) == content
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"share": float("inf")})
    assert read_json(path, error=RunError) == content


DAMAGES = {
    "truncated": b'{"a": 1',
    "a number too many": b'{"a": 1} 2',
    "not UTF-8": b'{"a": "\xff"}',
    "zeros": b"\x00" * 64,
    "empty": b"",
    "nested too deeply": b"[" * 100_000,
    "a number of many digits": b"1" * 5000,
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": 1e999}',
    "no object": b"[1, 2]",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_one_error_that_names_it(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(damage)
    with pytest.raises(RunError, match=r"JSON.*Restore it") as caught:
        read_json(path, error=RunError, remedy="Restore it")
    assert caught.value.location == str(path)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Part:
    shares: Mapping[str, float]
    side: int | None = None
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]


MISFITS = {
    '{"parts": 3}': "parts is 3: expected a list",
    '{"parts": [{"shares": {"x": 1, "y": "z"}}]}': (
        "parts[0].shares['y'] is \"z\": expected a number"
    ),
    '{"parts": [{"shares": {}, "side": 1.5}]}': (
        "parts[0].side is 1.5: expected a whole number or nothing"
    ),
    '{"parts": [{"shares": {}, "kind": "c"}]}': (
        'parts[0].kind is "c": this is not a value that is known'
    ),
    '{"parts": [{}]}': "parts[0] is {}: object missing required field 'shares'",
    "[]": "it is []: expected an object",
}


@pytest.mark.parametrize("text", MISFITS)
def test_what_does_not_fit_is_said_with_its_place_and_value(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(MISFITS[text])):
        fit_json(parse_json(text), Whole)


def test_what_fits_becomes_the_structure() -> None:
    text = '{"parts": [{"shares": {"x": 1}, "kind": "b"}], "more": 1}'
    assert fit_json(parse_json(text), Whole) == Whole((Part({"x": 1.0}, None, "b"),))


REFUSING = {
    "a full disk": "/dev/full",
    "a file where a folder is needed": "file/deeper/a.txt",
    "a folder where a file is needed": "folder",
    "a name that is too long": "x" * 300,
    "a link to itself": "circle/a.txt",
}


@pytest.mark.parametrize("refusal", REFUSING)
def test_what_the_system_refuses_to_write_is_one_line_that_says_how_to_go_on(
    tmp_path: Path, refusal: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    before = sorted(tmp_path.rglob("*"))
    path = tmp_path / REFUSING[refusal]
    is_device = path == Path("/dev/full")
    write = partial(append_synced, content=b"x") if is_device else partial(write_text, text="x")
    with pytest.raises(OutputError, match=r"cannot be written \(.*\)\. (Free|Give)") as caught:
        write(path)
    assert caught.value.location == str(path)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


HOLDING = """
import sys, time
from pathlib import Path
from weakloc.files import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_writer_and_a_killed_one_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(FailureError, match=r"is writing here\. Wait") as refused,
            only_writer(folder),
        ):
            raise AssertionError
        host, year = socket.gethostname(), time.strftime("%Y")
        assert refused.value.message.startswith(f"process {holder.pid} on {host} since {year}-")
        holder.kill()
    (folder / f".{'0a' * 16}.part.json").write_text("of the killed one")
    assert (folder / LOCK_NAME).is_file()
    with only_writer(folder):
        assert [path.name for path in folder.iterdir()] == [LOCK_NAME]
    assert not list(folder.iterdir())


def test_an_exception_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_writer(tmp_path):
        raise KeyError
    with only_writer(tmp_path):
        pass


def test_only_what_weakloc_made_may_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("mine")
    require_own(tmp_path, ["other.csv"])
    with pytest.raises(DataError, match=r"table.csv: is there already.*Move it"):
        require_own(tmp_path, ["*.csv"], marks=["record.json"])
    (tmp_path / "record.json").write_text('{"format": "of another program"}')
    with pytest.raises(DataError):
        require_own(tmp_path, ["*.csv"], marks=["record.json"])
    (tmp_path / "record.json").write_text('{"format": "weakloc.record/1"}')
    require_own(tmp_path, ["*.csv"], marks=["record.json"])


PLAIN = {
    "cat": "cat",
    "日本\u3000犬 👩\u200d💻 é\n\t": "日本\u3000犬 👩\u200d💻 é\n\t",
    "\x1b[2J\x07": "\\u001b[2J\\u0007",
    "\x9b31m\r": "\\u009b31m\\u000d",
    "gpj.\u202etac": "gpj.\\u202etac",
    os.fsdecode(b"caf\xe9"): "caf\\udce9",
}


@pytest.mark.parametrize("name", PLAIN, ids=PLAIN.values())
def test_what_steers_a_terminal_or_is_no_text_is_spelt_out(name: str) -> None:
    assert plain(name) == PLAIN[name]
    assert json.loads(plain(json.dumps([name], ensure_ascii=False))) == [name]
    assert "\n" not in one_line(name)
    assert is_text(name) == ("udce9" not in plain(name))
