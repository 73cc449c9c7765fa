"""The two kinds of work in a recipe: training a network, and looking with it at images.

Each leaves what it found in a file that is written whole, so a killed reproduction goes on where it
was; the file's name holds a digest of everything that its content depends on.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from weakloc import __version__
from weakloc.api.calibration import calibrate, calibrate_rescoring, oracle
from weakloc.api.data_sets import read, scenes
from weakloc.api.evaluation import Evaluated, evaluate
from weakloc.api.fused_runs import FusedRuns
from weakloc.api.runs import LoadedRun, TrainedRun, load_folder
from weakloc.api.stages import digest_of
from weakloc.api.training import refine, train
from weakloc.data.images import read_or_record
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError
from weakloc.files import UNFINISHED, open_buffered, read_json, write_json
from weakloc.methods import METHODS, method_named
from weakloc.methods.method import Preset
from weakloc.methods.settings import from_settings, merged_settings, to_settings
from weakloc.papers.recipe import Cell, DataKind, Effort
from weakloc.predictor.beam_heat import BeamHeat
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import see_images
from weakloc.settings import (
    CalibrateSettings,
    DataSettings,
    EvaluateSettings,
    Look,
    Places,
    RefineSettings,
    TrainSettings,
    look_and_places,
)
from weakloc.structures import ABSENT, PRESENT, BrokenImage, DataSet, Sample, Truth
from weakloc.training.run_folder import CHECKPOINT_NAME

SEED = 0
MOST_WATCHED = 200  # images while training; all of them are measured at the end
SMALLEST_SIDE = 16  # pixels; smaller boxes show nothing


def drawn_scenes(folder: Path, kind: DataKind, effort: Effort, say: Callable[[str], None]) -> Path:
    """A folder of scenes, drawn unless it is there already."""
    num_train, num_val = effort.num_train, effort.num_val
    path = folder / f"scenes-{kind}-{num_train}-{num_val}"
    if not path.is_dir() or (path / UNFINISHED).is_file():
        say(f"Drawing {num_train} training and {num_val} validation scenes")
        scenes(path, kind=kind, num_train=num_train, num_val=num_val, seed=SEED)
    return path


def digest_of_data(data_set: DataSet) -> str:
    """Stands for the images by name, with their tags, split by split."""
    digest = hashlib.sha256(repr(data_set.class_names).encode())
    for split, samples in data_set.splits.items():
        digest.update(split.encode())
        for sample in samples:
            digest.update(sample.fingerprint)
    return digest.hexdigest()[:16]


def _crops_of_boxes(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """One image for every drawn box, tagged with its class alone (Oquab et al., "strong")."""
    added = []
    for number, sample in enumerate(samples):
        drawn = (box for box in sample.drawn.boxes if not box.difficult)
        for index, box in enumerate(drawn):
            path = folder / f"{number}-{index}.png"
            if not (path.is_file() or _write_crop(sample, box.box, path)):
                continue
            labels = np.full_like(sample.labels, ABSENT)
            labels[box.class_index] = PRESENT
            added.append(Sample(f"crops/{path.name}", str(path), labels))
    if not added:
        raise DataError("no box is drawn in the training images", remedy="Leave this cell out")
    return added


def _write_crop(sample: Sample, box: tuple[float, float, float, float], path: Path) -> bool:
    left, top = (int(np.floor(edge)) for edge in box[:2])
    right, bottom = (int(np.ceil(edge)) for edge in box[2:])
    if min(right - left, bottom - top) < SMALLEST_SIDE:
        return False
    picture = read_or_record(sample.name, sample.path)
    if isinstance(picture, BrokenImage):
        return False
    with open_buffered(path) as file:
        picture.crop((left, top, right, bottom)).save(file, "PNG")
    return True


MARK_NAME = "trained.json"
BOXES_TO_TUNE = 20  # of each class
IMAGES_TO_COUNT = 20
NEED_MASKS = frozenset(("mean_iou", "mean_iou_tags_given", "px_ap"))
# What changes how fast a training is or what it shows, not what it learns.
_FREE = ("workers", "checkpoint_minutes", "feature_cache", "watch_maps")


@dataclass(frozen=True)
class DataSetOnDisk:
    """The data set of a reproduction, which every process reads for itself."""

    path: str
    reading: DataSettings
    digest: str

    def open(self) -> DataSet:
        return _read_once(self.path, self.reading)


_read_once = functools.lru_cache(maxsize=1)(read)


@dataclass(frozen=True)
class Training:
    """One network that is to be trained; several cells may share it."""

    source: DataSetOnDisk
    folder: Path
    method: str
    preset: Preset
    choices: Mapping[str, Any]
    settings: TrainSettings
    crops_of_boxes: bool = False

    @functools.cached_property
    def digest(self) -> str:
        """Of the method and the settings as they resolve, so that a new default counts."""
        settings = to_settings(self.settings)
        learned = {name: value for name, value in settings.items() if name not in _FREE}
        method = to_settings(method_named(self.method, self.preset, self.choices))
        content = [self.method, method, self.crops_of_boxes, learned]
        return digest_of([__version__, self.source.digest, *content])[:16]

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / f"{self.method}-seed{self.settings.seed}-{self.digest}"

    @property
    def is_done(self) -> bool:
        return (self.run_folder / MARK_NAME).is_file()

    def run(self) -> None:
        """Trains, or goes on with what an interrupted training left."""
        if self.is_done:
            return
        checkpoint = self.run_folder / CHECKPOINT_NAME
        if self.run_folder.exists() and not checkpoint.is_file():
            shutil.rmtree(self.run_folder)
        data_set, num_boxes = self._learning_set()
        began = time.perf_counter()
        trained = train(
            data_set,
            method=self.method,
            preset=self.preset,
            choices=self.choices,
            out=self.run_folder,
            settings=self.settings,
            resume=True,
        )
        record = {
            "seconds": round(time.perf_counter() - began, 2),
            "epochs": len(trained.run.history),
            "num_parameters": sum(weights.numel() for weights in trained.run.network.parameters()),
            "num_boxes": num_boxes,
            "notes": list(trained.run.notes),
        }
        write_json(self.run_folder / MARK_NAME, record)
        checkpoint.unlink(missing_ok=True)

    def _learning_set(self) -> tuple[DataSet, int]:
        """What is learned from, and the number of drawn boxes in it.

        Where watching decides nothing, part of the watched split is enough to see how it goes.
        """
        data_set, settings, added = self.source.open(), self.settings, list[Sample]()
        splits = dict(data_set.splits)
        if settings.select == "last" and settings.patience is None:
            watched = data_set.split(settings.val_split)
            splits[settings.val_split] = watched[:: -(-len(watched) // MOST_WATCHED)]
        if self.crops_of_boxes:
            learned = data_set.split(settings.train_split)
            added = _crops_of_boxes(learned, self.folder / "crops")
            splits[settings.train_split] = [*learned, *added]
        return replace(data_set, splits=splits), len(added)


@dataclass(frozen=True)
class Measurement:
    """One cell with one seed: trained networks, and the numbers that are asked of them."""

    cell: Cell
    trainings: tuple[Training, ...]
    numbers: tuple[str, ...]

    @functools.cached_property
    def look(self) -> Look:
        return Look(**look_and_places(self.cell.look)[0])

    @functools.cached_property
    def places(self) -> Places:
        return Places(**look_and_places(self.cell.look)[1])

    @property
    def training(self) -> Training:
        """The first, whose splits and seed are those of all."""
        return self.trainings[0]

    @property
    def title(self) -> str:
        return f"{self.cell.name}, seed {self.training.settings.seed}"

    @functools.cached_property
    def digest(self) -> str:
        cell, look = self.cell, {**to_settings(self.look), **to_settings(self.places)}
        content = [look, dict(cell.search), cell.tuning, cell.fusion, sorted(self.numbers)]
        return digest_of([[part.digest for part in self.trainings], *content])[:16]

    @property
    def path(self) -> Path:
        return self.training.folder / "cells" / f"{self.digest}.json"

    @property
    def is_done(self) -> bool:
        return self.path.is_file()

    def run(self) -> None:
        """Measures on the watched split, with thresholds from where the cell says."""
        if self.is_done:
            return
        everything, split = self.training.source.open(), self.training.settings.val_split
        tuned = self._measured_run(everything)
        samples = everything.split(split)
        if NEED_MASKS.isdisjoint(self.numbers):
            samples = [
                replace(sample, truth=sample.truth and Truth(boxes=sample.truth.boxes))
                for sample in samples
            ]
        measured = replace(everything, splits={split: samples})
        settings = EvaluateSettings(split=split, resamples=0, ap="all", box_edges="half-open")
        began = time.perf_counter()
        evaluated = evaluate(
            tuned, measured, settings, numbers=self.numbers, look=self.look, places=self.places
        )
        seconds = time.perf_counter() - began
        predictor = tuned.predictor(self.look)
        searched = _searched(predictor, measured.splits[split])
        write_json(self.path, self._record(evaluated, seconds, searched))

    def _measured_run(self, data_set: DataSet) -> LoadedRun:
        first, *others = [self._searching(load_folder(part.run_folder)) for part in self.trainings]
        if not others:
            if self.look.localiser == "cells":
                settings = RefineSettings(seed=self.training.settings.seed)
                first = refine(first, data_set, settings=settings, keep=False).run
            return self._tuned(first, data_set)
        fused = FusedRuns((first, *others))
        return fused if self.cell.fusion == "mean" else fused.fitted(data_set, look=self.look)

    def _searching(self, trained: TrainedRun) -> TrainedRun:
        """Without thresholds that another cell of the same network may have tuned."""
        run = replace(trained.run, thresholds=None)
        if not self.cell.search:
            return TrainedRun(run)
        fields = merged_settings(to_settings(run.method), self.cell.search)
        return TrainedRun(replace(run, method=from_settings(METHODS[run.method.name], fields)))

    def _tuned(self, trained: TrainedRun, data_set: DataSet) -> TrainedRun:
        origin = self.cell.tuning
        if origin == "fixed":
            return trained
        if origin == "held-out tags":
            calibrate_rescoring(trained, data_set, look=self.look)
            return trained
        settings = self.training.settings
        tuning = CalibrateSettings(boxes_of_a_class=self.places.boxes)
        if origin == "oracle":
            tuning = replace(tuning, split=settings.val_split)
            calibrated = oracle(trained, data_set, tuning, look=self.look, cut=self.places)
            return TrainedRun(replace(trained.run, thresholds=msgspec.to_builtins(calibrated)))
        tuning = replace(
            tuning,
            split=settings.train_split,
            boxes_per_class=BOXES_TO_TUNE,
            granularity="global" if origin == "boxes, one for all" else "class",
            seed=settings.seed,
        )
        return calibrate(trained, data_set, tuning, look=self.look, cut=self.places)

    def _record(
        self, evaluated: Evaluated, seconds: float, searched: Mapping[str, float]
    ) -> dict[str, Any]:
        results = evaluated.metrics
        marks = [
            read_json(training.run_folder / MARK_NAME, error=DataError)
            for training in self.trainings
        ]
        return {
            "cell": self.cell.name,
            "seed": self.training.settings.seed,
            "values": {result.name: result.value for result in results if result.value is not None},
            "boxes_used": {result.name: result.hidden_supervision for result in results},
            "boxes_learned_from": max(mark["num_boxes"] for mark in marks),
            "baselines": {
                result.name: dict(result.baselines) for result in results if result.baselines
            },
            "unavailable": dict(evaluated.unavailable),
            "curves": {
                result.name: {
                    name: [list(curve.thresholds), list(curve.values)]
                    for name, curve in result.curves.items()
                }
                for result in results
                if result.name == "max_box_acc"
            },
            "thresholds_from": evaluated.thresholds_from,
            "weights_from": evaluated.weights_from,
            "num_images": evaluated.num_images,
            "seconds_to_train": sum(mark["seconds"] for mark in marks),
            "seconds_to_measure": round(seconds, 2),
            "searched": searched,
            "num_parameters": sum(mark["num_parameters"] for mark in marks),
            "notes": list(dict.fromkeys(note for mark in marks for note in mark["notes"])),
            "training": {
                "method": self.training.method,
                "preset": self.training.preset,
                "choices": dict(self.training.choices),
                "crops_of_boxes": self.training.crops_of_boxes,
                **to_settings(self.training.settings),
            },
            "sides": [training.settings.image_size for training in self.trainings],
            "fusion": self.cell.fusion,
            "look": {**asdict(self.look), **asdict(self.places)},
            "search": dict(self.cell.search),
            "tuning": self.cell.tuning,
        }


def _searched(predictor: Predictor, samples: Sequence[Sample]) -> dict[str, float]:
    """Windows scored and crops read for the tags of an image, on average; empty without a search.

    Unlike seconds they are the same on every machine.
    """
    if not isinstance(predictor.heat, BeamHeat):
        return {}
    tagged = [sample for sample in samples if (sample.labels == PRESENT).any()][:IMAGES_TO_COUNT]
    sources = map(ImageSource.of, tagged)
    searches = [
        predictor.heat.search_image(view, np.flatnonzero(sample.labels == PRESENT).tolist())
        for view, sample in zip(
            see_images(sources, predictor.source, predictor.look), tagged, strict=True
        )
        if not isinstance(view, BrokenImage)
    ]
    if not searches:
        return {}
    return {
        "windows": float(np.mean([search.num_windows for search in searches])),
        "crops": float(np.mean([search.num_crops for search in searches])),
    }
