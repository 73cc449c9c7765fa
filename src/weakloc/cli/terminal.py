"""What people see: tables and lines on standard output, progress on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from weakloc.files import plain
from weakloc.work import Display, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_STEPS = 10  # lines of progress where no terminal is there to draw a bar on


@Parameter(name="*")
@dataclass(frozen=True)
class Terminal:
    """How a command speaks."""

    quiet: Annotated[bool, Parameter(negative=())] = False
    """Say nothing but errors."""
    json: Annotated[bool, Parameter(negative=())] = False
    """Print one JSON document instead of tables and lines."""

    @property
    def speaks(self) -> bool:
        return not self.quiet and not self.json

    def say(self, *lines: str) -> None:
        if self.speaks:
            for line in lines:
                print(plain(line))

    def say_files(self, files: Mapping[str, Path]) -> None:
        """Where what was made lies."""
        self.say(*(f"{name}: {path}" for name, path in files.items()))

    def give(self, document: Any = None, /, **facts: Any) -> None:
        """The machine's answer: a document, or some facts by name."""
        if self.json:
            answer = document or facts
            print(plain(json.dumps(answer, ensure_ascii=False, indent=2, default=os.fspath)))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Text columns to the left, numbers to the right."""
        if not self.speaks:
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        body = [[_cell(value) for value in row] for row in rows]
        table = Table(title=Text(plain(title)), title_justify="left", header_style="bold")
        for index, column in enumerate(columns):
            numeric = bool(body) and all(
                row[index] == "-" or row[index].replace(".", "", 1).replace("-", "", 1).isdigit()
                for row in body
            )
            table.add_column(Text(plain(column)), justify="right" if numeric else "left")
        for row in body:
            table.add_row(*(Text(value) for value in row))
        width = None if sys.stdout.isatty() else 120
        Console(width=width, highlight=False).print(table)

    @contextmanager
    def progress(self, description: str) -> Iterator[Progress]:
        """A function of (done, total) that shows how far the work is."""
        with self.display() as display:
            yield partial(display.count, description)

    @contextmanager
    def display(self) -> Iterator[Display]:
        """Where a training is shown."""
        if not self.speaks:
            yield Display()
        elif sys.stderr.isatty():
            with _bar() as bar:
                yield bar
        else:
            yield _Lines()


class _Lines(Display):
    """A line for each tenth of each work, on standard error."""

    def __init__(self) -> None:
        self._shown: Counter[str] = Counter()  # tenths, by work

    def count(self, work: str, done: int, total: int | None) -> None:
        step = PLAIN_STEPS * done // total if total else done.bit_length()
        if step != self._shown[work]:
            self._shown[work] = step
            self.say(f"{work}: {done}" + (f" of {total}" if total else ""))

    def share(self, work: str, share: float, seconds_left: float | None) -> None:
        step = int(PLAIN_STEPS * share)
        if step > self._shown["all"]:
            self._shown["all"] = step
            left = "" if seconds_left is None else f", about {in_words(seconds_left)} left"
            self.say(f"{share:.0%} done{left} ({work})")

    def say(self, line: str) -> None:
        print(plain(line), file=sys.stderr)


@contextmanager
def _bar() -> Iterator[Display]:
    """A bar on standard error that is gone in the end."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, bar.add_task("", total=None))


@dataclass(frozen=True)
class _Bar(Display):
    bar: RichProgress
    task: TaskID

    def count(self, work: str, done: int, total: int | None) -> None:
        self.bar.update(self.task, description=work, completed=done, total=total)

    def step(self, state: str, done: int, total: int) -> None:
        self.count(state, done, total)

    def share(self, work: str, share: float, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f", about {in_words(seconds_left)} left"
        self.count(work + left, round(100 * share), 100)

    def say(self, line: str) -> None:
        self.bar.console.print(line, highlight=False)


def in_words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return plain(str(value))
