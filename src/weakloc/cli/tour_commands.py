"""`weakloc demo`."""

from __future__ import annotations

from pathlib import Path

from weakloc.cli.terminal import Terminal


def demo(*, out: Path = Path("demo"), terminal: Terminal = Terminal()) -> None:
    """Make data, train, evaluate, predict, report: the whole tour, offline.

    Parameters
    ----------
    out
        Folder for everything the tour makes.
    """
    from weakloc.api.tour import demo as take_tour

    metrics = take_tour(out)
    terminal.table("Validation", ("metric", "value"), metrics.items())
    terminal.say(f"Open {out / 'report.html'}")
    terminal.give(metrics)
