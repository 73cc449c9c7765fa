"""Text files in, lines with their numbers out; every byte order mark and line end is accepted."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from weakloc.errors import DataError

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """The whole text of a UTF-8 or marked UTF-16 file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    encoding = "utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"byte {content[error.start]:#04x} is not {encoding.upper()[:6].rstrip('-')} text",
            where=f"{path}, line {line}",
            remedy="Save the file as UTF-8",
        ) from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without surrounding blanks) of the lines that are not blank."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if text := line.strip():
            yield number, text


def at_line(path: Path, number: int) -> str:
    """How a place in a file is named in reports."""
    return f"{path.name}, line {number}"
