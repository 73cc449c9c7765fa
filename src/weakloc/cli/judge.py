"""`weakloc evaluate` and `weakloc report`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from weakloc.cli.options import UntaggedPlaces, require_there
from weakloc.cli.terminal import Terminal
from weakloc.errors import SettingError
from weakloc.files import write_json, write_text
from weakloc.settings import DataSettings, EvaluateSettings, Look, Places, ReportSettings

if TYPE_CHECKING:
    from weakloc.api.evaluation import Evaluated
    from weakloc.metrics.uncertainty import Difference


COLUMNS = ("metric", "value", "95 % interval", "best baseline", "hidden supervision")


def evaluate(
    run: str,
    data: str,
    /,
    *,
    compare: tuple[str, ...] = (),
    out: Path | None = None,
    settings: EvaluateSettings = EvaluateSettings(),
    look: Look = Look(),
    places: UntaggedPlaces = UntaggedPlaces(),
    reading: DataSettings = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Measure against drawn truth, with what trivial answers would have scored beside it.

    Args:
        run: Run folder, hf:USER/NAME, file of weakloc export, predictions.jsonl or COCO results.
        data: Data set with drawn boxes or masks.
        compare: Another run or file on the same images; differences are resampled in pairs.
        out: File for all numbers as JSON; a Markdown table is written beside it.
    """
    from weakloc.api import data_sets

    require_there(run, *compare)
    if compare and not settings.resamples:
        remedy = "Leave it out: differences are told by resampling both in pairs"
        raise SettingError("--resamples is 0, and --compare is given", remedy=remedy)
    data_set = data_sets.read(data, reading)
    data_set.split(settings.split)  # refuses one that it has not
    from weakloc.api import evaluation
    from weakloc.metrics.evaluation import compare_results

    evaluated, measure = [], partial(evaluation.evaluate, look=look, places=places)
    for source in (run, *compare):
        with terminal.progress(source) as show:
            evaluated.append(measure(source, data_set, settings, on_progress=show))
    if out is not None:
        write_json(out, evaluation.document_of(evaluated))
        write_text(out.with_suffix(".md"), evaluation.markdown_of(evaluated))
    for numbers in evaluated:
        _show(numbers, terminal)
    for other in evaluated[1:]:
        differences = compare_results(evaluated[0].metrics, other.metrics)
        title = f"{evaluated[0].evaluated} minus {other.evaluated}"
        _show_differences(title, differences, terminal)
    terminal.give(evaluation.document_of(evaluated))


def _show(evaluated: Evaluated, terminal: Terminal) -> None:
    from weakloc.api.evaluation import best_baseline
    from weakloc.metrics.evaluation import reading_differences

    rows = [
        (
            result.name,
            result.value if result.value is not None else result.unavailable,
            result.interval,
            best_baseline(result),
            result.hidden_supervision,
        )
        for result in evaluated.metrics
    ]
    title = f"{evaluated.evaluated} on {evaluated.split}: {evaluated.num_images} images"
    terminal.table(title, COLUMNS, rows)
    for name, difference in reading_differences(evaluated.metrics).items():
        terminal.say(f"{name}: compatible reading minus clean {difference:+.4f}")
    terminal.say(
        f"thresholds tuned by: {evaluated.thresholds_from}",
        f"training began with weights from: {evaluated.weights_from}",
    )
    if evaluated.num_broken:
        terminal.say(f"{evaluated.num_broken} images could not be read and are not counted")
    terminal.say(*(f"  no {name}: {reason}" for name, reason in evaluated.unavailable.items()))


def _show_differences(title: str, differences: tuple[Difference, ...], terminal: Terminal) -> None:
    rows = [
        (
            number.name,
            f"{number.difference:+.3f}",
            f"{number.interval.low:+.3f} to {number.interval.high:+.3f}",
            f"{number.share_above_zero:.0%}",
        )
        for number in differences
    ]
    terminal.table(title, ("metric", "difference", "95 % interval", "ahead in"), rows)


def report(
    source: str,
    images: str | None = None,
    /,
    *,
    out: Path = Path("report.html"),
    data: str | None = None,
    settings: ReportSettings = ReportSettings(),
    look: Look | None = None,
    places: Places | None = None,
    reading: DataSettings = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Write one HTML page to look through, most doubtful first, and to judge what was found.

    Args:
        source: Run folder, hf:USER/NAME, or predictions (their folder or predictions.jsonl).
        images: Images that the run is to look at, or that the predictions speak of. Not given: the
            split of --data, or the images that the predictions were made of.
        out: File for the page, which is complete in itself.
        data: Data set with drawn truth, to show where it is hit and missed.
    """
    from weakloc.api import data_sets
    from weakloc.data.sources import find_images

    require_there(source)
    if images is not None:
        find_images(images)  # refuses what is not there
    data_set = None if data is None else data_sets.read(data, reading)
    from weakloc.api import reports

    with terminal.progress("images") as show:
        written = reports.report(
            source,
            out,
            images=images,
            data=data_set,
            settings=settings,
            look=look,
            places=places,
            on_progress=show,
        )
    shown = "all" if written.num_shown == written.num_images else "the most doubtful"
    terminal.say(f"{written.num_shown} of {written.num_images} images ({shown}) in {written.path}")
    if written.num_skipped:
        terminal.say(f"{written.num_skipped} broken images are left out")
    terminal.give(report=written.path, shown=written.num_shown, images=written.num_images)
