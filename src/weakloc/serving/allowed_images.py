"""What a request names -> an image that may be read: below an allowed folder or address, or not.

A name is a path below an allowed folder (or an absolute one that leads there), a path as Label
Studio writes it (`/data/local-files/?d=...`, `/data/upload/...`), or an http(s) address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, build_opener

from weakloc.data.images import is_member_path
from weakloc.data.sources import ImageSource
from weakloc.errors import ImageError
from weakloc.settings import require

FETCH_SECONDS = 10
LOCAL_FILES = ("/data/local-files/?", "/data/local-files?")
UPLOADS = "/data/upload/"
_PORTS = {"http": 80, "https": 443}
_KEPT_SIGNS = "/%:@!$&'()*+,;=~?"


@dataclass(frozen=True)
class AllowedImages:
    """`roots` and `addresses` are those that `allowed_images` checked."""

    roots: tuple[Path, ...]
    addresses: tuple[SplitResult, ...]
    max_bytes: int

    def find(self, name: str) -> ImageSource:
        """The image, on disk unread, from an address with its content; ImageError if refused."""
        if "://" in name and not name.startswith("/"):
            return ImageSource(name, self._fetch(name))
        path = path_in(name)
        for root in self.roots:
            file = _below(root, path)
            if file is not None:
                return ImageSource(file.relative_to(root).as_posix(), str(file))
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
        try:
            with build_opener(_NoRedirects).open(checked, timeout=FETCH_SECONDS) as response:
                content: bytes = response.read(self.max_bytes + 1)
        except HTTPError as error:
            error.close()
            raise ImageError(
                f"cannot be fetched (HTTP status {error.code})", location=url
            ) from error
        except (OSError, HTTPException) as error:
            raise ImageError(f"cannot be fetched ({error})", location=url) from error
        if len(content) > self.max_bytes:
            raise ImageError(f"is larger than {self.max_bytes:,} bytes", location=url)
        return content


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
    """The file itself, behind all links, or None where it is not below the root."""
    try:
        file = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # missing, a zero byte in it, a circle of links
        return None
    # A name like `a.tar::512+99` would be read as a part of another file, a.tar.
    is_inside = file.is_relative_to(root) and not is_member_path(str(file))
    return file if is_inside and file.is_file() else None


def _address(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        is_web = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        is_web = False
    is_folder = is_web and not parts.query and not parts.username
    require(is_folder, "allow_url", text, "Give http(s)://HOST/ or http(s)://HOST/FOLDER/")
    return parts._replace(path=parts.path.rstrip("/") + "/")


def _checked(url: str, addresses: Sequence[SplitResult]) -> str | None:
    """The address to ask, put together from the very parts that were compared; or None."""
    try:
        parts = urlsplit(url)
        asked = _origin(parts)
    except ValueError:  # a port that is no number
        return None
    climbs = {".", ".."} & set(unquote(parts.path).replace("\\", "/").split("/"))
    is_plain = url.isprintable() and not parts.username and not climbs
    for allowed in addresses:
        if is_plain and asked == _origin(allowed) and parts.path.startswith(allowed.path):
            path, query = (quote(part, safe=_KEPT_SIGNS) for part in (parts.path, parts.query))
            return urlunsplit((allowed.scheme, allowed.netloc, path, query, ""))
    return None


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


class _NoRedirects(HTTPRedirectHandler):
    """An allowed address must not lead to another one."""

    def redirect_request(self, *_: Any) -> None:
        return None
