"""Tags to a run by name of method, and a run to one that has learned which cells are the object.

While a run learns, the maps of some images can be drawn after every epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from weakloc.api.data_sets import Data, opened, require_same_classes
from weakloc.api.runs import TrainedRun, opened_run
from weakloc.data.sources import ImageSource
from weakloc.errors import SettingError
from weakloc.files import write_whole
from weakloc.localize.maps import HeatMap, sigmoid
from weakloc.methods import method_named
from weakloc.methods.method import Preset
from weakloc.output.drawing import draw_grid, overlay_heat
from weakloc.predictor.network_source import NetworkSource
from weakloc.predictor.predictor import fused_maps
from weakloc.predictor.views import see_images
from weakloc.settings import DataSettings, Look, RefineSettings, TrainSettings
from weakloc.structures import PRESENT, BrokenImage
from weakloc.training.cells import learn_cells
from weakloc.training.plan import TrainingPlan, divide
from weakloc.training.run_folder import save_cells, save_thresholds
from weakloc.work import NO_DISPLAY, Display, Progress, silent


def train(
    data: Data,
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
    such as `{"maps_per_class": 8}`. A pretrained backbone's cells are learned as `refine` does, but
    not in a literal reproduction.
    """
    if backbone is not None:
        settings = replace(settings, backbone=backbone)
    chosen = method_named(method, preset, choices or {})  # before any file is read
    data_set = opened(data, reading)
    from weakloc.training.fit import fit, is_first_process  # loads Lightning: seconds

    run = fit(
        data_set,
        chosen,
        settings,
        Path(out),
        resume=resume,
        display=display,
        after_epoch=WatchedMaps(Path(out)),
    )
    knows_images = preset == "practical" and run.network.backbone.is_pretrained
    if not (settings.refine and knows_images and run.cells is None and is_first_process()):
        return TrainedRun(run)
    show = partial(display.count, "learning what is object and what is background")
    of_cells = RefineSettings(seed=settings.seed)
    return refine(TrainedRun(run), data_set, settings=of_cells, on_progress=show).run


MAPS_NAME = "maps"  # of the folder, and of the picture beside it
CELLS_KEPT = 32  # along the long side of a map
PICTURE_SIDE = 160  # pixels
MOST_EPOCHS_SHOWN = 12


@dataclass(frozen=True)
class WatchedMaps:
    """Keeps and draws the maps of some images after an epoch: Oquab et al. 2015, figure 1.

    Of each image the first class that its tags say, as a probability at every place. The images
    are spread evenly over those watched or, where none are, over those learned from.
    """

    folder: Path

    def __call__(self, plan: TrainingPlan, epoch: int) -> None:
        if plan.settings.watch_maps == 0:
            return
        pictures, names, maps = [], [], []
        for image, class_index, heat in _heats_now(plan):
            image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
            pictures.append(image)
            names.append(plan.header.class_names[class_index])
            maps.append(heat.astype(np.float16))
        with write_whole(self._file(epoch)) as unfinished:
            np.savez_compressed(unfinished, *maps)
        with write_whole(self.folder / f"{MAPS_NAME}.png") as unfinished:
            self._strip(pictures, names, epoch).save(unfinished)

    def _file(self, epoch: int) -> Path:
        return self.folder / MAPS_NAME / f"{epoch:04}.npz"

    def _strip(
        self, pictures: Sequence[Image.Image], names: Sequence[str], last: int
    ) -> Image.Image:
        """A row for each picture: itself, then its maps of epochs spread evenly up to the last."""
        steps = np.linspace(1, last, min(last, MOST_EPOCHS_SHOWN)).round().astype(int).tolist()
        epochs = [epoch for epoch in steps if self._file(epoch).is_file()]
        stored = [np.load(self._file(epoch), allow_pickle=False) for epoch in epochs]
        cells, captions = [], []
        for row, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            heats = [maps[f"arr_{row}"].astype(np.float32) for maps in stored]
            cells += [picture, *(overlay_heat(picture, heat) for heat in heats)]
            captions += [name, *(f"epoch {epoch}" for epoch in epochs)]
        size = (PICTURE_SIDE, PICTURE_SIDE)
        return draw_grid(cells, num_columns=1 + len(epochs), cell_size=size, captions=captions)


def _heats_now(plan: TrainingPlan) -> Iterator[tuple[Image.Image, int, HeatMap]]:
    """The images that can be read, with their classes and these classes' maps as probabilities."""
    division = plan.division
    tagged = [
        sample
        for sample in division.watched or division.learned
        if (sample.labels == PRESENT).any()
    ]
    count = min(plan.settings.watch_maps, len(tagged))
    samples = [tagged[number * len(tagged) // count] for number in range(count)]
    look = Look(map_side=CELLS_KEPT, workers=0)
    source = NetworkSource(
        plan.network,
        look,
        class_names=plan.header.class_names,
        preprocessing=plan.preprocessing,
        activation="sigmoid",
        uses_bf16=plan.hardware.in_bf16,
    )
    sources = (ImageSource(sample.name, sample.path) for sample in samples)
    for image, sample in zip(see_images(sources, source, look), samples, strict=True):
        if not isinstance(image, BrokenImage):
            class_index = int(np.argmax(sample.labels == PRESENT))
            heat = fused_maps(image, [class_index], look)
            yield image.picture.copy(), class_index, sigmoid(heat.values[0])


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
    data: Data,
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
