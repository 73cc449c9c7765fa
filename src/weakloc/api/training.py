"""Tags to a run by name of method, and a run to one that has learned which cells are the object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weakloc.api.data_sets import opened, require_same_classes
from weakloc.api.runs import TrainedRun, opened_run
from weakloc.errors import SettingError
from weakloc.methods import method_named
from weakloc.methods.method import Preset
from weakloc.settings import DataSettings, RefineSettings, TrainSettings
from weakloc.structures import BrokenImage, DataSet
from weakloc.training.cells import learn_cells
from weakloc.training.fit import fit
from weakloc.training.plan import divide
from weakloc.training.run_folder import save_cells, save_thresholds
from weakloc.work import NO_DISPLAY, Display, Progress, silent


def train(
    data: str | Path | DataSet,
    *,
    method: str = "wildcat",
    backbone: str | None = None,
    preset: Preset = "practical",
    choices: Mapping[str, Any] | None = None,
    out: str | Path = "run",
    settings: TrainSettings = TrainSettings(),
    reading: DataSettings = DataSettings(),
    resume: bool = False,
    display: Display = NO_DISPLAY,
) -> TrainedRun:
    """Learns from the tags of a data set; what was drawn in it is never looked at.

    `backbone` is short for the setting of that name; `choices` overrides fields of the method,
    such as `{"maps_per_class": 8}`.
    """
    if backbone is not None:
        settings = replace(settings, backbone=backbone)
    chosen = method_named(method, preset, choices or {})
    run = fit(opened(data, reading), chosen, settings, Path(out), resume=resume, display=display)
    return TrainedRun(run)


def parse_choices(pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE`, or `PART.NAME=VALUE`; values as JSON, or as plain text where they are none."""
    choices: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals:
            raise SettingError(f"--set is {pair!r}", remedy="Write NAME=VALUE, as in alpha=0.7")
        *parts, name = path.replace("-", "_").split(".")
        inner = choices
        for part in parts:
            inner = inner.setdefault(part, {})
        try:
            inner[name] = json.loads(text)
        except ValueError:
            inner[name] = text
    return choices


@dataclass(frozen=True)
class Refined:
    """The run with its cells, and what could not be read on the way."""

    run: TrainedRun
    num_images: int
    broken: tuple[BrokenImage, ...]


def refine(
    run: str | Path | TrainedRun,
    data: str | Path | DataSet,
    *,
    settings: RefineSettings = RefineSettings(),
    reading: DataSettings = DataSettings(),
    keep: bool = True,
    on_progress: Progress = silent,
) -> Refined:
    """Learns from the images that the run was trained on, and keeps the cells in its folder.

    Thresholds of an earlier calibration belong to other maps and are forgotten. Without `keep`
    nothing is written, and the run that is given back alone has the cells.
    """
    data_set = opened(data, reading)
    trained = opened_run(run).run
    require_same_classes(
        data_set.class_names,
        trained.class_names,
        of=str(trained.path),
        location=str(data_set.root),
        remedy="Give the data that the run was trained on",
    )
    samples = divide(data_set, trained.settings).learned
    cells, broken = learn_cells(
        trained.network, samples, trained.preprocessing, settings, on_progress
    )
    if keep:
        save_cells(trained.path, cells, trained.network.backbone, settings)
        trained = save_thresholds(trained, None)
    trained = replace(trained, cells=cells, thresholds=None)
    num_images = min(len(samples), settings.images) - len(broken)
    return Refined(TrainedRun(trained), num_images, tuple(broken))
