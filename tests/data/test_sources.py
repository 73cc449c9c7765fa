"""Everything a user can point at, in names and order that are the same everywhere."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from weakloc.data.images import IMAGE_SUFFIXES
from weakloc.data.readers import read_data_set
from weakloc.data.sources import find_images, folder_of_images
from weakloc.errors import DataError
from weakloc.settings import ReaderOptions

NAMES = ["a b.png", "b/c/1.webp", "b/Ärger 猫.JPG", "z.jpeg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files are never opened while they are listed, so their content does not matter."""
    root = tmp_path / "photos of [2024]"
    for name in [*NAMES, "notes.txt.bak", "b/.hidden.png", ".thumbs/1.png"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names(source: str | Path) -> list[str]:
    return [image.name for image in find_images(str(source))]


def test_a_folder_gives_its_images_in_name_order_below_itself(folder: Path) -> None:
    assert names(folder) == NAMES
    for image in find_images(str(folder)):
        assert isinstance(image.content, str)
        assert Path(image.content).read_bytes() == image.name.encode()


def test_links_are_followed_and_circles_are_not(folder: Path) -> None:
    (folder / "b" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "again").symlink_to(folder / "b" / "c", target_is_directory=True)
    assert names(folder) == ["a b.png", "again/1.webp", *NAMES[1:]]


def test_a_folder_gives_the_images_that_training_reads_from_it(tmp_path: Path) -> None:
    for suffix in sorted(IMAGE_SUFFIXES):
        for folder in ("cat", "dog/big", "__MACOSX", "cat/__MACOSX"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"1{suffix}").touch()
            (tmp_path / folder / f"2{suffix.upper()}").touch()
    data_set = read_data_set(tmp_path, layout="folders", options=ReaderOptions())
    assert names(tmp_path) == sorted(sample.name for sample in data_set.samples())
    assert len(names(tmp_path)) == 4 * len(IMAGE_SUFFIXES)


def test_the_masks_of_a_voc_data_set_are_no_photographs(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").touch()
    assert names(tmp_path) == ["JPEGImages/1.png"]
    assert names(tmp_path / "SegmentationClass") == ["1.png"]


def test_one_image_is_named_by_itself(folder: Path) -> None:
    assert names(folder / NAMES[2]) == ["Ärger 猫.JPG"]
    (folder / "x{1}.png").touch()
    assert names(folder / "x{1}.png") == ["x{1}.png"]


def test_a_glob_gives_names_below_the_folder_before_its_first_wildcard(tmp_path: Path) -> None:
    for name in ("p/1.png", "p/q/2.png", "p/q/3.txt", "r/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(f"{tmp_path}/p/**/*.png") == ["1.png", "q/2.png"]
    assert names(f"{tmp_path}/*/*.png") == ["p/1.png", "r/4.png"]
    with pytest.raises(DataError, match="no image matches"):
        names(f"{tmp_path}/*.gif")


def test_a_list_is_read_as_written(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes("\ufeffa b.png\r\n\r\nsub/ü.png\n/abs/c.png".encode())
    assert names(listed) == ["a b.png", "sub/ü.png", "/abs/c.png"]
    contents = [image.content for image in find_images(str(listed))]
    assert contents == [str(tmp_path / "a b.png"), str(tmp_path / "sub/ü.png"), "/abs/c.png"]


def test_standard_input_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("x/1.png\ny z.png\n"))
    assert names("-") == ["x/1.png", "y z.png"]


@pytest.mark.parametrize(("suffix", "sign"), [(".csv", ","), (".tsv", "\t")])
def test_a_table_is_read_by_its_column_of_paths(tmp_path: Path, suffix: str, sign: str) -> None:
    table = tmp_path / f"table{suffix}"
    rows = [["id", "Image_Path", "labels"], ["1", "a b.png", "cat"], ["2", "c.png", ""], ["3"]]
    table.write_text("\n".join(sign.join(row) for row in rows), encoding="utf-8-sig")
    assert names(table) == ["a b.png", "c.png"]
    table.write_text(sign.join(["number", "labels"]) + "\n")
    with pytest.raises(DataError, match=r"line 1: no column looks like image paths.*number, lab"):
        names(table)


TABLES = {
    "labels.csv": "file_path;labels\na b.png;cat\nsub/ü.png;\n",
    "wide.csv": "img_path,cat,dog\na b.png,1,0\nsub/ü.png,,1\n".encode("utf-16"),
    "short.csv": "a b.png,cat\nsub/ü.png,dog\n",
    "upper.TSV": "labels\tID\ncat\ta b.png\ncat\tsub/ü.png\n",
    "lines.jsonl": '{"image_id": "a b.png", "labels": ["cat"]}\n\n{"file": "sub/ü.png"}\n',
    "lines.NDJSON": '{"labels": "cat", "path": "a b.png"}\n{"path": "sub/ü.png", "tags": null}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_predicting_reads_every_table_that_training_reads(tmp_path: Path, name: str) -> None:
    content = TABLES[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "sub").mkdir()
    for image in ("a b.png", "sub/ü.png"):
        (tmp_path / image).touch()
    data_set = read_data_set(tmp_path, labels=tmp_path / name, options=ReaderOptions())
    assert [sample.name for sample in data_set.samples()] == ["a b.png", "sub/ü.png"]
    assert names(tmp_path / name) == ["a b.png", "sub/ü.png"]
    assert folder_of_images(str(tmp_path / name)) == tmp_path


def test_what_is_no_table_line_is_named(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text('{"path": "1.png"}\n{"labels": []}\n')
    with pytest.raises(DataError, match=r"t\.jsonl, line 2: there is no image path among labels"):
        names(table)
    (tmp_path / "t.csv").write_bytes("path\n1.png\nü.png\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t\.csv, line 3: byte 0xfc is not UTF-8 text"):
        names(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("path,labels\n")
    with pytest.raises(DataError, match=r"t\.csv: no image is named"):
        names(tmp_path / "t.csv")


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tgz", "w:gz"), ("tar.xz", "w:xz")])
def test_shards_give_the_bytes_themselves(tmp_path: Path, suffix: str, mode: Any) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"s-{number}.{suffix}", mode) as shard:
            for key in ("one", "two"):
                for kind, content in (("png", b"pixels of " + key.encode()), ("cls", b"0")):
                    member = tarfile.TarInfo(f"{key}.{kind}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    found = list(find_images(f"{tmp_path}/s-{{0..1}}.{suffix}"))
    assert [image.name for image in found] == [
        f"s-{number}.{suffix}/{key}.png" for number in range(2) for key in ("one", "two")
    ]
    assert found[3].content == b"pixels of two"
    assert names(f"{tmp_path}/s-0.{suffix}") == [
        f"s-0.{suffix}/{key}.png" for key in ("one", "two")
    ]


@pytest.mark.parametrize(
    ("num_bytes", "flaw"),
    [
        (2000, "ends without a tar file's end mark, so that samples may be missing"),
        (2500, "cannot be read to its end: unexpected end of data"),
    ],
)
def test_a_damaged_shard_is_listed_behind_its_images(
    tmp_path: Path, num_bytes: int, flaw: str
) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"s-{number}.tar", "w") as shard:
            for key in ("one", "two"):
                member = tarfile.TarInfo(f"{key}.png")
                member.size = 600
                shard.addfile(member, io.BytesIO(bytes(600)))
    whole = (tmp_path / "s-0.tar").read_bytes()
    (tmp_path / "s-0.tar").write_bytes(whole[:num_bytes])
    found = list(find_images(f"{tmp_path}/s-{{0..1}}.tar"))
    assert [image.name for image in found] == [
        "s-0.tar/one.png", "s-0.tar", "s-1.tar/one.png", "s-1.tar/two.png"
    ]  # fmt: skip
    assert [image.flaw for image in found] == [None, flaw, None, None]
    (tmp_path / "s-0.tar").write_bytes(b"no tar file at all" * 99)
    (record,) = find_images(f"{tmp_path}/s-0.tar")
    assert record.name == "s-0.tar"
    assert "cannot be read to its end" in str(record.flaw)


def test_shards_without_images_are_an_error(tmp_path: Path) -> None:
    tarfile.open(tmp_path / "s.tar", "w").close()
    with pytest.raises(DataError, match=r"s\.tar: no image in these shards"):
        names(f"{tmp_path}/s.tar")


@pytest.mark.parametrize("name", ["nothing.txt", "empty"])
def test_what_holds_no_image_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").write_text("\n\n")
    with pytest.raises(DataError, match=name):
        names(tmp_path / name)
    with pytest.raises(DataError, match="no such folder or file"):
        names(tmp_path / "absent")


def test_names_are_relative_to_the_folder_of_images(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("photos of [2024]/a b.png\n")
    assert folder_of_images(str(folder)) == folder
    assert folder_of_images(str(listed)) == tmp_path
    assert folder_of_images(str(folder / NAMES[0])) == folder
    assert folder_of_images(f"{tmp_path}/*/*.png") == tmp_path
    assert folder_of_images(f"{tmp_path}/s-{{0..1}}.tar") is None


def test_a_list_is_never_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for index in range(10**9):
            taken += 1
            yield f"{index}.png\n"

    monkeypatch.setattr("sys.stdin", lines())
    images = find_images("-")
    for _ in range(5):
        next(images)
    assert taken == 5


def test_names_that_are_no_text_are_flaws_and_stop_nothing(tmp_path: Path) -> None:
    for name in (b"a.jpg", b"caf\xe9.jpg", b"z.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"x")
    for source in (str(tmp_path), f"{tmp_path}/*.jpg"):
        images = list(find_images(source))
        assert [image.name for image in images] == ["a.jpg", "caf\\udce9.jpg", "z.jpg"]
        assert [image.flaw for image in images] == [None, "its name is not UTF-8; rename it", None]


def test_what_cannot_be_listed_is_one_broken_image_and_stops_nothing(tmp_path: Path) -> None:
    deep = tmp_path / "d" / Path(*["d"] * 300)
    deep.mkdir(parents=True)
    for folder in (tmp_path, deep, deep.parents[150]):
        (folder / "1.jpg").write_bytes(b"x")
    (tmp_path / "me.jpg").symlink_to(tmp_path / "me.jpg")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    names = [image.name for image in find_images(str(tmp_path))]
    assert "1.jpg" in names
    assert "me.jpg" in names
    assert names.count("1.jpg") == 1
    assert [len(name) for name in names if name.endswith("*")] == [2 * 200 + 1]


def test_a_folder_that_may_not_be_read_is_one_broken_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.jpg").write_bytes(b"x")
    list_folder = os.scandir

    def listed(path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", listed)
    assert [image.name for image in find_images(str(tmp_path))] == ["closed/*", "open.jpg"]
