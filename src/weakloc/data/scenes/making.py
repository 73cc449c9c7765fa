"""Scenes on demand: kind, split, number and seed -> one scene, and whole folders of them.

A scene depends on the seed, its split and its number alone, so the same seed gives the same
bytes for any number of processes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
from PIL import Image

from weakloc.data.scenes.canvas import Scene
from weakloc.data.scenes.clutter import CLUTTER_CLASSES, Difficulty, draw_clutter
from weakloc.data.scenes.crops import CropsByClass, crops_by_split, draw_crops
from weakloc.data.scenes.single import SINGLE_CLASSES, draw_single
from weakloc.data.scenes.voc_folder import make_folders, write_lists, write_scene
from weakloc.errors import DataError, SettingError, did_you_mean
from weakloc.structures import ABSENT, PRESENT, DataSet, Sample, Truth, TruthBox

Kind: TypeAlias = Literal["clutter", "single"]
SPLITS = ("train", "val")
BATCH = 25  # scenes that a worker process draws at a time


class Artist(Protocol):
    """Anything that can draw scenes of some classes."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def draw(self, random: np.random.Generator, *, split: str) -> Scene: ...


@dataclass(frozen=True)
class ClutterArtist:
    difficulty: Difficulty
    class_names: tuple[str, ...] = CLUTTER_CLASSES

    def draw(self, random: np.random.Generator, *, split: str) -> Scene:  # noqa: ARG002 (Artist)
        return draw_clutter(random, difficulty=self.difficulty)


@dataclass(frozen=True)
class SingleArtist:
    class_names: tuple[str, ...] = SINGLE_CLASSES

    def draw(self, random: np.random.Generator, *, split: str) -> Scene:  # noqa: ARG002 (Artist)
        return draw_single(random)


@dataclass(frozen=True)
class CropsArtist:
    class_names: tuple[str, ...]
    crops: dict[str, CropsByClass]

    def draw(self, random: np.random.Generator, *, split: str) -> Scene:
        return draw_crops(random, self.crops[split])


def artist_of(kind: Kind, difficulty: Difficulty) -> Artist:
    artists: dict[tuple[str, str], Artist] = {
        ("clutter", "normal"): ClutterArtist("normal"),
        ("clutter", "hard"): ClutterArtist("hard"),
        ("single", "normal"): SingleArtist(),
    }
    if (kind, difficulty) not in artists:
        met, known = f"{kind} {difficulty}", [" ".join(key) for key in artists]
        raise SettingError(f"there are no scenes {met!r}", remedy=did_you_mean(met, known))
    return artists[kind, difficulty]


def artist_from(data_set: DataSet) -> Artist:
    """Draws with the objects of a real data set."""
    return CropsArtist(data_set.class_names, crops_by_split(data_set))


def draw_scene(artist: Artist, *, split: str, index: int, seed: int) -> Scene:
    if seed < 0:
        raise SettingError(f"the seed is {seed}", remedy="Give a whole number from 0 on")
    return artist.draw(np.random.default_rng([seed, SPLITS.index(split), index]), split=split)


def scene_samples(
    *, count: int, seed: int, split: str = "train", artist: Artist | None = None
) -> list[tuple[Image.Image, Sample]]:
    """Scenes kept in memory; by default cluttered ones of normal difficulty."""
    samples = []
    chosen = artist or artist_of("clutter", "normal")
    for index in range(count):
        scene = draw_scene(chosen, split=split, index=index, seed=seed)
        labels = np.full(len(chosen.class_names), ABSENT, dtype=np.int8)
        labels[[thing.class_index for thing in scene.objects]] = PRESENT
        boxes = tuple(TruthBox(thing.class_index, thing.box) for thing in scene.objects)
        name = f"{split}_{index:05d}.jpg"
        samples.append((Image.fromarray(scene.pixels), Sample(name, "", labels, Truth(boxes))))
    return samples


def _no_report(num_written: int) -> None:
    """Nobody listens."""


def write_scenes(
    folder: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int,
    artist: Artist,
    num_workers: int = 1,
    report: Callable[[int], None] = _no_report,
) -> None:
    """Fills an empty folder with scenes in Pascal VOC layout.

    More than one worker are spawned processes: a script that asks for them needs the usual
    `if __name__ == "__main__":`. `report` is told how many scenes are written so far.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            "is there already and not empty", where=str(folder), remedy="Name a new folder"
        )
    batches = [
        _Batch(folder, artist, split, range(start, min(start + BATCH, count)), seed)
        for split, count in zip(SPLITS, (num_train, num_val), strict=True)
        for start in range(0, count, BATCH)
    ]
    make_folders(folder)
    tags: dict[str, dict[str, frozenset[int]]] = {split: {} for split in SPLITS}
    num_written = 0
    for batch, present in zip(batches, _written(batches, num_workers), strict=True):
        tags[batch.split].update(zip(batch.names(), present, strict=True))
        num_written += len(present)
        report(num_written)
    write_lists(folder, tags, class_names=artist.class_names)


@dataclass(frozen=True)
class _Batch:
    """What one worker writes at a time."""

    folder: Path
    artist: Artist
    split: str
    indices: range
    seed: int

    def names(self) -> list[str]:
        return [f"{self.split}_{index:05d}" for index in self.indices]

    def write(self) -> list[frozenset[int]]:
        """Writes the scenes; the classes present in each."""
        present = []
        for index, name in zip(self.indices, self.names(), strict=True):
            scene = draw_scene(self.artist, split=self.split, index=index, seed=self.seed)
            write_scene(self.folder, name, scene, class_names=self.artist.class_names)
            present.append(frozenset(thing.class_index for thing in scene.objects))
        return present


def _written(batches: list[_Batch], num_workers: int) -> Iterator[list[frozenset[int]]]:
    if num_workers < 2 or len(batches) < 2:
        yield from map(_Batch.write, batches)
        return
    context = multiprocessing.get_context("spawn")  # safe beside the threads of torch
    with ProcessPoolExecutor(min(num_workers, len(batches)), mp_context=context) as pool:
        yield from pool.map(_Batch.write, batches)
