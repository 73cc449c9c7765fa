"""`weakloc demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from weakloc.cli.terminal import Terminal

if TYPE_CHECKING:
    from weakloc.api.tour import Tour

SHOWN = {
    "classification_map": "tag mAP",
    "point_map": "point AP",
    "box_map_50": "box AP50",
    "corloc": "CorLoc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "mean_iou": "mIoU",
}


def demo(*, out: Path = Path("demo"), terminal: Terminal = Terminal()) -> None:
    """Make data, train, evaluate, predict, report: the whole tour, offline.

    Parameters
    ----------
    out
        Folder for everything the tour makes.
    """
    from weakloc.api.tour import demo as take_tour

    tour = take_tour(out, say=terminal.say)
    _show(tour, terminal)
    terminal.give({"folder": str(tour.folder), "metrics": tour.headline})


def _show(tour: Tour, terminal: Terminal) -> None:
    rows = [
        (method, *(numbers.get(name) for name in SHOWN))
        for method, numbers in tour.headline.items()
    ]
    baselines = tour.evaluated[0].report.baselines
    best = [max(baselines.get(name, {}).values(), default=None) for name in SHOWN]
    title = "Learned from tags alone, measured on scenes never seen"
    terminal.table(title, ("method", *SHOWN.values()), [*rows, ("best baseline", *best)])
    for name, path in tour.exports.items():
        terminal.say(f"{name:>12}: {path}")
    terminal.say(f"{'all numbers':>12}: {tour.folder / 'metrics.md'}")
    terminal.say(f"{'report':>12}: {tour.report}")
    terminal.say('Next, with your own photographs: weakloc data "PHOTOS"')
