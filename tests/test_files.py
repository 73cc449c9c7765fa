"""Whole files and safe names."""

from __future__ import annotations

from pathlib import Path

import pytest

from weakloc.files import file_name_of, open_whole, write_whole


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
