"""Training by name of method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weakloc.api.data_sets import read
from weakloc.api.runs import TrainedRun, opened_run
from weakloc.errors import DataError, SettingError
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
    settings: TrainSettings | None = None,
    reading: DataSettings | None = None,
    resume: bool = False,
    display: Display = NO_DISPLAY,
) -> TrainedRun:
    """Learns from the tags of a data set; what was drawn in it is never looked at.

    `backbone` is short for the setting of that name; `choices` overrides fields of the method,
    such as `{"maps_per_class": 8}`.
    """
    settings = settings or TrainSettings()
    if backbone is not None:
        settings = replace(settings, backbone=backbone)
    chosen = method_named(method, preset, choices or {})
    data_set = data if isinstance(data, DataSet) else read(data, reading or DataSettings())
    run = fit(
        data_set,
        chosen,
        settings,
        Path(out),
        resume=resume,
        display=display,
    )
    return TrainedRun(run)


def parse_choices(pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE`, or `PART.NAME=VALUE`; values as JSON, or as plain text where they are none."""
    choices: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals:
            raise SettingError(f"--set is {pair!r}", remedy="Write NAME=VALUE, as in alpha=0.7")
        *parts, name = path.replace("-", "_").split(".")
        place = choices
        for part in parts:
            place = place.setdefault(part, {})
        place[name] = _value(text)
    return choices


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


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
    settings: RefineSettings | None = None,
    reading: DataSettings | None = None,
    keep: bool = True,
    on_progress: Progress = silent,
) -> Refined:
    """Learns from the images that the run was trained on, and keeps the cells in its folder.

    Thresholds of an earlier calibration belong to other maps and are forgotten. Without `keep`
    nothing is written, and the run that is given back alone has the cells.
    """
    settings = settings or RefineSettings()
    data_set = data if isinstance(data, DataSet) else read(data, reading or DataSettings())
    trained = opened_run(run).run
    if data_set.class_names != trained.class_names:
        raise DataError(
            f"the data has the classes {', '.join(data_set.class_names[:5])}, the run "
            f"{', '.join(trained.class_names[:5])}",
            where=str(data_set.root),
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
