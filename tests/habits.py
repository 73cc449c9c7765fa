"""What the command lines of the two habits (`tests.fuzz`, `tests.kills`) share."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any


def parser_of(
    program: str, words: str | None, subjects: Collection[str]
) -> argparse.ArgumentParser:
    """Which subjects, from which seed on, and the file that a line for each is added to."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=words,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(subjects)
    parser.add_argument("subjects", type=among(subjects), help=f"all, or some of: {names}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="a line of JSON for each subject is added to it")
    return parser


def among(subjects: Collection[str]) -> Callable[[str], list[str]]:
    """Reads `all`, or some of these with commas between them."""

    def read(text: str) -> list[str]:
        chosen = list(subjects) if text == "all" else text.split(",")
        for name in chosen:
            if name not in subjects:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(subjects)}")
        return chosen

    return read


def log(file: Path, record: Mapping[str, Any]) -> None:
    """Adds a line that says when it was written."""
    line = json.dumps({"date": time.strftime("%Y-%m-%d %H:%M:%S"), **record}, ensure_ascii=False)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
