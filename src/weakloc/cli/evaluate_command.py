"""`weakloc evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weakloc.cli.terminal import Terminal
from weakloc.config import DataSettings, PredictSettings

if TYPE_CHECKING:
    from weakloc.api.evaluating import Evaluated, Judging
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
    settings: Annotated[PredictSettings, Parameter(name="*")] = PredictSettings(),
    reading: Annotated[DataSettings, Parameter(name="*")] = DataSettings(),
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
    from weakloc.api import data_sets, evaluating

    judging = evaluating.Judging(
        data_sets.read(data, reading),
        measuring.split,
        measuring.resamples,
        measuring.compatible,
        measuring.original_size,
    )
    found = _measure((run, *measuring.compare), judging, settings, terminal)
    if measuring.out is not None:
        evaluating.write_metrics(measuring.out, found)
        evaluating.write_markdown(measuring.out.with_suffix(".md"), found)
    for each in found:
        _show(each, terminal)
    for other in found[1:]:
        _show_difference(found[0], other, evaluating.compare(found[0], other), terminal)
    documents = [each.to_json() for each in found]
    terminal.give(documents[0] if len(documents) == 1 else {"runs": documents})


def _measure(
    runs: tuple[str, ...], judging: Judging, settings: PredictSettings, terminal: Terminal
) -> list[Evaluated]:
    from weakloc.api.evaluating import judge

    found = []
    for run in runs:
        with terminal.progress(run) as show:
            found.append(judge(run, judging, settings=settings, on_progress=show))
    return found


def _show(evaluated: Evaluated, terminal: Terminal) -> None:
    from weakloc.metrics.map_evaluation import reading_differences

    rows = [_row(evaluated, result) for result in evaluated.report.results]
    title = f"{evaluated.name} on {evaluated.split}: {evaluated.num_images} images"
    terminal.table(title, COLUMNS, rows)
    for name, difference in reading_differences(evaluated.report.results).items():
        terminal.say(f"{name}: compatible reading minus clean {difference:+.4f}")
    terminal.say(f"thresholds tuned by: {evaluated.tuned_by}")
    if evaluated.num_broken:
        terminal.say(f"{evaluated.num_broken} images could not be read and are not counted")
    for name, reason in evaluated.report.unavailable.items():
        terminal.say(f"  no {name}: {reason}")


def _row(evaluated: Evaluated, result: MetricResult) -> tuple[object, ...]:
    baselines = evaluated.report.baselines.get(result.name, {})
    best = max(baselines.items(), key=lambda item: item[1], default=None)
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
