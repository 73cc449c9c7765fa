"""Files inside uncompressed tar files, named `shard.tar::offset+size` and read in place."""

from __future__ import annotations

import re
from pathlib import Path

from weakloc.errors import ImageError

_MEMBER = re.compile(r"(?P<archive>.+)::(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)


def member_path(archive: str, *, offset: int, size: int) -> str:
    """How a member is named: `offset` and `size` are those of its content, in bytes."""
    return f"{archive}::{offset}+{size}"


def is_member_path(path: str) -> bool:
    return "::" in path and _MEMBER.fullmatch(path) is not None


def read_member(path: str) -> bytes:
    """The content of a member."""
    found = _MEMBER.fullmatch(path)
    if found is None:
        raise ValueError(f"{path!r} is not of the form archive::offset+size")
    size = int(found["size"])
    try:
        with Path(found["archive"]).open("rb") as file:
            file.seek(int(found["offset"]))
            content = file.read(size)
    except OSError as error:
        raise ImageError(f"the archive cannot be read ({error.strerror})", where=path) from error
    if len(content) < size:
        raise ImageError(f"the archive ends after {len(content)} of {size} bytes", where=path)
    return content
