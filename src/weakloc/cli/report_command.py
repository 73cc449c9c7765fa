"""`weakloc report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weakloc.cli.terminal import Terminal
from weakloc.config import DataSettings, PredictSettings, require


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Material:
    """What is shown besides the predictions."""

    data: str | None = None
    """Data set with drawn truth, to show where it is hit and missed."""

    split: str = "val"
    """Split of --data."""

    metrics: Path | None = None
    """What `weakloc evaluate --out` wrote. Not given: metrics.json in the source, if there."""

    run: Path | None = None
    """Run that draws the heat maps of predictions. Not given: the one that made them."""

    tags: Path | None = None
    """Table of what is in the images; what the run sees otherwise is shown."""

    pictures: int = 200
    """Most pictures in the page; the most doubtful are taken."""

    def __post_init__(self) -> None:
        require(self.pictures >= 1, "pictures", self.pictures, "Give 1 or more")


def report(
    source: str,
    images: str | None = None,
    /,
    *,
    out: Path = Path("report.html"),
    material: Material = Material(),
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
    """
    from weakloc.api import data_sets
    from weakloc.api.report_sources import Reporting
    from weakloc.api.reporting import make_report

    reporting = Reporting(
        images=images,
        run=material.run,
        metrics=material.metrics,
        truth=None if material.data is None else data_sets.read(material.data, reading),
        split=material.split,
        tags=material.tags,
        most_pictures=material.pictures,
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
