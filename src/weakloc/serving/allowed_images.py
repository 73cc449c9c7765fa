"""What a request names -> an image that may be read: below an allowed folder or address, or not.

A name is a path below an allowed folder (or an absolute one that leads there), a path as Label
Studio writes it (`/data/local-files/?d=...`, `/data/upload/...`), or an http(s) address.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from weakloc.data.images import is_member_path
from weakloc.data.sources import ImageSource
from weakloc.errors import ImageError
from weakloc.settings import require

FETCH_SECONDS = 10  # from the question to the last byte
LOCAL_FILES = ("/data/local-files/?", "/data/local-files?")
UPLOADS = "/data/upload/"
_PORTS = {"http": 80, "https": 443}
_CONNECTIONS = {"http": HTTPConnection, "https": HTTPSConnection}
_LONGEST_URL = 4096
_KEPT_SIGNS = "/%:@!$&'()*+,;=~?"


@dataclass(frozen=True)
class AllowedImages:
    """`roots` and `addresses` are those that `allowed_images` checked."""

    roots: tuple[Path, ...]
    addresses: tuple[SplitResult, ...]
    max_bytes: int

    @property
    def common_root(self) -> Path:
        return Path(os.path.commonpath(self.roots))

    def find(self, name: str) -> ImageSource:
        """The image with its content, as it is now; ImageError if refused."""
        if "://" in name and not name.startswith("/"):
            return ImageSource(name, self._bounded(self._fetch(name), name))
        path = path_in(name)
        for root in self.roots:
            file = _below(root, path)
            content = None if file is None else _read_below(root, file, self.max_bytes + 1)
            if file is not None and content is not None:
                return ImageSource(file.as_posix(), self._bounded(content, name))
        # Whether a file outside exists is nobody's business: the answer is the same.
        raise ImageError(
            "there is no such image below an allowed folder",
            location=name,
            remedy="Allow the folder that holds it: weakloc serve --root FOLDER",
        )

    def _fetch(self, url: str) -> bytes:
        checked = _checked(url, self.addresses)
        if checked is None:
            raise ImageError(
                "is not below an allowed address",
                location=url,
                remedy="Allow it: weakloc serve --allow-url http://HOST/FOLDER/",
            )
        path, query = (quote(part, safe=_KEPT_SIGNS) for part in (checked.path, checked.query))
        make: Any = _CONNECTIONS[checked.scheme]
        connection = make(checked.hostname, checked.port, timeout=FETCH_SECONDS)
        connection.response_class = partial(_TimedResponse, time.monotonic() + FETCH_SECONDS)
        try:
            connection.request("GET", f"{path}?{query}" if query else path)
            with connection.getresponse() as response:
                status: int = response.status
                content: bytes = response.read(self.max_bytes + 1)
        except (OSError, HTTPException) as error:
            raise ImageError(f"cannot be fetched ({error})", location=url) from error
        finally:
            connection.close()
        if status != 200:  # not a redirect either: it must not lead to an address not allowed
            raise ImageError(f"cannot be fetched (HTTP status {status})", location=url)
        return content

    def _bounded(self, content: bytes, name: str) -> bytes:
        if len(content) > self.max_bytes:
            raise ImageError(f"is larger than {self.max_bytes:,} bytes", location=name)
        return content


class _TimedResponse(HTTPResponse):
    """What comes over a socket, all of it by a moment of the monotonic clock."""

    def __init__(self, until: float, connection: Any, **named: Any) -> None:
        super().__init__(connection, **named)
        self.fp = BufferedReader(_TimedStream(connection, until))


class _TimedStream(RawIOBase):
    """Each byte that drips in would start a socket's own time limit anew."""

    def __init__(self, connection: Any, until: float) -> None:
        self._connection, self._until = connection, until
        self._stream = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(max(self._until - time.monotonic(), 0.001))
        count: int | None = self._stream.readinto(buffer)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def allowed_images(
    roots: Sequence[Path], addresses: Sequence[str], *, max_bytes: int
) -> AllowedImages:
    """SettingError where one of them cannot be meant."""
    for root in roots:
        require(root.is_dir(), "root", str(root), "Give a folder that exists")
    return AllowedImages(
        tuple(root.resolve() for root in roots),
        tuple(_address(address) for address in addresses),
        max_bytes,
    )


def path_in(name: str) -> str:
    """The path that a name stands for; Label Studio quotes it, below its own root or media."""
    if name.startswith(LOCAL_FILES):
        (*_, path) = parse_qs(urlsplit(name).query).get("d", [""])
        return path.lstrip("/")
    if name.startswith(UPLOADS):
        return unquote(urlsplit(name).path).removeprefix("/data/")
    return name


def _below(root: Path, path: str) -> Path | None:
    """The path, behind all links, below the root; None where it leads elsewhere."""
    try:
        file = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # missing, a zero byte in it, a circle of links
        return None
    # A name like `a.tar::512+99` would be read as a part of another file, a.tar.
    is_inside = file.is_relative_to(root) and not is_member_path(str(file))
    return file.relative_to(root) if is_inside else None


def _read_below(root: Path, file: Path, max_bytes: int) -> bytes | None:
    """The first bytes of a regular file; None where a part of its path has become a link."""
    flags, within = os.O_RDONLY | getattr(os, "O_BINARY", 0), None
    opened: list[int] = []
    try:
        if os.open in os.supports_dir_fd:  # a folder that is open stays the same one
            flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            for folder in (root, *reversed(file.parents[:-1])):
                part = folder.name if opened else folder
                opened.append(os.open(part, flags | os.O_DIRECTORY, dir_fd=within))
                within = opened[-1]
        opened.append(os.open(root / file if within is None else file.name, flags, dir_fd=within))
        if not stat.S_ISREG(os.fstat(opened[-1]).st_mode):
            return None
        with open(opened[-1], "rb", closefd=False) as content:
            return content.read(max_bytes)
    except OSError:
        return None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _address(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        is_web = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        is_web = False
    is_folder = is_web and not parts.query and not parts.username
    require(is_folder, "allow_url", text, "Give http(s)://HOST/ or http(s)://HOST/FOLDER/")
    return parts._replace(path=parts.path.rstrip("/") + "/")


def _checked(url: str, addresses: Sequence[SplitResult]) -> SplitResult | None:
    """The address to ask, put together from the very parts that were compared; or None."""
    try:
        parts = urlsplit(url)
        asked = _origin(parts)
    except ValueError:  # a port that is no number
        return None
    if len(url) > _LONGEST_URL:
        return None
    segments = _decoded(parts.path).replace("\\", "/").split("/")
    climbs = {".", ".."} & {segment.partition(";")[0] for segment in segments}
    is_plain = _decoded(url).isprintable() and not parts.username and not climbs
    for allowed in addresses:
        if is_plain and asked == _origin(allowed) and parts.path.startswith(allowed.path):
            return parts._replace(scheme=allowed.scheme, netloc=allowed.netloc)
    return None


def _decoded(text: str) -> str:
    """Without percent signs that a host might decode, however often it does so."""
    while (decoded := unquote(text)) != text:
        text = decoded
    return text


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
