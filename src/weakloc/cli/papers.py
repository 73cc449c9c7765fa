"""`weakloc reproduce`."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weakloc.cli.terminal import Terminal
from weakloc.errors import SettingError, did_you_mean
from weakloc.extensions import require_backbone
from weakloc.papers.tables import RECIPES
from weakloc.settings import DataSettings, ReproduceSettings, TrainSettings

if TYPE_CHECKING:
    from weakloc.papers.results import Results


def reproduce(
    recipe: str | None = None,
    /,
    *,
    scope: ReproduceSettings = ReproduceSettings(),
    choices: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    settings: TrainSettings = TrainSettings(),
    reading: DataSettings = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Run a paper's experiment again: its table, ours beside it, and which of its claims hold.

    The same command again goes on where it stopped; with more seeds it adds them.

    Args:
        recipe: The experiment. Not given: all of them are listed.
        choices: NAME=VALUE for a choice of the method in all cells.
    """
    if recipe is None:
        header = ("recipe", "from", "question", "there on")
        rows = map(attrgetter("name", "reference", "question", "papers_data"), RECIPES.values())
        terminal.table("Experiments of the papers", header, rows)
        terminal.say("On drawn scenes each takes minutes: weakloc reproduce RECIPE --budget quick")
        terminal.say(
            "The papers' own data is not here, and nothing was run on it; give it with --data."
        )
        terminal.give(
            [{"name": name, "question": recipe.question} for name, recipe in RECIPES.items()]
        )
        return
    if recipe not in RECIPES:
        raise SettingError(f"there is no recipe {recipe!r}", remedy=did_you_mean(recipe, RECIPES))
    require_backbone(settings.backbone)
    from weakloc.api.training import parse_choices
    from weakloc.papers.reproduce import Reproduction, reproduce

    reproduction = Reproduction(
        **{**vars(scope), "out": scope.out or Path("reproduced", recipe)},
        settings=settings,
        reading=reading,
        choices=parse_choices(choices),
    )
    results = reproduce(RECIPES[recipe], reproduction, say=terminal.say)
    _show(results, reproduction.out, terminal)
    terminal.give(results.to_json())


def _show(results: Results, folder: Path, terminal: Terminal) -> None:
    from weakloc.papers.page import difference, table

    header, rows = table(results)
    recipe = results.recipe
    title = f"{recipe.title} ({recipe.number}, {recipe.reference}), in percent"
    terminal.table(title, header, rows)
    findings = [
        (claim.finding.claim, claim.finding.said_by, difference(claim), claim.verdict)
        for claim in results.judgements
    ]
    terminal.table("Findings", ("claim", "said by", "points (each seed)", "verdict"), findings)
    terminal.say(*(f"not tested: {cell} ({why})" for cell, why in results.missing.items()))
    terminal.say(*(f"failed: {cell}: {reason}" for cell, reason in results.failures.items()))
    terminal.say(f"Everything: {folder / 'results.md'}")
