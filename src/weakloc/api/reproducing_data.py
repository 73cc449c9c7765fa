"""The data of a reproduction, drawn or given, as it is learned from and as it is measured."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from weakloc.api.data_sets import scenes
from weakloc.config import TrainSettings
from weakloc.data.images import open_image
from weakloc.errors import DataError, ImageError, did_you_mean
from weakloc.files import write_whole
from weakloc.recipes.recipe import DataKind
from weakloc.structures import ABSENT, PRESENT, DataSet, Sample, Truth

SEED = 0
MOST_WATCHED = 200  # images while training; all of them are measured at the end
SMALLEST_SIDE = 16  # pixels; smaller boxes show nothing


def drawn_scenes(
    folder: Path, kind: DataKind, num_train: int, num_val: int, say: Callable[[str], None]
) -> Path:
    """A folder of scenes, drawn unless it is there already."""
    place = folder / f"scenes-{kind}-{num_train}-{num_val}"
    if not place.is_dir():
        say(f"Drawing {num_train} training and {num_val} validation scenes")
        unfinished = place.with_name(place.name + ".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        scenes(unfinished, kind=kind, num_train=num_train, num_val=num_val, seed=SEED)
        unfinished.rename(place)
    return place


def digest_of_data(data_set: DataSet) -> str:
    """Stands for the images by name, with their tags, split by split."""
    digest = hashlib.sha256(repr(data_set.class_names).encode())
    for split, samples in data_set.splits.items():
        digest.update(split.encode())
        for sample in samples:
            digest.update(sample.name.encode("utf-8", "surrogateescape") + sample.labels.tobytes())
    return digest.hexdigest()[:16]


def check_split(data_set: DataSet, split: str, flag: str) -> None:
    if not data_set.splits.get(split):
        raise DataError(
            f"there is no image in split {split!r}",
            where=str(data_set.root),
            remedy=f"{did_you_mean(split, data_set.splits)} Name it with {flag}",
        )


def learning_set(
    data_set: DataSet, settings: TrainSettings, crops: Path | None
) -> tuple[DataSet, int]:
    """What is learned from, and the number of drawn boxes in it: none without `crops`.

    Where watching decides nothing, part of the watched split is enough to see how training goes.
    """
    splits = dict(data_set.splits)
    if settings.select == "last" and settings.patience is None:
        watched = splits[settings.val_split]
        splits[settings.val_split] = watched[:: -(-len(watched) // MOST_WATCHED)]
    if crops is None:
        return replace(data_set, splits=splits), 0
    added = _crops_of_boxes(splits[settings.train_split], crops)
    splits[settings.train_split] = [*splits[settings.train_split], *added]
    return replace(data_set, splits=splits), len(added)


def measured_set(data_set: DataSet, split: str, *, with_masks: bool) -> DataSet:
    """The measured split alone; without masks where no wanted metric looks at them."""
    samples = data_set.splits[split]
    if not with_masks:
        samples = [_without_masks(sample) for sample in samples]
    return replace(data_set, splits={split: samples})


def _without_masks(sample: Sample) -> Sample:
    return replace(sample, truth=sample.truth and Truth(boxes=sample.truth.boxes))


def _crops_of_boxes(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """One image for every drawn box, tagged with its class alone (Oquab et al., "strong")."""
    added = []
    for number, sample in enumerate(samples):
        drawn = sample.truth.boxes if sample.truth is not None else ()
        for place, box in enumerate(each for each in drawn if not each.difficult):
            path = folder / f"{number}-{place}.png"
            if not path.is_file() and not _write_crop(sample, box.box, path):
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
    try:
        picture = open_image(sample.path)
    except ImageError:
        return False
    with write_whole(path) as unfinished:
        picture.crop((left, top, right, bottom)).save(unfinished)
    return True
