"""`weakloc evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weakloc.cli.options import LookOptions, PlacesOptions, ReadingOptions
from weakloc.cli.terminal import Terminal
from weakloc.settings import DataSettings, Look, Places, require

if TYPE_CHECKING:
    from weakloc.api.evaluation import Evaluated, Judging
    from weakloc.metrics.result import MetricResult
    from weakloc.metrics.uncertainty import Difference


COLUMNS = ("metric", "value", "95 % interval", "best baseline", "hidden supervision")


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured, and beside what."""

    split: str = "val"
    """Images to measure on."""

    compare: tuple[str, ...] = ()
    """Another run or file on the same images; differences are resampled in pairs."""

    resamples: int = 1000
    """Bootstrap resamples of the images behind each interval."""

    compatible: Annotated[bool, Parameter(negative=())] = False
    """Also read score maps as the public wsolevaluation code does, and show the difference."""

    original_size: Annotated[bool, Parameter(negative=())] = False
    """Also measure MaxBoxAcc at the size of the images."""

    out: Path | None = None
    """File for all numbers as JSON; a Markdown table is written beside it."""


def evaluate(
    run: str,
    data: str,
    /,
    *,
    measuring: Annotated[Measuring, Parameter(name="*")] = Measuring(),
    look: LookOptions = Look(),
    places: PlacesOptions = Places(),
    reading: ReadingOptions = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Measure against drawn truth, with what trivial answers would have scored beside it.

    Parameters
    ----------
    run
        Run folder, file of weakloc export, predictions.jsonl or COCO results file.
    data
        Data set with drawn boxes or masks.
    """
    from weakloc.api import data_sets, evaluation

    judging = evaluation.Judging(
        data_sets.read(data, reading),
        measuring.split,
        measuring.resamples,
        measuring.compatible,
        measuring.original_size,
    )
    found = _measure((run, *measuring.compare), judging, look, places, terminal)
    if measuring.out is not None:
        evaluation.write_metrics(measuring.out, found)
        evaluation.write_markdown(measuring.out.with_suffix(".md"), found)
    for each in found:
        _show(each, terminal)
    for other in found[1:]:
        _show_difference(found[0], other, evaluation.compare(found[0], other), terminal)
    terminal.give(evaluation.document_of(found))


def _measure(
    runs: tuple[str, ...], judging: Judging, look: Look, places: Places, terminal: Terminal
) -> list[Evaluated]:
    from weakloc.api.evaluation import judge

    found = []
    for run in runs:
        with terminal.progress(run) as show:
            found.append(judge(run, judging, look=look, places=places, on_progress=show))
    return found


def _show(evaluated: Evaluated, terminal: Terminal) -> None:
    from weakloc.metrics.evaluation import reading_differences

    rows = [_row(result) for result in evaluated.report.results]
    title = f"{evaluated.name} on {evaluated.split}: {evaluated.num_images} images"
    terminal.table(title, COLUMNS, rows)
    for name, difference in reading_differences(evaluated.report.results).items():
        terminal.say(f"{name}: compatible reading minus clean {difference:+.4f}")
    terminal.say(f"thresholds tuned by: {evaluated.tuned_by}")
    if evaluated.num_broken:
        terminal.say(f"{evaluated.num_broken} images could not be read and are not counted")
    for name, reason in evaluated.report.unavailable.items():
        terminal.say(f"  no {name}: {reason}")


def _row(result: MetricResult) -> tuple[object, ...]:
    best = max(result.baselines.items(), key=lambda item: item[1], default=None)
    interval = result.interval
    return (
        result.name,
        result.value if result.value is not None else result.unavailable,
        "-" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}",
        "-" if best is None else f"{best[1]:.3f} ({best[0]})",
        result.hidden_supervision,
    )


def _show_difference(
    first: Evaluated,
    second: Evaluated,
    differences: tuple[Difference, ...],
    terminal: Terminal,
) -> None:
    rows = [
        (
            each.name,
            f"{each.difference:+.3f}",
            f"{each.interval.low:+.3f} to {each.interval.high:+.3f}",
            f"{each.share_above_zero:.0%}",
        )
        for each in differences
    ]
    title = f"{first.name} minus {second.name}"
    terminal.table(title, ("metric", "difference", "95 % interval", "ahead in"), rows)


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
    look: Annotated[Look | None, Parameter(name="*", group="How images are seen")] = None,
    places: Annotated[Places | None, Parameter(name="*", group="What is said of them")] = None,
    reading: ReadingOptions = DataSettings(),
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
    from weakloc.api.reports import Reporting, make_report

    reporting = Reporting(
        images=images,
        run=material.run,
        metrics=material.metrics,
        truth=None if material.data is None else data_sets.read(material.data, reading),
        split=material.split,
        tags=material.tags,
        most_pictures=material.pictures,
        look=look,
        places=places,
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
