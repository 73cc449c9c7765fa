"""`weakloc report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weakloc.cli.terminal import Terminal
from weakloc.config import DataSettings, PredictSettings


def report(
    source: str,
    images: str | None = None,
    /,
    *,
    out: Path = Path("report.html"),
    data: str | None = None,
    split: str = "val",
    metrics: Path | None = None,
    run: Path | None = None,
    tags: Path | None = None,
    pictures: int = 200,
    settings: Annotated[PredictSettings | None, Parameter(name="*")] = None,
    reading: Annotated[DataSettings, Parameter(name="*")] = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Write one HTML page to look through, most doubtful first, and to judge what was found.

    Parameters
    ----------
    source
        Run folder, or predictions (their folder or predictions.jsonl).
    images
        Images that the run is to look at, or that the predictions speak of. Not given: the
        split of --data, or the images that the predictions were made of.
    out
        File for the page, which is complete in itself.
    data
        Data set with drawn truth, to show where it is hit and missed.
    split
        Split of --data.
    metrics
        What `weakloc evaluate --out` wrote. Not given: metrics.json in the source, if it is there.
    run
        Run that draws the heat maps of predictions. Not given: the one that made them.
    tags
        Table of what is in the images; disagreements are shown.
    pictures
        Most pictures in the page; the most doubtful are taken.
    """
    from weakloc.api import data_sets
    from weakloc.api.report_sources import Reporting
    from weakloc.api.reporting import make_report

    reporting = Reporting(
        images=images,
        run=run,
        metrics=metrics,
        truth=None if data is None else data_sets.read(data, reading),
        split=split,
        tags=tags,
        most_pictures=pictures,
        settings=settings,
    )
    with terminal.progress("images") as show:
        written = make_report(source, out, reporting, show)
    shown = "all" if written.num_shown == written.num_images else "the most doubtful"
    terminal.say(f"{written.num_shown} of {written.num_images} images ({shown}) in {written.path}")
    if written.num_skipped:
        terminal.say(f"{written.num_skipped} broken images are left out")
    terminal.give(
        {"report": str(written.path), "shown": written.num_shown, "images": written.num_images}
    )
