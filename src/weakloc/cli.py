"""The command line: flags in, one-line errors out."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclopts import App

from weakloc.errors import WeaklocError

app = App(name="weakloc", help="Labels in, locations out.")


@app.command
def demo(*, out: Path = Path("demo")) -> None:
    """Make scenes, train, evaluate, predict and report: the whole tour, offline."""
    from weakloc.api import demo as run_demo

    for name, value in run_demo(out).items():
        print(f"{name}: {value:.3f}")
    print(f"open {out / 'report.html'}")


def main() -> None:
    try:
        app()
    except WeaklocError as error:
        print(f"weakloc: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
