"""A target, a seed and a number in, one input out: the same files on every machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, TypeAlias

from tests.fuzz.parts import Part
from tests.fuzz.templates import ALL_GRAMMARS
from tests.fuzz.trees import LINKS, TEXTS, mutated, mutated_bytes, mutated_text

Kind: TypeAlias = Literal["file", "link", "folder", "pipe"]
Entry: TypeAlias = tuple[Kind, bytes]  # of a link what it leads to
VALID_SHARE = 0.05  # inputs that nothing is done to
_LONGEST_NAME = 250


@dataclass(frozen=True)
class Input:
    """What lies in a folder, by its path below it."""

    target: str
    entries: Mapping[str, Entry]

    def write(self, folder: Path) -> None:
        """As far as a file system takes it."""
        for name, (kind, content) in self.entries.items():
            path = folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "link":
                    path.symlink_to(os.fsdecode(content))
                elif kind == "folder":
                    path.mkdir(exist_ok=True)
                elif kind == "pipe":
                    os.mkfifo(path)
                else:
                    path.write_bytes(content)
            except (OSError, ValueError):
                continue


def valid_input(target: str, random: Random) -> Input:
    draft = ALL_GRAMMARS[target](random)
    return Input(target, {name: ("file", part.content()) for name, part in draft.items()})


def input_of(target: str, seed: int, number: int) -> Input:
    random = Random(f"{target} {seed} {number}")
    if random.random() < VALID_SHARE:
        return valid_input(target, random)
    draft = ALL_GRAMMARS[target](random)
    # What is said of images is of more interest than their pixels, where there are both.
    chosen = [name for name, part in draft.items() if part.kind != "raw"] or list(draft)
    entries: dict[str, Entry] = {}
    changes = dict.fromkeys(draft, 0)
    bytes_changed = dict.fromkeys(draft, 0)
    for _ in range(1 + min(int(random.expovariate(0.8)), 6)):
        name = random.choice(chosen)
        (changes if random.random() < 0.75 else bytes_changed)[name] += 1
    for name, part in draft.items():
        for _ in range(changes[name]):
            part = Part(part.kind, mutated(part.tree, random))  # noqa: PLW2901
        content = part.content()
        for _ in range(bytes_changed[name]):
            content = mutated_bytes(content, random)
        entries[name] = ("file", content)
    if random.random() < 0.12:
        _change_names(entries, random)
    return Input(target, entries)


def _change_names(entries: dict[str, Entry], random: Random) -> None:
    """One file is gone, called otherwise, there twice, or something else than a file."""
    name = random.choice(list(entries))
    folder, slash, last = name.rpartition("/")
    action = random.randrange(8)
    if action == 0:
        del entries[name]
    elif action <= 3:
        new = random.choice((mutated_text(last, random), random.choice(TEXTS), "\udcff\udcfe.png"))
        inside = new.replace("..", "").lstrip("/").replace("\0", "")[:_LONGEST_NAME] or "x"
        entries[folder + slash + inside] = entries.pop(name)
    elif action == 4:
        entries[f"{folder}{slash}copy {last}"] = entries[name]
    elif action == 5:
        entries[name] = ("folder", b"")
    elif action == 6:
        entries[name] = ("pipe", b"")
    else:
        entries[name] = ("link", random.choice(LINKS).encode())
