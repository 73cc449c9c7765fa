"""Whatever a user points at -> images to predict, one after the other, never listed in memory."""

from __future__ import annotations

import csv
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from weakloc.data.readers.shard_members import find_shards, images_of_shard, read_content
from weakloc.errors import DataError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jfif", ".ppm", ".pgm")
)
PATH_COLUMNS = ("path", "image", "image_path", "file", "file_name", "filename", "name")


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image to predict: its name in the output, and a path or the encoded bytes."""

    name: str
    content: str | bytes


def find_images(source: str) -> Iterator[ImageSource]:
    """A folder, an image, a glob, a list (.txt), a table (.csv, .tsv), shards (.tar) or `-`.

    Names are relative to the folder given (for a list or table: as written), with forward
    slashes; the order is the same on every machine.
    """
    path = Path(source)
    if source == "-":
        return _from_lines(sys.stdin, folder=Path(), where="standard input")
    if path.is_dir():
        return _from_folder(path)
    if _are_shards(source):
        return _from_shards(source)
    if path.is_file():
        return _from_file(path)
    if glob.has_magic(source):
        return _from_glob(source)
    raise DataError(
        "no such folder or file",
        where=source,
        remedy="Give a folder, image, quoted glob, .txt list, .csv table, .tar shards or -",
    )


def _are_shards(source: str) -> bool:
    return Path(source).suffix == ".tar" or ("{" in source and not Path(source).exists())


def folder_of_images(source: str) -> Path | None:
    """What the names of `find_images(source)` are relative to; None for shards or what is gone."""
    path = Path(source)
    if source == "-":
        return Path()
    if path.is_dir():
        return path
    if _are_shards(source):
        return None
    if path.is_file():
        return path.parent
    return Path(_folder_of_glob(source)) if glob.has_magic(source) else None


def _from_file(path: Path) -> Iterator[ImageSource]:
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return _from_list(path)
    if suffix in (".csv", ".tsv"):
        return _from_table(path)
    return iter((ImageSource(path.name, str(path)),))


def _from_folder(folder: Path) -> Iterator[ImageSource]:
    found = False
    for path in _walk(str(folder), visited=frozenset()):
        found = True
        yield ImageSource(os.path.relpath(path, folder).replace(os.sep, "/"), path)
    if not found:
        shown = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("no image in this folder", where=str(folder), remedy=f"Looked for {shown}")


def _walk(folder: str, *, visited: frozenset[str]) -> Iterator[str]:
    """Images below a folder in name order; links are followed, circles are not."""
    real = os.path.realpath(folder)
    if real in visited:
        return
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, visited=visited | {real})
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - hot loop
            yield entry.path


def _from_glob(pattern: str) -> Iterator[ImageSource]:
    folder = _folder_of_glob(pattern)
    paths = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207 - absolute patterns too
    images = [path for path in paths if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise DataError("no image matches this pattern", where=pattern)
    for path in images:
        yield ImageSource(os.path.relpath(path, folder).replace(os.sep, "/"), path)


def _folder_of_glob(pattern: str) -> str:
    """The folder named before the first wildcard."""
    fixed = pattern[: min(pattern.find(mark) for mark in "*?[" if mark in pattern)]
    return fixed.rpartition("/")[0] or ("/" if pattern.startswith("/") else ".")


def _from_list(path: Path) -> Iterator[ImageSource]:
    with path.open(encoding="utf-8-sig") as lines:
        yield from _from_lines(lines, folder=path.parent, where=str(path))


def _from_lines(lines: Iterable[str], *, folder: Path, where: str) -> Iterator[ImageSource]:
    found = False
    for line in lines:
        name = line.rstrip("\r\n")
        if name.strip():
            found = True
            yield ImageSource(name.replace(os.sep, "/"), str(folder / name))
    if not found:
        raise DataError("no image is named", where=where, remedy="One path a line is expected")


def _from_table(path: Path) -> Iterator[ImageSource]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, delimiter=delimiter)
        names = {name.strip().lower(): name for name in rows.fieldnames or ()}
        column = next((names[name] for name in PATH_COLUMNS if name in names), None)
        if column is None:
            raise DataError(
                f"no column with image paths among {', '.join(names) or 'none'}",
                where=f"{path}, line 1",
                remedy=f"Name one of the columns {', '.join(PATH_COLUMNS)}",
            )
        for row in rows:
            if row[column]:
                yield ImageSource(row[column].replace(os.sep, "/"), str(path.parent / row[column]))


def _from_shards(source: str) -> Iterator[ImageSource]:
    for shard in find_shards(source):
        images = images_of_shard(shard, (), mode="r|*", read_image=read_content, problems=[])
        for image in images:
            yield ImageSource(f"{Path(shard).name}/{image.name}", image.content)
