"""Files written whole or not at all, and file names made from any class or image name."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Generic, TypeVar
from urllib.parse import quote

Value = TypeVar("Value")
# What every file system and every annotation tool takes as a part of a file name.
_PLAIN = " !#$&'()+,-.;=@[]^_`{}~"


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends without an exception.

    Whoever reads `path` meets the old content or the whole new one; a failed block leaves the
    old one. Folders on the way are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix[:16]}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def open_whole(path: Path) -> Iterator[IO[str]]:
    """Like `write_whole`, as an open UTF-8 text file whose lines end in a bare line feed."""
    with (
        write_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as stream,
    ):
        yield stream


def file_name_of(name: str) -> str:
    """A name as one part of a path: slashes, control characters and the like become %XX.

    Letters of any script stay readable; two different names never give the same part.
    """
    escaped = "".join(
        letter
        if letter in _PLAIN or letter.isalnum()
        else quote(letter, safe="", errors="surrogatepass")
        for letter in name
    )
    if not escaped.strip(". "):  # "", ".", "..", " "
        escaped = "".join(f"%{byte:02X}" for byte in name.encode()) or "%"
    return escaped


class ByName(Generic[Value]):
    """Values by image name; where no name fits, by its last part if only one name ends so.

    For lists that name the same files from different folders.
    """

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values
        self._named: dict[str, str | None] = {}  # last part -> the one name that ends so
        for name in values:
            last = name.rpartition("/")[2]
            self._named[last] = None if last in self._named else name

    def get(self, name: str) -> Value | None:
        if name not in self._values:
            name = self._named.get(name.rpartition("/")[2]) or name
        return self._values.get(name)
