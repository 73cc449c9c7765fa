"""Files written whole or not at all, JSON and text read with every check, and safe file names.

A folder has one writer at a time, and what weakloc did not make in it is left alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import socket
import sys
import time
import uuid
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partialmethod
from io import BytesIO, TextIOWrapper
from pathlib import Path, PurePosixPath
from typing import IO, Any, Generic, NamedTuple, TypeVar, cast
from urllib.parse import quote

import msgspec

from weakloc.errors import DataError, FailureError, ImageError, OutputError, WeaklocError, needing

if sys.platform != "win32":
    import fcntl

Structure = TypeVar("Structure")
Value = TypeVar("Value")

_UTF16_MARKS = (BOM_UTF16_LE, BOM_UTF16_BE)

_STORES = ("s3://", "gs://", "memory://")

# What every file system and every annotation tool takes as a part of a file name.
_PLAIN = " !#$&'()+,-.;=@[]^_`{}~"


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)  # None: Pillow and torch say no number


def refusal(path: Path, error: Exception) -> OutputError:
    """What is said where the system does not let `path` be written."""
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "no reason")
    remedy = "Give another --out, or move what is in the way and allow writing there"
    if number in _FULL:
        remedy = (
            "Free space on the disk and give the command again (--resume where it has that): "
            "what was written before is whole"
        )
    return OutputError(f"cannot be written ({reason})", location=str(path), remedy=remedy)


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Where all that the system refuses becomes one error, which says how to go on."""
    if is_url(url := str(path_of(path))):
        remedy = "Give a folder of this machine, and copy it when it is done"
        raise OutputError("is in an object store", location=url, remedy=remedy)
    try:
        yield
    except OSError as error:
        raise refusal(path, error) from error


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Those of some files that processes left behind which were killed in `write_whole`."""
    for path in paths:
        if re.fullmatch(r"\.[0-9a-f]{32}\.part.*", path.name):
            path.unlink(missing_ok=True)


LOCK_NAME = ".weakloc.lock"
UNFINISHED = ".weakloc-unfinished"  # lies in a data set until all of it is written


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """The folder, made if need be, is written by no other process while the block runs.

    One that was made and stayed empty is taken away again.
    The lock ends with its process, however that ends. Systems without such locks guard nothing.
    """
    is_new = not folder.exists()
    with on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder.resolve() / LOCK_NAME  # the block may change directory
        descriptor = _locked(lock)
        remove_unfinished(folder.iterdir())
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)
        if is_new:
            with suppress(OSError):
                lock.parent.rmdir()


def _locked(lock: Path) -> int:
    """The open lock file, which says who holds it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if sys.platform != "win32":
            # Not flock: children would inherit that, and hold it when we were killed.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
        os.close(descriptor)
        raise FailureError(
            f"{holder} is writing here",
            location=str(lock.parent),
            remedy="Wait for its end, or give another --out",
        ) from error
    except OSError:  # a file system without locks
        pass
    with suppress(FileNotFoundError):
        if os.path.samestat(lock.stat(), os.fstat(descriptor)):
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            os.truncate(descriptor, 0)
            os.write(
                descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode()
            )
            return descriptor
    os.close(descriptor)  # of a file that its holder has just taken away
    return _locked(lock)


def require_own(folder: Path, results: Iterable[str], *, marks: Iterable[str] = ()) -> None:
    """Refuses to overwrite results (patterns of names) that weakloc did not make.

    It made all of them where one of the files `marks` lies there and names weakloc.
    """
    for mark in marks:
        with suppress(OSError), (folder / mark).open("rb") as file:
            if b"weakloc" in file.read(4096):
                return
    for path in (path for pattern in results for path in sorted(folder.glob(pattern))):
        if path.name != LOCK_NAME:
            raise DataError(
                "is there already, and weakloc did not make it",
                location=str(path),
                remedy="Move it, or give another --out",
            )


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends without an exception.

    Whoever reads `path` meets the old content or the whole new one; a failed block leaves the
    old one. Folders on the way are made.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix[:16]}")
    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
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


@contextmanager
def open_buffered(path: Path) -> Iterator[BytesIO]:
    """Like `write_whole`, from memory: encoders in C do not notice that a disk is full."""
    content = BytesIO()
    yield content
    with write_whole(path) as temporary, temporary.open("wb") as file:
        file.write(content.getbuffer())  # a view that a traceback keeps crashes Python 3.12


@contextmanager
def open_synced(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` once all of it is on the disk."""
    with write_whole(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def append_synced(path: Path, content: bytes) -> None:
    """Returns once all of it is on the disk."""
    with on_disk(path), path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    with open_whole(path) as stream:
        stream.write(text)


def write_json(path: Path, content: Any) -> None:
    """Indented by two, letters of any script as they are; ValueError where a number is none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(
    path: Path, *, error: type[WeaklocError], remedy: str | None = None
) -> dict[str, Any]:
    """The object that a JSON file holds; `error` for whatever is wrong with the file."""
    try:
        return fit_json(parse_json(path.read_bytes()), dict[str, Any])
    except (OSError, ValueError) as fault:
        reason = f"holds no readable JSON object ({fault})"
        raise error(reason, location=str(path), remedy=remedy) from fault


def parse_json(text: bytes | str) -> Any:
    """What a JSON text holds; ValueError, in one line, for whatever is wrong with it."""
    content = text.encode() if isinstance(text, str) else text
    try:
        return msgspec.json.decode(content.removeprefix(BOM_UTF8))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_foreign_json(text: str | bytes) -> Any:
    """Like `parse_json` of other tools' files, which may hold NaN."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def fit_json(content: Any, kind: type[Structure]) -> Structure:
    """`content`, as `parse_json` gave it, as a typed structure.

    ValueError where the two differ, with the place, the value met and what would do.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_misfit(str(error), content)) from error


_IN_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "null": "nothing",
    "array": "a list",
    "object": "an object",
}
_TYPE_NAMES = {int: "int", float: "float", str: "str", bool: "bool", list: "array", dict: "object"}


def _misfit(message: str, content: Any) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.scores[...]`" with the value met."""
    reason, _, path = message.partition(" - at `$")
    location = ""
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        step = int(index) if index.isdigit() else name
        if index == "...":  # of an object's values msgspec tells the type alone
            types = ((key, _TYPE_NAMES.get(type(value), "null")) for key, value in content.items())
            step = next((key for key, kind in types if reason.endswith(f"got `{kind}`")), None)
        if step is None:
            break
        content = content[step]
        location += f".{name}" if name else f"[{step!r}]"
    expected = "this is not a value that is known"
    if not reason.startswith("Invalid enum value"):
        expected, *kinds = reason.partition(", got ")[0].replace("int | float", "float").split("`")
        words = (_IN_WORDS.get(kind, repr(kind)) for kind in kinds[0].split(" | ")) if kinds else ()
        expected += " or ".join(words) + "".join(kinds[1:])
    met = f"{location.removeprefix('.') or 'it'} is {shown_json(content)}"
    return f"{met}: {expected[:1].lower()}{expected[1:]}"


def shown_json(value: Any) -> str:
    """At most 60 characters of a value, for messages."""
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def digest_of_file(path: Path) -> str:
    """Of its content, read in pieces, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def is_so(ask: Callable[[], bool]) -> bool:
    """What is asked of a path; False of a link to itself and where names or folders forbid it."""
    try:
        return ask()
    except (OSError, ValueError):
        return False


def is_url(named: str | bytes) -> bool:
    """Whether it leads into an object store, which no path does that was joined to a folder."""
    return isinstance(named, str) and named.startswith(_STORES)


def path_of(named: str | Path) -> Path:
    """What a user names, as s3://BUCKET/KEY too, of which a `Path` has lost a slash."""
    text = named if isinstance(named, str) else str(Stored(named))
    return cast("Path", Stored(named)) if is_url(text) else Path(named)


@contextmanager
def _store_of(url: str) -> Iterator[Any]:
    """An object store; whatever it refuses, or that it does not answer, becomes one line."""
    try:
        with needing("weakloc[remote]"):
            yield _opened_store(url.partition(":")[0], os.getpid())
    except PermissionError as error:
        raise ImageError("may not be read (permission denied)", location=url) from error
    except (FileNotFoundError, WeaklocError):
        raise
    except Exception as error:  # whatever the client of the store raises
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        remedy = "Check its name, your credentials and the connection; --resume goes on"
        raise FailureError(f"cannot be had ({reason})", location=url, remedy=remedy) from error


@lru_cache
def _opened_store(protocol: str, _process: int) -> Any:
    """One for all threads of a process; fsspec would open one for each."""
    import fsspec

    logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # or each failure is shown
    # With more, s3fs asks for the size of each file before it asks for the file.
    return fsspec.filesystem(protocol, use_listings_cache=False, max_concurrency=1)


class StoredEntry(NamedTuple):
    """What a listing says; `st_mtime_ns` is a digest of all of that."""

    kind: str
    st_size: int
    st_mtime_ns: str


@lru_cache(maxsize=512)
def stored_entries(folder: str) -> dict[str, StoredEntry]:
    """What lies in a folder, by name, as it was when it was first asked for."""
    with _store_of(folder) as store:
        infos = {info["name"].rstrip("/"): info for info in store.ls(folder, detail=True)}
        infos.pop(store._strip_protocol(folder), None)  # the mark of a folder, or a file
    digests = {path: hashlib.sha256(str(info).encode()).hexdigest() for path, info in infos.items()}
    return {
        path.rpartition("/")[2]: StoredEntry(info["type"], info["size"], digests[path])
        for path, info in infos.items()
    }


class Stored(PurePosixPath):
    """A path in an object store: as much of a `Path` as data and runs are asked."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def absolute(self) -> Stored:
        return self

    def exists(self, *kinds: str) -> bool:
        with suppress(FileNotFoundError), _store_of(str(self)) as store:
            return store.info(str(self))["type"] in (kinds or ("directory", "file"))
        return False

    is_dir = partialmethod(exists, "directory")
    is_file = partialmethod(exists, "file")

    def stat(self) -> StoredEntry:
        """As its folder was listed, or empty: many cost few requests."""
        return stored_entries(str(self.parent)).get(self.name, StoredEntry("nothing", 0, ""))

    def glob(self, pattern: str) -> list[Stored]:
        with _store_of(str(self)) as store:
            return [Stored(store.unstrip_protocol(p)) for p in store.glob(f"{self}/{pattern}")]

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        with _store_of(str(self)) as store:
            return bytes(store.cat_file(str(self), start=start, end=end))

    def open(self, _mode: str) -> BytesIO:
        return BytesIO(self.read_bytes())


def require_regular(path: Path, error: type[WeaklocError]) -> None:
    """The error for a pipe or the like, which would be waited for without end."""
    if is_so(path.exists) and not path.is_file() and not path.is_dir():
        raise error("is not a regular file", location=str(path))


_UNSAFE = re.compile("[\\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Text with \\uXXXX for what steers a terminal, turns writing around or is half a letter.

    Line feeds and tabs stay; JSON stays the same JSON.
    """
    return _UNSAFE.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def one_line(text: str) -> str:
    return plain(text).replace("\n", "\\u000a")


def is_text(name: str) -> bool:
    """Whether a name can be written: those of files are UTF-8 only by custom."""
    return not re.search("[\ud800-\udfff]", name)


def leads_out(name: str) -> bool:
    """Whether a path, as a file names it, may leave the folder that it is said to be below."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or name[1:3] == ":/"


def read_text(path: Path) -> str:
    """The whole text of a UTF-8 or marked UTF-16 file."""
    require_regular(path, DataError)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", location=str(path)) from error
    encoding = "utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"byte {content[error.start]:#04x} is not {encoding.upper()[:6].rstrip('-')} text",
            location=f"{path}, line {line}",
            remedy="Save the file as UTF-8",
        ) from error


def text_lines(path: Path, *, newline: str = "\n") -> Iterator[str]:
    """The lines of such a file with their ends, one after the other, never all in memory."""
    require_regular(path, DataError)
    try:
        with path.open("rb") as content:
            encoding = "utf-16" if content.read(2) in _UTF16_MARKS else "utf-8-sig"
            content.seek(0)
            with TextIOWrapper(content, encoding, newline=newline) as lines:
                yield from lines
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", location=str(path)) from error
    except UnicodeDecodeError:
        read_text(path)  # says in which line
        raise


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without surrounding blanks) of the lines that are not blank."""
    for number, line in enumerate(text_lines(path), start=1):
        if text := line.strip():
            yield number, text


def at_line(path: Path, number: int) -> str:
    """How a line of a file is named in reports."""
    return f"{path.name}, line {number}"


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
