"""Whatever a user points at -> images to predict, one after the other, never listed in memory.

What a table says of them comes as label vectors by image name.
"""

from __future__ import annotations

import glob
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Self

from PIL import Image

from weakloc.data.images import IMAGE_SUFFIXES, open_file
from weakloc.data.readers.assembly import LabelVectors, Oddity, Problems
from weakloc.data.readers.file_tree import images_below
from weakloc.data.readers.shards import SHARD_SUFFIXES, find_shards, images_of_shard, read_content
from weakloc.data.readers.table import TABLE_SUFFIXES, images_of_table, table_rows
from weakloc.errors import DataError, ImageError, did_you_mean
from weakloc.files import (
    ByName,
    is_so,
    is_text,
    is_url,
    leads_out,
    path_of,
    plain,
    stored_entries,
    text_lines,
)
from weakloc.settings import ReaderOptions
from weakloc.structures import LabelVector, Problem, Sample


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image to predict: its name in the output, and a path or the encoded bytes.

    `flaw` says why there is nothing to read, as of a shard that is damaged.
    """

    name: str
    content: str | bytes
    flaw: str | None = None
    split: str | None = None  # what a data set says that it is for

    def fetched(self) -> Self:
        """The same with its bytes, out of an object store."""
        try:
            return replace(self, content=open_file(self.content).read())
        except ImageError as error:
            return replace(self, content=b"", flaw=error.message)

    @classmethod
    def of(cls, sample: Sample) -> Self:
        return cls(sample.name, sample.path)

    @classmethod
    def of_picture(cls, name: str, picture: Image.Image) -> Self:
        """One that a program has opened, as it is: turned upright, in whatever mode."""
        content = BytesIO()
        picture.save(content, "TIFF")  # takes every mode, and keeps no orientation
        return cls(name, content.getvalue())


def find_images(source: str) -> Iterator[ImageSource]:
    """A folder, an image, a glob, a list (.txt), a table, shards (.tar) or `-`.

    Names are relative to the folder given (for a list or table: as written), with forward
    slashes; the order is the same on every machine.
    """
    images, _, if_none = _opened(source)
    if images is None:
        raise if_none
    return _images_if_any(images, if_none)


def folder_of_images(source: str) -> Path | None:
    """What the names of `find_images(source)` are relative to; None for shards or what is gone."""
    return _opened(source)[1]


def _opened(source: str) -> tuple[Iterator[ImageSource] | None, Path | None, DataError]:
    """The images of a source, of which none is looked for yet, what they are relative to, and
    what is said where there is none."""
    stored_entries.cache_clear()
    path = path_of(source)
    suffix = path.suffix.lower()
    per_line = "One path a line is expected"
    if source == "-":
        no_image = DataError("no image is named", location="standard input", remedy=per_line)
        return _named(_lines(sys.stdin), Path()), Path(), no_image
    if is_so(path.is_dir):
        shown = f"Looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
        no_image = DataError("no image in this folder", location=source, remedy=shown)
        return _named(images_below(source), path), path, no_image
    if source.lower().endswith(SHARD_SUFFIXES) or ("{" in source and not is_so(path.exists)):
        no_image = DataError("no image in these shards", location=source)
        return _in_shards(source), None, no_image
    if is_so(path.is_file):
        images = iter((ImageSource(path.name, str(path)),))
        if suffix == ".txt" or suffix in TABLE_SUFFIXES:
            names = _lines(text_lines(path)) if suffix == ".txt" else images_of_table(path)
            images = _named(names, path.parent)
        no_image = DataError("no image is named", location=str(path), remedy=per_line)
        return images, path.parent, no_image
    if glob.has_magic(source):
        # The folder named before the first wildcard.
        fixed = source[: min(source.find(mark) for mark in "*?[" if mark in source)]
        folder = fixed.rpartition("/")[0] or ("/" if source.startswith("/") else ".")
        no_image = DataError("no image matches this pattern", location=source)
        return _matching_images(source, folder), Path(folder), no_image
    remedy = "Give a folder, image, quoted glob, .txt list, .csv table, .tar shards or -"
    return None, None, DataError("no such folder or file", location=source, remedy=remedy)


def _lines(lines: Iterable[str]) -> Iterator[str]:
    return (name for line in lines if (name := line.rstrip("\r\n")).strip())


def _named(images: Iterable[str | tuple[str, bytes]], folder: Path) -> Iterator[ImageSource]:
    for image in images:
        if not isinstance(image, str):
            yield _source(*image)
        elif is_url(str(folder)) and leads_out(image):
            yield ImageSource(plain(image), b"", flaw="it is named outside of the folder")
        else:
            yield _source(image, str(folder / image))


def _images_if_any(images: Iterator[ImageSource], if_none: DataError) -> Iterator[ImageSource]:
    first = next(images, None)
    if first is None:
        raise if_none
    yield first
    yield from images


def _matching_images(pattern: str, folder: str) -> Iterator[ImageSource]:
    paths = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - absolute patterns too
    if is_url(pattern):
        paths = map(str, path_of(folder).glob(os.path.relpath(pattern, folder)))
    for path in sorted(paths):
        if Path(path).suffix.lower() in IMAGE_SUFFIXES:
            yield _source(os.path.relpath(path, folder), path)


def _source(name: str, content: str | bytes) -> ImageSource:
    """The image of a file; a name that cannot be written is its flaw."""
    if not is_text(name):
        return ImageSource(plain(name), b"", flaw="its name is not UTF-8; rename it")
    return ImageSource(name.replace(os.sep, "/"), content)


def _in_shards(source: str) -> Iterator[ImageSource]:
    """The images of every shard; after those of a damaged one, what is wrong with it."""
    for shard in find_shards(source):
        name = Path(shard).name
        latest = deque[Problem](maxlen=1)  # that a shard is damaged is said last
        for image in images_of_shard(shard, None, Problems(listed=latest), read_content):
            yield ImageSource(f"{name}/{image.member.name}", image.content)
        for problem in latest:
            if problem.kind == Oddity.BROKEN_SHARD:
                yield ImageSource(name, b"", flaw=problem.message)


def read_tags(
    named: str | Path, class_names: Sequence[str]
) -> tuple[ByName[LabelVector], list[Problem]]:
    """Any table that `weakloc train --labels` takes; image names as in the predictions.

    A class that the model does not know is an error: its tag could never be honoured.
    """
    path, problems, shared = path_of(named), Problems(), LabelVectors(class_names)
    vectors: dict[str, LabelVector] = {}
    for row in table_rows(path, ReaderOptions(), problems):
        for name in sorted(row.claim.names - shared.class_index.keys()):
            raise DataError(
                f"the run has no class {name!r}",
                location=str(path.with_name(row.location)),
                remedy=did_you_mean(name, class_names),
            )
        vectors[row.image] = shared.of(row.claim)
    return ByName(vectors), list(problems.listed)
