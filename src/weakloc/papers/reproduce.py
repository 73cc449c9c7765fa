"""`weakloc reproduce`: a recipe in; its table beside the paper's, and what of it holds, out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from weakloc.api.data_sets import read
from weakloc.errors import FailureError, SettingError, did_you_mean
from weakloc.methods import method_named
from weakloc.methods.optimisation import Optimisation
from weakloc.methods.settings import merged_settings
from weakloc.papers.cells import (
    Looking,
    Source,
    Training,
    chosen,
    digest_of_data,
    drawn_scenes,
)
from weakloc.papers.page import write_results
from weakloc.papers.recipe import Cell, Recipe
from weakloc.papers.results import Results
from weakloc.papers.setups import SIZES, Budget, Setup, as_published, from_scratch, given_backbone
from weakloc.papers.tables import RECIPES
from weakloc.papers.work import Outcome, Prepare, Task, num_cores, work_through
from weakloc.settings import DataSettings, Look, Places, TrainSettings, look_and_places
from weakloc.training.plan import accelerator

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How a recipe is run; `choices` are fields of the methods, for all cells.

    Without `data`, scenes are drawn into `out`. `settings` that are not given follow the budget.
    """

    out: Path
    data: str | None = None
    budget: Budget = "standard"
    num_seeds: int | None = None
    jobs: int | None = None
    settings: TrainSettings = TrainSettings()
    reading: DataSettings = DataSettings()
    choices: Mapping[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for flag, value in (("--seeds", self.num_seeds), ("--jobs", self.jobs)):
            if value is not None and value < 1:
                raise SettingError(f"{flag} is {value}", remedy="Give 1 or more")
        if self.data is None and self.budget not in ("quick", "standard"):
            raise SettingError(
                f"the budget {self.budget!r} is for a paper's own data",
                remedy="Name a folder with --data, or choose the budget quick or standard",
            )

    @property
    def seeds(self) -> range:
        count = self.num_seeds or (1 if self.budget == "quick" else 3)
        return range(self.settings.seed, self.settings.seed + count)


def recipe_named(name: str) -> Recipe:
    if name not in RECIPES:
        raise SettingError(f"there is no recipe {name!r}", remedy=did_you_mean(name, RECIPES))
    return RECIPES[name]


def reproduce(
    recipe: Recipe | str,
    wanted: Reproduction,
    *,
    say: Say = lambda _text: None,
    prepare: Prepare = lambda: None,
) -> Results:
    """Runs what is missing of the recipe, and writes results.json, results.md and curves.

    `prepare` is called in every process that works. Cells that fail are named in the results.
    """
    if isinstance(recipe, str):
        recipe = recipe_named(recipe)
    looked, untestable = planned(recipe, wanted, say)
    began = time.perf_counter()
    jobs = wanted.jobs or (1 if accelerator() == "gpu" else num_cores())
    failures: dict[str, str] = {}
    left = _tasks(looked)
    progress = _Progress(sum(not each.is_done for each in looked), began, say)
    for outcome in work_through(left, jobs=min(jobs, max(len(left), 1)), prepare=prepare):
        progress.tell(outcome)
        failures.update(_failures(outcome))
    results = Results.collected(recipe, wanted.seeds, looked, untestable, failures)
    write_results(results, wanted.out)
    if not results.rows:
        first = next(iter(failures.values()), "no cell can be tested here")
        raise FailureError(f"nothing was measured: {first}", where=recipe.name)
    return results


def planned(recipe: Recipe, wanted: Reproduction, say: Say) -> tuple[list[Looking], dict[str, str]]:
    """Every cell with every seed, and the reasons of the cells that cannot be tested here."""
    size = SIZES.get((wanted.budget, recipe.data))
    path = wanted.data
    if path is None:
        assert size is not None, "a budget for the papers' data was refused"
        path = str(drawn_scenes(wanted.out, recipe.data, size.num_train, size.num_val, say))
    data_set = read(path, wanted.reading)
    data_set.split(wanted.settings.train_split, flag="--train-split")
    data_set.split(wanted.settings.val_split, flag="--val-split")
    source = Source(path, wanted.reading, digest_of_data(data_set))
    setup = _setup(recipe, wanted)
    looked, untestable = [], {}
    for seed in wanted.seeds:
        for cell in recipe.cells:
            reason = _why_not(cell, setup, wanted)
            if reason is not None:
                untestable[cell.name] = reason
            else:
                training = _training(cell, setup, wanted, source, seed)
                look, places = look_and_places(cell.look)
                seen, said = Look(**look), Places(**places)
                own = (cell.name, training, seen, said, cell.search, cell.tuning)
                looked.append(Looking(*own, numbers=recipe.metrics))
    return looked, untestable


def _setup(recipe: Recipe, wanted: Reproduction) -> Setup:
    if wanted.budget in ("paper", "paper60"):
        return as_published(wanted.budget, recipe.backbones)
    if wanted.settings.backbone is not None:
        return given_backbone(recipe.optimiser)
    return from_scratch(wanted.budget, recipe)


def _why_not(cell: Cell, setup: Setup, wanted: Reproduction) -> str | None:
    if wanted.only and cell.name not in wanted.only:
        return "left out with --cell"
    if cell.only is not None and cell.only != setup.preset:
        return f"only with the {cell.only} preset"
    if cell.below_head and wanted.settings.frozen:
        return "the backbone is frozen"
    if cell.smaller_backbone and setup.smaller_backbone is None:
        return "one backbone was given"
    return None


def _training(
    cell: Cell, setup: Setup, wanted: Reproduction, source: Source, seed: int
) -> Training:
    choices = merged_settings(
        merged_settings(setup.choices(cell.method), cell.choices), wanted.choices
    )
    own = method_named(cell.method, setup.preset, choices).optimisation
    settings = _settings(cell, setup, wanted, seed)
    rate = settings.learning_rate or own.learning_rate
    batch_size = settings.batch_size or own.batch_size
    if cell.head_rate != 1:
        settings = replace(settings, learning_rate=rate * cell.head_rate)
    if cell.batch != 1:
        settings = replace(settings, batch_size=max(1, round(batch_size * cell.batch)))
    if cell.backbone_rate != cell.head_rate:
        choices = merged_settings(
            choices, {"optimisation": {"backbone_factor": _factor(cell, own)}}
        )
    return Training(
        source,
        wanted.out,
        cell.method,
        setup.preset,
        choices,
        settings,
        crops_of_boxes=cell.crops_of_boxes,
    )


def _factor(cell: Cell, own: Optimisation) -> float:
    """The backbone's rate relative to the head's, where the cell changes one of them."""
    if isinstance(own.backbone_factor, str):
        raise SettingError(
            "a cell that changes one of two learning rates needs their ratio as a number",
            where=cell.name,
            remedy="Give it with --set optimisation.backbone_factor=0.1",
        )
    return own.backbone_factor * cell.backbone_rate / cell.head_rate


def _settings(cell: Cell, setup: Setup, wanted: Reproduction, seed: int) -> TrainSettings:
    """What makes the cell, else what the command line says, else the budget."""
    said = set(chosen(wanted.settings))
    if "backbone" in said:
        said.add("weights")  # those of the backbone that was named
    unsaid = {name: value for name, value in setup.train.items() if name not in said}
    settings = replace(wanted.settings, **{**unsaid, **cell.train}, seed=seed)
    if cell.smaller_backbone:
        settings = replace(settings, backbone=setup.smaller_backbone)
    if settings.frozen and settings.feature_cache is None:
        settings = replace(settings, feature_cache=str(wanted.out / "features"))
    return settings


def _tasks(looked: Sequence[Looking]) -> list[Task[Training | Looking]]:
    """Each training once, followed by what looks with it."""
    sharing: dict[str, list[Looking]] = {}
    for each in looked:
        sharing.setdefault(each.training.digest, []).append(each)
    return [
        Task(group[0].training, tuple(Task(each) for each in group if not each.is_done))
        for group in sharing.values()
        if not all(each.is_done for each in group)
    ]


def _failures(outcome: Outcome[Training | Looking]) -> Iterator[tuple[str, str]]:
    if outcome.problem is None:
        return
    work = outcome.task.work
    lost = [each.work for each in outcome.task.then] if isinstance(work, Training) else [work]
    for each in lost:
        if isinstance(each, Looking):
            yield f"{each.cell}, seed {each.training.settings.seed}", outcome.problem


class _Progress:
    """One line for each cell that is done, with the time that the others may take."""

    def __init__(self, total: int, began: float, say: Say) -> None:
        self._total, self._began, self._say = total, began, say
        self._done = 0

    def tell(self, outcome: Outcome[Training | Looking]) -> None:
        work = outcome.task.work
        if isinstance(work, Looking):
            self._done += 1
            state = "done" if outcome.problem is None else f"failed: {outcome.problem}"
            self._line(f"{work.cell}, seed {work.training.settings.seed}: {state}")
        elif outcome.problem is not None:
            self._done += len(outcome.task.then)
            self._line(f"training failed: {outcome.problem}")

    def _line(self, text: str) -> None:
        passed = time.perf_counter() - self._began
        left = passed / self._done * (self._total - self._done)
        minutes = f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"
        self._say(f"{self._done} of {self._total} ({minutes}): {text}")
