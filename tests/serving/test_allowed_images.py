"""No name leads out of the allowed folders and addresses."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest

from weakloc.data.images import member_path
from weakloc.errors import ImageError, SettingError
from weakloc.serving.allowed_images import AllowedImages, allowed_images

INSIDE = ("plain.png", "a b/ü & 100%+1 #?.png", "日本/犬.png", "%2e%2e/x.png", "a:b/c.png")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`photos` may be read; `secret` lies beside it and `photos-old` begins like it."""
    for name in INSIDE:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"inside")
    for outside in ("secret/s.png", "photos-old/s.png", "s.png"):
        path = tmp_path / outside
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"outside")
    return tmp_path


@pytest.fixture
def images(folders: Path) -> AllowedImages:
    return allowed_images([folders / "photos"], [], max_bytes=100)


@pytest.mark.parametrize("name", INSIDE)
def test_images_below_the_root_are_found_by_every_kind_of_name(
    images: AllowedImages, folders: Path, name: str
) -> None:
    names = [name, str(folders / "photos" / name), f"a b/../{name}"]
    names += [f"/data/local-files/?d={quote(name)}", f"/data/local-files?d={quote(name, safe='')}"]
    names += [f"/data/local-files/?d=/{quote(name)}"]
    for each in names:
        found = images.find(each)
        assert (found.name, found.content) == (name, b"inside")


def test_label_studios_uploads_are_found_below_its_media_folder(tmp_path: Path) -> None:
    path = tmp_path / "media" / "upload" / "3" / "1a2b-ü b.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"inside")
    images = allowed_images([tmp_path / "media"], [], max_bytes=100)
    assert images.find("/data/upload/3/1a2b-%C3%BC%20b.png").content == b"inside"


ESCAPES = (
    "../secret/s.png",
    "a b/../../secret/s.png",
    "../photos-old/s.png",
    "../s.png",
    "..",
    ".",
    "",
    "/",
    "/etc/passwd",
    "//etc/passwd",
    "/data/local-files/?d=../secret/s.png",
    "/data/local-files/?d=%2e%2e/secret/s.png",
    "/data/local-files/?d=..%2fsecret%2fs.png",
    "/data/local-files/?d=plain.png&d=..%2fs.png",
    "/data/local-files/?d=/etc/passwd",
    "/data/local-files/?d=%2fetc%2fpasswd",
    "/data/local-files/?d=",
    "/data/local-files/?",
    "/data/upload/../../secret/s.png",
    "/data/upload/%2e%2e/%2e%2e/secret/s.png",
    "%2e%2e/secret/s.png",
    "..\\secret\\s.png",
    "plain.png\0",
    "\0",
    "plain.png/..",
    "link to secret/s.png",
    "link to s.png",
    "chain/s.png",
    "circle/s.png",
    "a b",
    "pipe",
    "x" * 5000,
    "file:///etc/passwd",
    "file:/etc/passwd",
    "FILE://localhost/etc/passwd",
    "ftp://127.0.0.1/s.png",
    "data:image/png;base64,AAAA",
    "s3://bucket/s.png",
    "http://127.0.0.1/s.png",
    "jar:http://127.0.0.1!/s.png",
)


@pytest.mark.parametrize("name", ESCAPES, ids=lambda name: repr(name[:40]))
def test_nothing_leads_out_of_the_root(images: AllowedImages, folders: Path, name: str) -> None:
    photos = folders / "photos"
    (photos / "link to secret").symlink_to(folders / "secret")
    (photos / "link to s.png").symlink_to("../s.png")
    (photos / "chain").symlink_to("link to secret")
    (photos / "circle").symlink_to("circle")
    os.mkfifo(photos / "pipe")
    with pytest.raises(ImageError):
        images.find(name)


def test_an_absolute_path_outside_is_refused_as_if_it_did_not_exist(
    images: AllowedImages, folders: Path
) -> None:
    messages = []
    for name in (folders / "secret" / "s.png", folders / "secret" / "missing.png"):
        with pytest.raises(ImageError) as refused:
            images.find(str(name))
        messages.append(refused.value.message)
    assert messages[0] == messages[1]


def test_a_file_named_like_a_part_of_another_one_is_refused(
    images: AllowedImages, folders: Path
) -> None:
    photos = folders / "photos"
    (photos / "a.tar").symlink_to(folders / "s.png")
    name = member_path("a.tar", offset=0, size=4)
    (photos / name).write_bytes(b"inside")
    with pytest.raises(ImageError):
        images.find(name)


def test_links_that_stay_inside_are_followed(images: AllowedImages, folders: Path) -> None:
    (folders / "photos" / "link.png").symlink_to("plain.png")
    assert images.find("link.png").name == "plain.png"


def test_a_root_may_itself_be_a_link_and_there_may_be_several(folders: Path) -> None:
    (folders / "link").symlink_to("photos")
    images = allowed_images([folders / "secret", folders / "link"], [], max_bytes=100)
    assert images.find("plain.png").name == "plain.png"
    assert images.find("s.png").content == b"outside"


def test_an_image_larger_than_the_limit_is_refused(images: AllowedImages, folders: Path) -> None:
    for size, fits in ((100, True), (101, False)):
        (folders / "photos" / "plain.png").write_bytes(b"x" * size)
        with nullcontext() if fits else pytest.raises(ImageError, match="larger than 100 bytes"):
            assert len(images.find("plain.png").content) == size


@pytest.mark.parametrize("swapped", ["photos/a b", "photos/a b/x.png"])
def test_a_link_that_takes_the_place_of_what_was_checked_is_not_followed(
    images: AllowedImages, folders: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "photos" / "a b" / "x.png").write_bytes(b"inside")
    (folders / "secret" / "x.png").write_bytes(b"outside")
    assert images.find("a b/x.png").content == b"inside"
    look_first = os.path.realpath

    def resolve_and_swap(path: str, **named: bool) -> str:
        found = look_first(path, **named)
        place = folders / swapped
        if not place.is_symlink():
            place.rename(folders / "moved")
            place.symlink_to(folders / "secret" / place.relative_to(folders / "photos/a b"))
        return found

    monkeypatch.setattr(os.path, "realpath", resolve_and_swap)
    with pytest.raises(ImageError, match="no such image"):
        images.find("a b/x.png")
    monkeypatch.undo()
    assert (folders / "photos" / "a b" / "x.png").read_bytes() == b"outside"


def test_a_root_that_is_no_folder_is_named(folders: Path) -> None:
    for root in (folders / "nowhere", folders / "s.png"):
        with pytest.raises(SettingError, match="--root"):
            allowed_images([root], [], max_bytes=100)


def test_without_a_root_nothing_is_read(folders: Path) -> None:
    with pytest.raises(ImageError, match="--root"):
        allowed_images([], [], max_bytes=100).find(str(folders / "s.png"))


class _Site(BaseHTTPRequestHandler):
    """Says which path was asked for; some paths lead elsewhere."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/open/redirect":
            self.send_response(302)
            self.send_header("Location", "/hidden/image.png")
        elif self.path == "/open/dripping":
            with suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.02)
            return
        elif self.path == "/open/missing":
            self.send_response(404)
        else:
            self.send_response(200)
        self.end_headers()
        size = 101 if self.path == "/open/large" else 10
        self.wfile.write(self.path.encode().ljust(size)[:size])

    def log_message(self, *_: object) -> None:
        """Quietly."""


@contextmanager
def site() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        _Site.asked.clear()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_only_addresses_below_an_allowed_one_are_fetched() -> None:
    with site() as port:
        here = f"http://127.0.0.1:{port}"
        images = allowed_images([], [f"{here}/open"], max_bytes=100)
        found = images.find(f"{here}/open/ä b.png?x=ü&y=%20#part")
        assert found.name.endswith("#part")
        assert _Site.asked == ["/open/%C3%A4%20b.png?x=%C3%BC&y=%20"]
        _Site.asked.clear()
        refused = [
            f"{here}/hidden/image.png",
            f"{here}/opened/image.png",
            f"{here}/open",
            f"{here}/open/../hidden/image.png",
            f"{here}/open/%2e%2e/hidden/image.png",
            f"{here}/open/..%2fhidden/image.png",
            f"{here}/open/..%5chidden/image.png",
            f"{here}/open/..\\hidden/image.png",
            f"{here}/open/..;/hidden/image.png",
            f"{here}/open/..;a=1/hidden/image.png",
            f"{here}/open/%2e%2e%3b/hidden/image.png",
            f"{here}/open/%252e%252e/hidden/image.png",
            f"{here}/open/%25252e./hidden/image.png",
            f"{here}/open/a%3f/../hidden/image.png",
            f"{here}/open/a%0d%0aX-Header:%201",
            f"{here}/open/a?b=%250d%250aX-Header:%201",
            f"{here}/open/{'25' * 3000}",
            f"http://user@127.0.0.1:{port}/open/image.png",
            f"http://127.0.0.1:{port}@evil.example/open/image.png",
            f"http://evil.example\t@127.0.0.1:{port}/open/image.png",
            f"{here}/open/image.png\r\nX-Header: 1",
            f"https://127.0.0.1:{port}/open/image.png",
            f"http://localhost:{port}/open/image.png",
            "http://127.0.0.1:1/open/image.png",
            "http://127.0.0.1:no/open/image.png",
            "http://[::1/open/image.png",
        ]
        for url in refused:
            with pytest.raises(ImageError, match="not below an allowed address"):
                images.find(url)
        assert _Site.asked == []


def test_what_cannot_be_fetched_says_why_and_redirects_are_not_followed() -> None:
    with site() as port:
        here = f"http://127.0.0.1:{port}/open"
        images = allowed_images([], [here], max_bytes=100)
        for path, reason in (("redirect", "302"), ("missing", "404"), ("large", "100 bytes")):
            with pytest.raises(ImageError, match=reason):
                images.find(f"{here}/{path}")
        assert "/hidden/image.png" not in _Site.asked
    with pytest.raises(ImageError, match="cannot be fetched"):
        images.find(f"{here}/nobody-listens-any-more")


def test_an_address_that_drips_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weakloc.serving.allowed_images.FETCH_SECONDS", 0.1)
    with site() as port:
        here = f"http://127.0.0.1:{port}/open"
        start = time.monotonic()
        with pytest.raises(ImageError, match="timed out"):
            allowed_images([], [here], max_bytes=100).find(f"{here}/dripping")
        assert time.monotonic() - start < 0.6  # all of it takes 1.2


BAD_ADDRESSES = ("ftp://host/", "host/path", "file:///etc", "http://", "http://u@h/", "http://h/?a")


@pytest.mark.parametrize("address", [*BAD_ADDRESSES, "http://h:no/", "http://[::1", ""])
def test_an_address_that_cannot_be_allowed_is_named(address: str) -> None:
    with pytest.raises(SettingError, match="--allow-url"):
        allowed_images([], [address], max_bytes=100)
