"""Folders in, image names out: each folder is listed once, and no file is opened or measured."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakloc.data.images import IMAGE_SUFFIXES
from weakloc.errors import DataError
from weakloc.files import is_so, is_url, stored_entries

_DEEPEST = 200  # levels of folders: each costs a level of calls
_IGNORED_FOLDERS = {"__MACOSX", "__pycache__", "SegmentationClass", "SegmentationObject"}
_UNSEEN = {"*": "nothing"}


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """One folder of a tree; `relative` is its path below the root with forward slashes."""

    relative: str
    path: str
    image_names: tuple[str, ...]
    dangling_names: tuple[str, ...]  # links that lead nowhere; `*`: what could not be listed
    folder_names: tuple[str, ...]
    holders: frozenset[str]  # the real paths of this folder and of those that hold it


def is_image_name(name: str) -> bool:
    return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def join(folder: str, name: str) -> str:
    """A path below the data set's root, with forward slashes."""
    return f"{folder}/{name}" if folder else name


def image_folders(
    path: str, relative: str = "", holders: frozenset[str] = frozenset()
) -> Iterator[ImageFolder]:
    """Every folder of a tree, parents first, in the order of names; hidden ones left out.

    Links to folders are followed unless they lead back to a folder that holds them.
    """
    if folder := _listed(path, relative, holders):
        yield folder
        for name in folder.folder_names:
            yield from image_folders(f"{path}/{name}", join(relative, name), folder.holders)


def image_paths_below(root: str) -> Iterator[str]:
    """The images that are there in a folder and those below it, by their paths."""
    for folder in image_folders(root):
        for name in folder.image_names:
            yield f"{folder.path}/{name}"


def images_below(
    path: str, relative: str = "", holders: frozenset[str] = frozenset()
) -> Iterator[str]:
    """The images of the same folders by their paths below the root, files and folders mixed."""
    if folder := _listed(path, relative, holders):
        inner = frozenset(folder.folder_names)
        for name in sorted((*folder.image_names, *folder.dangling_names, *inner)):
            if name in inner:
                yield from images_below(f"{path}/{name}", join(relative, name), folder.holders)
            else:
                yield join(relative, name)


def subfolders(folder: str) -> tuple[str, ...]:
    """The sorted names of the visible folders in a folder; none where there is no folder."""
    return tuple(name for name, kind in _kinds(folder).items() if kind == "directory")


def file_names(folder: str) -> tuple[str, ...]:
    """The sorted names of the visible files in a folder; none where there is no folder."""
    return tuple(name for name, kind in _kinds(folder).items() if kind == "file")


def _kinds(folder: str) -> dict[str, str]:
    """Name -> directory, file or nothing (a link that leads nowhere), sorted, hidden ones left out.

    `*` is nothing where the folder may not be listed, or is gone.
    """
    try:
        if is_url(folder):
            kinds = {name: entry.kind for name, entry in stored_entries(folder).items()}
        else:
            kinds = {
                e.name: "directory"
                if is_so(e.is_dir)
                else "file"
                if is_so(e.is_file)
                else "nothing"
                for e in os.scandir(folder)
            }
    except (OSError, ValueError):  # as in is_so
        return _UNSEEN
    visible = (name for name in sorted(kinds) if not name.startswith("."))
    return {name: kinds[name] for name in visible if name not in _IGNORED_FOLDERS}


def require_one(names: Sequence[str], kind: str, folder: Path, remedy: str) -> None:
    """An error that names them where there are several of a kind."""
    if len(names) > 1:
        message = f"holds several {kind}: {', '.join(names)}"
        raise DataError(message, location=str(folder), remedy=remedy)


def _listed(path: str, relative: str, holders: frozenset[str]) -> ImageFolder | None:
    real = os.path.realpath(path)
    if real in holders:
        return None
    kinds = (_kinds(path) if len(holders) < _DEEPEST else _UNSEEN).items()
    images = (name for name, kind in kinds if kind == "file" and is_image_name(name))
    dangling = (n for n, kind in kinds if kind == "nothing" and (is_image_name(n) or n == "*"))
    folders = (name for name, kind in kinds if kind == "directory")
    return ImageFolder(
        relative, path, tuple(images), tuple(dangling), tuple(folders), holders | {real}
    )


class FileIndex:
    """Answers whether files exist, at the price of one listing of each folder asked about."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._composed: dict[str, dict[str, str]] = {}

    def resolve(self, path: str) -> str | None:
        """The path as it is on disk, or None; accents match however they are encoded."""
        folder, _, name = path.rpartition("/")
        names = self.names(folder)
        if name in names:
            return path
        if name.isascii() or not names:
            return None
        if folder not in self._composed:
            self._composed[folder] = {unicodedata.normalize("NFC", n): n for n in names}
        actual = self._composed[folder].get(unicodedata.normalize("NFC", name))
        return None if actual is None else f"{folder}/{actual}"

    def names(self, folder: str) -> frozenset[str]:
        """The names of the files in a folder; none where there is no folder."""
        if folder not in self._names:
            self._names[folder] = frozenset(file_names(folder or "/"))
        return self._names[folder]
