"""`weakloc reproduce`: a recipe in; its table beside the paper's, and what of it holds, out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from weakloc.api.data_sets import read
from weakloc.errors import FailureError, SettingError
from weakloc.files import only_writer
from weakloc.methods import method_named
from weakloc.methods.settings import merged_settings, to_settings
from weakloc.papers.cells import DataSetOnDisk, Measurement, Training, digest_of_data, drawn_scenes
from weakloc.papers.page import write_results
from weakloc.papers.recipe import (
    EFFORTS,
    Cell,
    Conditions,
    Recipe,
    as_published,
    from_scratch,
    given_backbone,
)
from weakloc.papers.results import Results
from weakloc.settings import DataSettings, ReproduceSettings, TrainSettings
from weakloc.training.plan import accelerator
from weakloc.work import num_cores, work_through

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Reproduction(ReproduceSettings):
    """How a recipe is run; `choices` are fields of the methods, for all cells.

    Without `data`, scenes are drawn into `out`. `settings` that are not given follow the budget.
    """

    out: Path = Path("reproduced")
    settings: TrainSettings = TrainSettings()
    reading: DataSettings = DataSettings()
    choices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def range_of_seeds(self) -> range:
        count = self.seeds or (1 if self.budget == "quick" else 3)
        return range(self.settings.seed, self.settings.seed + count)


def reproduce(
    recipe: Recipe, reproduction: Reproduction, *, say: Say = lambda _text: None
) -> Results:
    """Runs what is missing of the recipe, and writes results.json, results.md and curves.

    Cells that fail are named in the results.
    """
    with only_writer(reproduction.out):
        measurements, untestable = planned(recipe, reproduction, say)
        failures = _work_through(measurements, reproduction.jobs, say)
        results = Results.collected(
            recipe, reproduction.range_of_seeds, measurements, untestable, failures
        )
        write_results(results, reproduction.out)
    if not results.rows:
        first = next(iter(failures.values()), "no cell can be tested here")
        raise FailureError(f"nothing was measured: {first}", location=recipe.name)
    return results


def planned(
    recipe: Recipe, reproduction: Reproduction, say: Say
) -> tuple[list[Measurement], dict[str, str]]:
    """Every cell with every seed, and the reasons of the cells that cannot be tested here."""
    path = reproduction.data
    if path is None:
        effort = EFFORTS[reproduction.budget, recipe.data]
        path = str(drawn_scenes(reproduction.out, recipe.data, effort, say))
    data_set = read(path, reproduction.reading)
    source = DataSetOnDisk(path, reproduction.reading, digest_of_data(data_set))
    if reproduction.budget in ("paper", "paper60"):
        conditions = as_published(reproduction.budget, recipe, reproduction.splits)
    elif reproduction.settings.backbone is not None:
        conditions = given_backbone(recipe.optimiser)
    else:
        conditions = from_scratch(reproduction.budget, recipe)
    shared = with_assumed(reproduction.settings, conditions.train)
    reproduction = replace(reproduction, settings=shared)
    data_set.split(shared.train_split, flag="--splits given and --train-split")
    data_set.split(shared.val_split, flag="--splits given and --val-split")
    say(f"Learning from the split {shared.train_split}, measuring on {shared.val_split}")
    reasons = ((cell.name, _why_not(cell, conditions, reproduction)) for cell in recipe.cells)
    untestable = {name: reason for name, reason in reasons if reason is not None}
    measurements = [
        Measurement(cell, _trainings(cell, conditions, reproduction, source, seed), recipe.metrics)
        for seed in reproduction.range_of_seeds
        for cell in recipe.cells
        if cell.name not in untestable
    ]
    return measurements, untestable


def _why_not(cell: Cell, conditions: Conditions, reproduction: Reproduction) -> str | None:
    reasons = {
        "left out with --cell": reproduction.cell and cell.name not in reproduction.cell,
        f"only with the {cell.only} preset": cell.only not in (None, conditions.preset),
        "the backbone is frozen": cell.below_head and reproduction.settings.frozen,
        "one backbone was given": cell.smaller_backbone and not conditions.smaller_backbone,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _trainings(
    cell: Cell, conditions: Conditions, reproduction: Reproduction, source: DataSetOnDisk, seed: int
) -> tuple[Training, ...]:
    """One for each size of the cell."""
    choices = merged_settings(conditions.choices(cell.method), cell.choices)
    choices = merged_settings(choices, reproduction.choices)
    method = method_named(cell.method, conditions.preset, choices)
    optimisation = method.optimisation
    # A refined run is another look at the same network.
    settings = replace(reproduction.settings, **cell.train, seed=seed, refine=False)
    if cell.smaller_backbone:
        settings = replace(settings, backbone=conditions.smaller_backbone)
    if settings.frozen and settings.feature_cache is None:
        settings = replace(settings, feature_cache=str(reproduction.out / "features"))
    factors = {"learning_rate": cell.head_rate, "batch_size": cell.batch, "epochs": cell.epochs}
    for name, factor in factors.items():
        if factor != 1:
            scaled = (getattr(settings, name) or getattr(optimisation, name)) * factor
            value = scaled if name == "learning_rate" else max(1, round(scaled))
            settings = replace(settings, **{name: value})
    if cell.backbone_rate != cell.head_rate:
        if isinstance(optimisation.backbone_factor, str):
            raise SettingError(
                "a cell that changes one of two learning rates needs their ratio as a number",
                location=cell.name,
                remedy="Give it with --set optimisation.backbone_factor=0.1",
            )
        factor = optimisation.backbone_factor * cell.backbone_rate / cell.head_rate
        choices = merged_settings(choices, {"optimisation": {"backbone_factor": factor}})
    training = Training(
        source,
        reproduction.out,
        cell.method,
        conditions.preset,
        choices,
        settings,
        crops_of_boxes=cell.crops_of_boxes,
    )
    if cell.sizes == (1.0,):
        return (training,)
    side = settings.image_size or method.side
    return tuple(
        replace(training, settings=replace(settings, image_size=round(side * size)))
        for size in cell.sizes
    )


def with_assumed(settings: TrainSettings, assumed: Mapping[str, Any]) -> TrainSettings:
    """The settings with what is assumed where the command line does not say."""
    defaults = to_settings(TrainSettings())
    given = {name for name, value in to_settings(settings).items() if value != defaults[name]}
    if "backbone" in given:
        given.add("weights")  # those of the backbone that was named
    return replace(settings, **{name: assumed[name] for name in assumed if name not in given})


def _work_through(measurements: list[Measurement], jobs: int | None, say: Say) -> dict[str, str]:
    """Each training once, followed by what is measured with it; the problems of those that fail.

    What is measured with several networks follows the last of them.
    """
    sharing: dict[str, list[Measurement]] = {}
    trainings: dict[str, Training | Measurement] = {}
    for measurement in measurements:
        for training in () if measurement.is_done else measurement.trainings:
            sharing.setdefault(training.digest, []).append(measurement)
            trainings[training.digest] = training
    trained = set[str]()
    total = len({measurement.title for group in sharing.values() for measurement in group})

    def complete(work: Training | Measurement) -> list[Measurement]:
        trained.add(work.digest)
        shared = sharing[work.digest] if isinstance(work, Training) else []
        return [m for m in shared if trained.issuperset(part.digest for part in m.trainings)]

    ended, failures = set[str](), dict[str, str]()
    began = time.perf_counter()
    for work, problem in work_through(
        list(trainings.values()),
        jobs=min(jobs or (1 if accelerator() == "gpu" else num_cores()), max(len(trainings), 1)),
        then=complete,
    ):
        if isinstance(work, Training) and problem is None:
            continue
        lost = sharing[work.digest] if isinstance(work, Training) else [work]
        titles = [measurement.title for measurement in lost]
        ended.update(titles)
        if problem is not None:
            failures.update(dict.fromkeys(titles, problem))
        title = f"{work.title}: " if isinstance(work, Measurement) else "training "
        state = "done" if problem is None else f"failed: {problem}"
        left = (time.perf_counter() - began) / len(ended) * (total - len(ended))
        remaining = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        say(f"{len(ended)} of {total} (about {remaining} left): {title}{state}")
    return failures
