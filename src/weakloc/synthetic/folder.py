"""Scenes on demand: kind, split, number and seed -> one scene, and whole folders of them.

A scene depends on the seed, its split and its number alone, so the same seed gives the same
bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from weakloc.data.readers.voc import label_map_text, write_label_image
from weakloc.errors import DataError, SettingError, did_you_mean
from weakloc.files import (
    UNFINISHED,
    file_name_of,
    only_writer,
    open_whole,
    require_own,
    write_text,
    write_whole,
)
from weakloc.geometry import box_to_voc
from weakloc.structures import DataSet
from weakloc.synthetic.canvas import Scene
from weakloc.synthetic.scenery import (
    CLUTTER_CLASSES,
    SINGLE_CLASSES,
    Difficulty,
    crops_by_split,
    draw_clutter,
    draw_crops,
    draw_large,
    draw_single,
)
from weakloc.work import Progress, silent

JPEG_QUALITY = 92


def annotation(name: str, scene: Scene, *, class_names: Sequence[str]) -> str:
    """The XML of one scene; boxes 1-based, right and bottom pixels counted in."""
    height, width = scene.instances.shape
    lines = [
        "<annotation>",
        f"  <filename>{name}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>1</segmented>",
    ]
    for drawn in scene.objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box_to_voc(drawn.box), strict=True)
        bounds = "".join(f"<{corner}>{value:.0f}</{corner}>" for corner, value in corners)
        lines += [
            "  <object>",
            f"    <name>{escape(class_names[drawn.class_index])}</name>",
            f"    <truncated>{drawn.truncated:d}</truncated>",
            f"    <occluded>{drawn.occluded:d}</occluded>",
            "    <difficult>0</difficult>",
            f"    <bndbox>{bounds}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>"]) + "\n"


def write_lists(
    folder: Path, tags: Mapping[str, Mapping[str, frozenset[int]]], *, class_names: Sequence[str]
) -> None:
    """The lists over all scenes; `tags` is split -> name -> indices of the classes present."""
    for split, names in tags.items():
        listing = "".join(f"{name}\n" for name in names)
        for task in ("Main", "Segmentation"):
            write_text(folder / "ImageSets" / task / f"{split}.txt", listing)
        for index, class_name in enumerate(class_names):
            marks = "".join(f"{name} {1 if index in names[name] else -1:2d}\n" for name in names)
            write_text(folder / "ImageSets/Main" / f"{file_name_of(class_name)}_{split}.txt", marks)
    write_text(folder / "labelmap.txt", label_map_text(class_names))
    with open_whole(folder / "tags.csv") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("path", "labels", "split"))
        for split, names in tags.items():
            for name, present in names.items():
                labels = ";".join(class_names[index] for index in sorted(present))
                table.writerow((f"JPEGImages/{name}.jpg", labels, split))


Kind: TypeAlias = Literal["clutter", "large", "single"]
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Artist:
    """Draws scenes of some classes, given a generator and the split."""

    class_names: tuple[str, ...]
    draw: Callable[[np.random.Generator, str], Scene]


ARTISTS: Mapping[tuple[str, str], Artist] = {
    ("clutter", "normal"): Artist(
        CLUTTER_CLASSES, lambda random, _: draw_clutter(random, difficulty="normal")
    ),
    ("clutter", "hard"): Artist(
        CLUTTER_CLASSES, lambda random, _: draw_clutter(random, difficulty="hard")
    ),
    ("large", "normal"): Artist(CLUTTER_CLASSES, lambda random, _: draw_large(random)),
    ("single", "normal"): Artist(SINGLE_CLASSES, lambda random, _: draw_single(random)),
}


def artist_of(kind: Kind, difficulty: Difficulty) -> Artist:
    if (kind, difficulty) not in ARTISTS:
        met, known = f"{kind} {difficulty}", [" ".join(key) for key in ARTISTS]
        raise SettingError(f"there are no scenes {met!r}", remedy=did_you_mean(met, known))
    return ARTISTS[kind, difficulty]


def artist_from(data_set: DataSet) -> Artist:
    """Draws with the objects of a real data set."""
    crops = crops_by_split(data_set)
    return Artist(data_set.class_names, lambda random, split: draw_crops(random, crops[split]))


def draw_scene(artist: Artist, *, split: str, index: int, seed: int) -> Scene:
    if seed < 0:
        raise SettingError(f"the seed is {seed}", remedy="Give a whole number from 0 on")
    return artist.draw(np.random.default_rng([seed, SPLITS.index(split), index]), split)


def write_scenes(
    folder: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int,
    artist: Artist,
    on_progress: Progress = silent,
) -> None:
    """Fills an empty folder with scenes in Pascal VOC layout, or one in which this was stopped.

    Until the end a mark in it says that it is not a whole data set.
    """
    require_own(folder, ("*",), marks=(UNFINISHED,))
    mark = folder / UNFINISHED
    files = f"weakloc scenes: {num_train} + {num_val} of {', '.join(artist.class_names)}\n"
    with only_writer(folder):
        if mark.is_file() and mark.read_text("utf-8") != files:  # some would stay
            reason = f"was begun with other scenes ({mark.read_text('utf-8').strip()})"
            raise DataError(reason, location=str(folder), remedy="Name a new folder")
        write_text(mark, files)
        tags: dict[str, dict[str, frozenset[int]]] = {split: {} for split in SPLITS}
        numbers = [("train", n) for n in range(num_train)] + [("val", n) for n in range(num_val)]
        for done, (split, index) in enumerate(numbers, start=1):
            name = f"{split}_{index:05d}"
            scene = draw_scene(artist, split=split, index=index, seed=seed)
            _write_scene(folder, name, scene, class_names=artist.class_names)
            tags[split][name] = frozenset(drawn.class_index for drawn in scene.objects)
            on_progress(done, len(numbers))
        write_lists(folder, tags, class_names=artist.class_names)
        mark.unlink()


def _write_scene(folder: Path, name: str, scene: Scene, *, class_names: Sequence[str]) -> None:
    with write_whole(folder / "JPEGImages" / f"{name}.jpg") as temporary:
        Image.fromarray(scene.pixels).save(temporary, quality=JPEG_QUALITY)
    values = np.zeros(len(scene.objects) + 1, dtype=np.uint8)
    values[1:] = [drawn.class_index + 1 for drawn in scene.objects]
    painted = {
        "SegmentationClass": values[scene.instances],
        "SegmentationObject": scene.instances,
    }
    for kind, pixels in painted.items():
        write_label_image(folder / kind / f"{name}.png", pixels, compress_level=1)
    text = annotation(name, scene, class_names=class_names)
    write_text(folder / "Annotations" / f"{name}.xml", text)
