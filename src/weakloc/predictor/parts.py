"""A long output written in parts, so that a killed run goes on where it stopped.

Images are cut into parts of a fixed number in input order. A part is written whole or not at
all, and its name carries a digest of its images' names. When every part is there they are joined
in input order.
"""

from __future__ import annotations

import fileinput
import hashlib
import itertools
import json
import multiprocessing
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weakloc.data.sources import ImageSource
from weakloc.errors import PredictionsError
from weakloc.files import (
    is_so,
    on_disk,
    open_whole,
    path_of,
    remove_unfinished,
    require_own,
    write_text,
)


@dataclass(frozen=True)
class Part:
    index: int
    images: tuple[ImageSource, ...]
    first: int  # number of its first image

    @property
    def stem(self) -> str:
        names = "\n".join(image.name for image in self.images).encode("utf-8", "surrogateescape")
        return f"part-{self.index:07d}-{hashlib.sha256(names).hexdigest()[:12]}"

    @property
    def landmark(self) -> str | None:
        """The path of one that is there, by which to know whether they can be seen."""
        paths = (image.content for image in self.images if isinstance(image.content, str))
        return next((path for path in paths if is_so(path_of(path).is_file)), None)


SETTINGS_NAME, SUMMARY_NAME = "settings.json", "predictions.json"
RESULTS = ("predictions.jsonl", "skipped.jsonl", SUMMARY_NAME, "pictures.png")  # beside the parts
_PART = re.compile(r"part-\d{7}-[0-9a-f]{12}\.(jsonl|skipped|key)")


class PartStore:
    """The folder of the parts beside the final file; what others put in it stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._settings = folder / SETTINGS_NAME

    def open(self, fingerprint: Mapping[str, Any], *, resume: bool) -> None:
        """Start afresh, or go on where parts made with the very same settings lie."""
        require_own(self.folder, ("*",), marks=(SETTINGS_NAME,))
        marks = (SUMMARY_NAME, f"{self.folder.name}/{SETTINGS_NAME}")
        require_own(self.folder.parent, RESULTS, marks=marks)
        for name in ("pictures", "heat_maps"):
            remove_unfinished((self.folder.parent / name).rglob(".*"))
        text = json.dumps({"format": "weakloc.parts/1", **fingerprint}, sort_keys=True)
        if resume and self._settings.is_file():
            if self._settings.read_text(encoding="utf-8") != text:
                raise PredictionsError(
                    "these parts were made with other settings, another run or other images",
                    location=str(self.folder),
                    remedy="Leave out --resume, delete this folder, or give another --out",
                )
            return
        self.remove()
        write_text(self._settings, text)

    def is_done(self, part: Part, key: str) -> bool:
        file = self.folder / f"{part.stem}.key"
        return file.is_file() and file.read_text(encoding="utf-8") == key

    def write(self, part: Part, key: str, lines: Iterable[str], skipped: Iterable[str]) -> None:
        """Whole lines. The key of images and tags comes last: all the rest is there then."""
        write_text(self.folder / f"{part.stem}.skipped", "".join(skipped))
        write_text(self.folder / f"{part.stem}.jsonl", "".join(lines))
        write_text(self.folder / f"{part.stem}.key", key)

    def join(self, stems: Sequence[str], predictions: Path, skipped: Path) -> tuple[int, int]:
        """All parts in order into the two final files; the numbers of lines of both."""
        return (
            _concatenate([self.folder / f"{stem}.jsonl" for stem in stems], predictions),
            _concatenate([self.folder / f"{stem}.skipped" for stem in stems], skipped),
        )

    def remove(self) -> None:
        """What `open` and `write` have made, the settings last: until then it is known as ours."""
        with on_disk(self.folder):
            paths = list(self.folder.glob("*"))
            remove_unfinished(paths)
            for path in (*(p for p in paths if _PART.fullmatch(p.name)), self._settings):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # there is none, or more in it
                self.folder.rmdir()


def cut_into_parts(images: Iterable[ImageSource], *, size: int) -> Iterator[Part]:
    iterator = iter(images)
    pieces = iter(lambda: tuple(itertools.islice(iterator, size)), ())
    return (Part(index, images, index * size) for index, images in enumerate(pieces))


def _concatenate(sources: Iterable[Path], target: Path) -> int:
    """How many lines they have together; there is one of them at least."""
    with open_whole(target) as joined, fileinput.FileInput(sources, encoding="utf-8") as lines:
        joined.writelines(lines)
        return lines.lineno()


def take_device() -> None:
    """Gives each of the processes that one command has begun another GPU of its machine."""
    number = multiprocessing.current_process().name.rpartition("-")[2]  # as in SpawnProcess-2
    if number.isdigit() and torch.cuda.is_available():
        torch.cuda.set_device(int(number) % torch.cuda.device_count())


def own_device() -> torch.device:
    """The GPU of this process, or the processor where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
