"""Feature maps on disk: half precision, memory-mapped, only ever appended to.

A store belongs to one way of computing (its key) and holds one map an image (the image's key).
Rows are flushed to disk before their keys are listed, so a killed run loses at most the last
batch and goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.data.tar_members import is_member_path
from weakloc.errors import FailureError, RunError
from weakloc.files import open_whole
from weakloc.geometry import Size

FORMAT = 1
Features: TypeAlias = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Row:
    index: int
    image_size: Size


class FeatureStore:
    """`shape` is (rows, columns, channels) of one map, None until the first is written."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.shape: tuple[int, int, int] | None = None
        self._description = dict(description)
        self._rows: dict[str, Row] = {}
        self._maps: Features | None = None
        self._read()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, image_key: str) -> bool:
        return image_key in self._rows

    def row(self, image_key: str) -> Row:
        return self._rows[image_key]

    def append(self, image_keys: Sequence[str], sizes: Sequence[Size], features: Features) -> None:
        """Adds maps (N, rows, columns, channels) of images that are not there yet."""
        if self.shape is None:
            self._create(features.shape[1:])
        elif features.shape[1:] != self.shape:
            raise RunError(
                f"feature maps of {features.shape[1:]} do not fit those of {self.shape}",
                where=str(self.folder),
                remedy="Delete this folder; it is computed again",
            )
        try:
            with self._data_path.open("ab") as file:
                _write_through(file, np.ascontiguousarray(features).tobytes())
            lines = "".join(
                f"{key} {size[0]:g} {size[1]:g}\n"
                for key, size in zip(image_keys, sizes, strict=True)
            )
            with self._index_path.open("ab") as file:
                _write_through(file, lines.encode())
        except OSError as error:
            raise FailureError(
                f"features cannot be written ({error.strerror})",
                where=str(self.folder),
                remedy="Free space, or give a folder elsewhere with --feature-cache",
            ) from error
        self._maps = None
        for key, size in zip(image_keys, sizes, strict=True):
            self._rows[key] = Row(len(self._rows), size)

    def maps(self) -> Features:
        """All maps, (N, rows, columns, channels), read from disk when touched."""
        assert self.shape is not None, "nothing was written yet"
        if self._maps is None:
            shape = (len(self._rows), *self.shape)
            self._maps = np.memmap(self._data_path, dtype=np.float16, mode="r", shape=shape)
        return self._maps

    def _create(self, shape: tuple[int, ...]) -> None:
        rows, columns, channels = shape
        self.shape = (rows, columns, channels)
        header = {"format": FORMAT, "shape": self.shape, "made_by": self._description}
        with open_whole(self.folder / "features.json") as file:
            json.dump(header, file, indent=2)

    def _read(self) -> None:
        """Takes up what is there and cuts off what a killed process left half-written."""
        header_path = self.folder / "features.json"
        if not header_path.is_file():
            self._index_path.unlink(missing_ok=True)
            self._data_path.unlink(missing_ok=True)
            return
        header = json.loads(header_path.read_text(encoding="utf-8"))
        rows, columns, channels = header["shape"]
        self.shape = (rows, columns, channels)
        row_bytes = 2 * rows * columns * channels
        index = self._index_path.read_bytes() if self._index_path.is_file() else b""
        lines = index[: index.rfind(b"\n") + 1].decode().splitlines()
        held = self._data_path.stat().st_size // row_bytes if self._data_path.is_file() else 0
        for line in lines[:held]:
            key, width, height = line.split()
            self._rows[key] = Row(len(self._rows), (float(width), float(height)))
        kept_bytes = len(self._rows) * row_bytes
        if self._data_path.is_file() and self._data_path.stat().st_size != kept_bytes:
            os.truncate(self._data_path, kept_bytes)
        kept = "".join(f"{line}\n" for line in lines[:held]).encode()
        if index != kept:
            self._index_path.write_bytes(kept)

    @property
    def _index_path(self) -> Path:
        return self.folder / "index.txt"

    @property
    def _data_path(self) -> Path:
        return self.folder / "features.f16"


def image_key(path: str) -> str:
    """Stands for the content of an image: its place, size and time of change."""
    container = path.rpartition("::")[0] if is_member_path(path) else path
    status = Path(container).stat()
    told = f"{Path(path).absolute()}\n{status.st_size}\n{status.st_mtime_ns}"
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Holds the folder; other processes wait here and then find what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_through(file: IO[bytes], content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
