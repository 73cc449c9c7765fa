"""`weakloc train`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from weakloc.cli.terminal import Terminal
from weakloc.config import DataSettings, TrainSettings

MethodName = Literal["wildcat", "max_mil", "cam", "beam"]


def train(
    data: str,
    /,
    *,
    out: Path,
    method: MethodName = "wildcat",
    preset: Literal["practical", "literal"] = "practical",
    choices: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    resume: Annotated[bool, Parameter(negative=())] = False,
    settings: Annotated[TrainSettings, Parameter(name="*")] = TrainSettings(),
    reading: Annotated[DataSettings, Parameter(name="*")] = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Learn from tags where things are; drawn boxes and masks are never looked at.

    Parameters
    ----------
    data
        Folder, table, annotation file or tar shards.
    out
        Folder for the run.
    method
        The paper whose network, loss and search are used.
    preset
        practical: best result for the time; literal: as the paper has it.
    choices
        NAME=VALUE for a choice of the method, such as alpha=0.7 or optimisation.kind=sgd.
    resume
        Continue the run in --out where it stopped.
    """
    from weakloc.api.training import parse_choices
    from weakloc.api.training import train as fit

    run = fit(
        data,
        method=method,
        preset=preset,
        choices=parse_choices(choices),
        out=out,
        settings=settings,
        reading=reading,
        resume=resume,
        progress="auto" if terminal.speaks else "quiet",
    ).run
    terminal.say(f"Run in {out}: {len(run.history)} epochs, weights of epoch {run.selection.epoch}")
    for note in run.notes:
        terminal.say(f"  note: {note}")
    terminal.say(f'Next: weakloc predict "{out}" IMAGES --out predictions')
    history = [asdict(record) for record in run.history]
    terminal.give({"run": str(out), "weights_of_epoch": run.selection.epoch, "history": history})
