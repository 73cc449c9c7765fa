"""What people see: tables and lines on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from weakloc.work import Progress, silent

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

    def say(self, text: str) -> None:
        if self.speaks:
            print(text)

    def give(self, document: Any) -> None:
        """The machine's answer."""
        if self.json:
            print(json.dumps(document, ensure_ascii=False, indent=2))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Text columns to the left, numbers to the right."""
        if not self.speaks:
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        body = [[_cell(value) for value in row] for row in rows]
        table = Table(title=Text(title), title_justify="left", header_style="bold")
        for index, column in enumerate(columns):
            numeric = bool(body) and all(_is_number(row[index]) for row in body)
            table.add_column(Text(column), justify="right" if numeric else "left")
        for row in body:
            table.add_row(*(Text(value) for value in row))
        width = None if sys.stdout.isatty() else 120
        Console(width=width, highlight=False).print(table)

    @contextmanager
    def progress(self, description: str) -> Iterator[Progress]:
        """A function of (done, total) that shows how far the work is."""
        if not self.speaks:
            yield silent
        elif sys.stderr.isatty():
            with _bar(description) as update:
                yield update
        else:
            yield _plain(description)


@contextmanager
def _bar(description: str) -> Iterator[Progress]:
    from rich import progress as bars
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _plain(description: str) -> Progress:
    shown = 0

    def update(done: int, total: int | None) -> None:
        nonlocal shown
        step = PLAIN_STEPS * done // total if total else done.bit_length()
        if step > shown:
            shown = step
            print(f"{description}: {done}" + (f" of {total}" if total else ""), file=sys.stderr)

    return update


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).replace("-", "", 1).isdigit()
