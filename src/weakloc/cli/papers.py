"""`weakloc reproduce`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weakloc.cli.options import ReadingOptions, TrainOptions
from weakloc.cli.terminal import Terminal
from weakloc.cli.use import keep_freed_memory
from weakloc.papers.conditions import Budget
from weakloc.papers.tables import RECIPES
from weakloc.settings import DataSettings, TrainSettings

if TYPE_CHECKING:
    from weakloc.papers.results import Results


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How much of an experiment is run, on what."""

    data: str | None = None
    """Data set with drawn boxes. Not given: scenes are drawn."""

    out: Path | None = None
    """Folder for the results and all runs. Not given: reproduced/RECIPE."""

    budget: Budget = "standard"
    """quick, standard: minutes on scenes, or your data in the practical preset; paper: the paper's
    own settings, for its own data; paper60: those in 60 epochs with mirrored images."""

    seeds: int | None = None
    """Trainings of each cell, from --seed on. Not given: 3, and 1 in quick."""

    jobs: int | None = None
    """Processes that work side by side. Not given: one for each core, or one with a GPU."""

    cell: tuple[str, ...] = ()
    """Run only this cell; may be given several times."""


def reproduce(
    recipe: str | None = None,
    /,
    *,
    scope: Annotated[Scope, Parameter(name="*")] = Scope(),
    choices: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    settings: TrainOptions = TrainSettings(),
    reading: ReadingOptions = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Run a paper's experiment again: its table, ours beside it, and which of its claims hold.

    The same command again goes on where it stopped; with more seeds it adds them.

    Parameters
    ----------
    recipe
        The experiment. Not given: all of them are listed.
    choices
        NAME=VALUE for a choice of the method in all cells.
    """
    if recipe is None:
        _list(terminal)
        return
    from weakloc.api.training import parse_choices
    from weakloc.papers.reproduce import Reproduction, reproduce

    folder = scope.out or Path("reproduced") / recipe
    reproduction = Reproduction(
        out=folder,
        data=scope.data,
        budget=scope.budget,
        num_seeds=scope.seeds,
        jobs=scope.jobs,
        settings=settings,
        reading=reading,
        choices=parse_choices(choices),
        only=scope.cell,
    )
    results = reproduce(recipe, reproduction, say=terminal.say, prepare=keep_freed_memory)
    _show(results, folder, terminal)
    terminal.give(results.to_json())


def _list(terminal: Terminal) -> None:
    rows = [
        (recipe.name, recipe.reference, recipe.question, recipe.papers_data)
        for recipe in RECIPES.values()
    ]
    terminal.table("Experiments of the papers", ("recipe", "from", "question", "there on"), rows)
    terminal.say("On drawn scenes each takes minutes: weakloc reproduce RECIPE --budget quick")
    terminal.say(
        "The papers' own data is not here, and nothing was run on it; give it with --data."
    )
    terminal.give([{"name": name, "question": recipe.question} for name, recipe in RECIPES.items()])


def _show(results: Results, folder: Path, terminal: Terminal) -> None:
    from weakloc.papers.page import difference, table

    header, rows = table(results)
    recipe = results.recipe
    terminal.table(
        f"{recipe.title} ({recipe.number}, {recipe.reference}), in percent", header, rows
    )
    findings = [
        (claim.finding.claim, claim.finding.said_by, difference(claim), claim.verdict)
        for claim in results.judgements
    ]
    terminal.table("Findings", ("claim", "said by", "points (each seed)", "verdict"), findings)
    for cell, reason in results.missing.items():
        terminal.say(f"not tested: {cell} ({reason})")
    for cell, reason in results.failures.items():
        terminal.say(f"failed: {cell}: {reason}")
    terminal.say(f"Everything: {folder / 'results.md'}")
