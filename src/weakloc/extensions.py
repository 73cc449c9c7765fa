"""What weakloc brings and what installed packages add to it, by name.

A package adds by an entry point, in its `pyproject.toml`:

    [project.entry-points."weakloc.methods"]
    gem = "weakloc_gem:Gem"

Its names can be listed at once; nothing of it is imported before one of them is asked for.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from weakloc.errors import ExtensionError, MissingPackageError, SettingError, did_you_mean

Listed: TypeAlias = Literal["methods", "readers", "exporters", "backbones"]
Group: TypeAlias = Listed | Literal["metrics"]
Choice = TypeVar("Choice")

# What the command line offers without importing it; the dict literals say what these names mean.
BUILT_IN: Mapping[Listed, tuple[str, ...]] = {
    "methods": ("wildcat", "max_mil", "cam", "beam"),
    "readers": (
        *("folders", "table", "voc", "coco", "yolo"),
        *("tiny_imagenet", "wsol", "shards", "review"),
    ),
    "exporters": (
        *("jsonl", "coco", "coco-splits", "coco-results", "yolo", "yolo-segmentation", "voc"),
        *("voc-segmentation", "voc-results", "label-studio", "cvat", "fiftyone", "labelme", "csv"),
        "parquet",
    ),
    "backbones": (
        *("lite0", "lite1", "lite2", "tiny", "preact18", "preact34"),
        *("alexnet", "vgg16", "squeezenet1_1"),
    ),
}


def names_of(group: Listed) -> tuple[str, ...]:
    """The built-in names in the order of the help, then the added ones; imports none of them."""
    return tuple(dict.fromkeys((*BUILT_IN[group], *sorted(_added(group)))))


def require_known(group: Listed, name: str, complaint: str) -> None:
    """SettingError with the complaint where nothing that is installed brings this name."""
    if name not in names_of(group):
        raise SettingError(complaint, remedy=did_you_mean(name, names_of(group)))


def require_backbone(name: str | None, *, location: str = "--backbone") -> None:
    """SettingError where neither weakloc nor timm, by its source alone, can know a network."""
    timm, known = find_spec("timm"), names_of("backbones")
    architecture = re.split(r"[\[.]", name or known[0])[0]
    if architecture in known or architecture.startswith("hf-hub:") or timm is None:
        return
    files = Path(timm.origin or "").parent.glob("models/*.py")
    source = "\n".join(file.read_text("utf-8") for file in files)
    if not re.search(rf"\b{re.escape(architecture)}\b", source):
        names = re.findall(r"^def ([a-z]\w+)\(pretrained", source, re.MULTILINE)
        remedy = did_you_mean(architecture, (*known, *names))
        raise SettingError(f"backbone {name!r} is not known", location=location, remedy=remedy)


def package_of(group: Group, name: str) -> str | None:
    """The installed package that adds this name; None where weakloc brings it."""
    entries = _added(group).get(name)
    return _packages(entries) if entries else None


def require_package(group: Group, name: str, package: str | None, *, record: str) -> None:
    """MissingPackageError where `package` once added this name and nothing adds it now."""
    if package is not None and name not in _added(group):
        raise MissingPackageError(
            f"{name!r} among its {group} comes from the package {package}, which is not installed",
            location=record,
            remedy=f"Install it: pip install {package}",
        )


class Choices(Mapping[str, Choice]):
    """A dict literal of what weakloc brings, with what packages add to it.

    Iterating gives names; a value that a package adds is imported when it is looked up.
    """

    def __init__(self, group: Group, built_in: Mapping[str, Choice]) -> None:
        self._group: Group = group
        self._built_in = built_in

    def __getitem__(self, name: str) -> Choice:
        entries = _added(self._group).get(name)
        if entries is None:
            return self._built_in[name]
        brought = "weakloc and " if name in self._built_in else ""
        if brought or len(entries) > 1:
            raise ExtensionError(
                f"{brought}{_packages(entries)} have the same name among their {self._group}",
                location=repr(name),
                remedy="Uninstall one of the packages",
            )
        try:
            choice: Choice = entries[0].load()
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ExtensionError(
                f"{name!r} of the package {_packages(entries)} cannot be imported "
                f"({type(error).__name__}: {reason})",
                location=entries[0].value,
                remedy="Mend or uninstall that package",
            ) from error
        return choice

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._built_in, *sorted(_added(self._group)))))

    def __len__(self) -> int:
        return len({*self._built_in, *_added(self._group)})

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in _added(self._group)


def _added(group: Group) -> Mapping[str, tuple[EntryPoint, ...]]:
    return _added_along(f"weakloc.{group}", tuple(sys.path))


@functools.cache
def _added_along(group: str, _search_path: tuple[str, ...]) -> Mapping[str, tuple[EntryPoint, ...]]:
    """By name: one entry point, or several that clash."""
    added: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=group):
        added[entry.name] = (*added.get(entry.name, ()), entry)
    return added


def _packages(entries: tuple[EntryPoint, ...]) -> str:
    return " and ".join(entry.dist.name if entry.dist else entry.module for entry in entries)
