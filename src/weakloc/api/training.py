"""Tags to a run by name of method, and a run to one that has learned cells or a detector.

While a run learns, the maps of some images can be drawn after every epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product, starmap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from weakloc.api.calibration import DrawnImage, drawn_boxes, drawn_images, images_to_draw_in
from weakloc.api.data_sets import Data, opened, require_same_classes
from weakloc.api.label_plan import evenly
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, SettingError
from weakloc.files import ByName, only_writer, open_buffered, require_own
from weakloc.geometry import box_iou
from weakloc.localize.maps import HeatMap, sigmoid
from weakloc.methods import method_named
from weakloc.methods.method import Preset
from weakloc.model.fine_layers import Detector
from weakloc.output.drawing import draw_grid, overlay_heat
from weakloc.predictor.predictor import fused_maps
from weakloc.predictor.views import NetworkSource, see_images
from weakloc.settings import DataSettings, DistilSettings, Look, RefineSettings, TrainSettings
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, BrokenImage, DataSet, Sample
from weakloc.training import run_folder
from weakloc.training.fine_layers import Lesson, learn_cells, learn_detector
from weakloc.training.hub import require_local
from weakloc.training.plan import TrainingPlan, divide
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
            names.append(plan.class_names[class_index])
            maps.append(heat.astype(np.float16))
        with open_buffered(self._file(epoch)) as file:
            np.savez_compressed(file, *maps)
        with open_buffered(self.folder / f"{MAPS_NAME}.png") as file:
            self._strip(pictures, names, epoch).save(file, "PNG")

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
    samples = evenly(tagged, plan.settings.watch_maps)
    look = Look(map_side=CELLS_KEPT, workers=0)
    source = NetworkSource(
        plan.network,
        look,
        class_names=plan.class_names,
        preprocessing=plan.preprocessing,
        activation="sigmoid",
        uses_bf16=plan.hardware.in_bf16,
    )
    sources = map(ImageSource.of, samples)
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
    remedy = "Give the data that the run was trained on"
    of_run, data_set = _of_same_classes(run, data, reading, remedy=remedy)
    trained = of_run.run
    if keep:
        require_local(trained.path)
    samples = divide(data_set, trained.settings).learned
    with only_writer(trained.path) if keep else nullcontext():
        cells, broken = learn_cells(
            trained.network, samples, trained.preprocessing, settings, on_progress
        )
        if keep:
            run_folder.save_learned(trained.path, cells, trained.network.backbone, settings)
            trained = run_folder.save_thresholds(trained, None)
    trained = replace(trained, cells=cells, thresholds=None)
    num_images = min(len(samples), settings.images) - len(broken)
    return Refined(TrainedRun(trained), num_images, tuple(broken))


def _of_same_classes(
    run: str | Path | TrainedRun, data: Data, reading: DataSettings, *, remedy: str
) -> tuple[TrainedRun, DataSet]:
    """The run, and data with its classes."""
    data_set, trained = opened(data, reading), load_folder(run)
    require_same_classes(
        data_set.class_names,
        trained.run.class_names,
        of=str(trained.run.path),
        location=str(data_set.root),
        remedy=remedy,
    )
    return trained, data_set


@dataclass(frozen=True)
class Comparison:
    """How far first boxes overlap drawn ones (mean IoU), in images they were not learned from."""

    detector: float  # learned from the other drawn images
    run: float  # as it was; 0.75 where people accepted its box
    error: float  # the standard error of their difference

    @property
    def is_worse(self) -> bool:
        """By more than its error: a handful of images cannot tell, and most detectors gain."""
        return self.detector + self.error < self.run

    def in_words(self) -> str:
        means = f"{self.detector:.2f} of a detector, {self.run:.2f} of the run as it was"
        gain = f"{self.detector - self.run:+.2f} ± {self.error:.2f}"
        text = f"Overlap with drawn boxes in images that were not learned from: {means} ({gain})"
        kept = ". The run's own boxes stay: draw more, or keep the detector with 'distil --folds 0'"
        return text + kept * self.is_worse


@dataclass(frozen=True)
class Distilled:
    """The run with its detector, what it learned from, and what could not be read on the way.

    `comparison` is None where nothing was drawn, or nobody asked. Where the detector is worse, the
    run has stayed without it.
    """

    run: TrainedRun
    num_images: int
    num_boxes: int
    broken: tuple[BrokenImage, ...]
    comparison: Comparison | None


def distil(
    run: str | Path | TrainedRun,
    data: Data,
    out: str | Path,
    settings: DistilSettings = DistilSettings(),
    *,
    reading: DataSettings = DataSettings(),
    display: Display = NO_DISPLAY,
) -> Distilled:
    """A new run folder `out`: the run, and a detector of boxes on its frozen backbone.

    It learns from as many drawn boxes as are allowed, which are counted as hidden supervision; by
    default from the boxes that the run itself names in the images it learned from, given the tags.
    """
    out, remedy = Path(out), "Give data with the classes of the run"
    trained, data_set = _of_same_classes(run, data, reading, remedy=remedy)
    if trained.run.cells is None:
        raise SettingError(
            f"{trained.path} has learned no cells, whose heat says where points are",
            remedy="Run 'weakloc refine' first",
        )
    # Without its record it is what an interruption left.
    marks = () if (out / run_folder.RECORD_NAME).exists() else (run_folder.MODEL_NAME,)
    require_own(out, ("*",), marks=marks)
    drawn, comparison = [], None
    if settings.boxes or settings.boxes_per_class:
        split, samples = images_to_draw_in(trained, data_set, settings.split)
        drawn = drawn_images(samples, settings, split, len(trained.class_names))
        lessons = [_drawn_lesson(image) for image in drawn]
        comparison = _compared(trained, drawn, settings, display)
    else:
        samples = divide(data_set, trained.run.settings).learned
        lessons = _own_lessons(trained, samples, partial(display.count, "looking for boxes"))
    num_boxes = sum(len(lesson.boxes) for lesson in lessons)
    num_looked_at = trained.run.hidden_supervision + (num_boxes if drawn else 0)
    detector, broken = None, list[BrokenImage]()
    if comparison is None or not comparison.is_worse:
        detector, broken = _detector(trained, lessons, settings, display)
    with only_writer(out):
        with_boxes = replace(trained.run, hidden_supervision=num_looked_at)
        with_boxes = run_folder.save_distilled(with_boxes, out, detector, settings)
    return Distilled(
        TrainedRun(with_boxes), len(lessons) - len(broken), num_boxes, tuple(broken), comparison
    )


def _detector(
    trained: TrainedRun, lessons: Sequence[Lesson], settings: DistilSettings, display: Display
) -> tuple[Detector, list[BrokenImage]]:
    show = partial(display.count, "learning boxes")
    run = trained.run
    return learn_detector(run.network, lessons, run.preprocessing, settings, show)


def _drawn_lesson(image: DrawnImage) -> Lesson:
    not_absent = set(np.flatnonzero(image.sample.labels != ABSENT).tolist())
    boxes = [(index, box) for index in image.classes for box in drawn_boxes(image.sample, index)]
    return Lesson(image.sample, tuple(boxes), frozenset(not_absent - {*image.classes}))


def _compared(
    trained: TrainedRun, drawn: Sequence[DrawnImage], settings: DistilSettings, display: Display
) -> Comparison | None:
    """Detectors beside the run, each in drawn images that this detector did not learn from.

    Of a class that was drawn in one part alone nothing can be told, and nothing without folds.
    """
    order = np.random.default_rng(settings.seed).permutation(len(drawn)).tolist()
    order.sort(key=lambda number: drawn[number].classes)  # each class in as many parts as can be
    of_detectors, of_run = [], []
    for fold in range(settings.folds):
        kept_back = set(order[fold :: settings.folds])
        others = [image for number, image in enumerate(drawn) if number not in kept_back]
        taught = {index for image in others for index in image.classes}
        images = (drawn[number] for number in sorted(kept_back))
        judged = [image for image in images if taught.issuperset(image.classes)]
        if judged:
            try:
                detector, _ = _detector(trained, [*map(_drawn_lesson, others)], settings, display)
            except DataError:  # none of these images can be read
                continue
            with_detector = replace(trained.run, detector=detector, thresholds=None)
            of_detectors += _overlaps(TrainedRun(with_detector), judged)
            of_run += _overlaps(trained, judged)
    by_detectors, by_run = np.array([of_detectors, of_run])
    # An accepted box is the run's own, but for rounding: it fits, by something from 0.5 to 1.
    by_run = np.where(by_run > 0.95, 0.75, by_run)
    if len(by_run) < 2:
        return None
    error = (by_detectors - by_run).std(ddof=1) / math.sqrt(len(by_run))
    return Comparison(float(by_detectors.mean()), float(by_run.mean()), float(error))


def _overlaps(trained: TrainedRun, drawn: Sequence[DrawnImage]) -> list[float]:
    """IoU of the first box of every drawn class with the drawn one that it fits best."""
    names, samples = trained.class_names, [image.sample for image in drawn]
    tags = ByName({sample.name: sample.labels for sample in samples})
    predictions = trained.predictor().predict(map(ImageSource.of, samples), tags)
    overlaps = []
    for image, prediction in zip(drawn, predictions, strict=True):
        if isinstance(prediction, BrokenImage):
            continue
        for index in image.classes:
            boxes = [box.box for box in prediction.boxes if box.class_name == names[index]]
            pairs = product(boxes[:1], drawn_boxes(image.sample, index))
            overlaps.append(max(starmap(box_iou, pairs), default=0.0))
    return overlaps


def _own_lessons(
    trained: TrainedRun, samples: Sequence[Sample], on_progress: Progress
) -> list[Lesson]:
    """Images with the boxes that the run names where the tags say that there is something."""
    predictor = trained.predictor()
    index_of = {name: index for index, name in enumerate(trained.class_names)}
    tags = ByName({sample.name: sample.labels for sample in samples})
    sources = map(ImageSource.of, samples)
    lessons = []
    predictions = predictor.predict(sources, tags)
    for done, (sample, prediction) in enumerate(zip(samples, predictions, strict=True), start=1):
        on_progress(done, len(samples))
        if isinstance(prediction, BrokenImage):
            continue
        boxes = tuple(
            (index_of[box.class_name], box.box)
            for box in prediction.boxes
            if sample.labels[index_of[box.class_name]] == PRESENT
        )
        unknown = frozenset(np.flatnonzero(sample.labels == UNKNOWN).tolist())
        lessons.append(Lesson(sample, boxes, unknown))
    return lessons
