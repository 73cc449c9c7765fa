"""Scenes -> a folder in Pascal VOC layout: pictures, boxes, masks, class lists and tags.

JPEGImages/train_00000.jpg            Annotations/train_00000.xml
SegmentationClass/train_00000.png     SegmentationObject/train_00000.png
ImageSets/Main/train.txt              ImageSets/Main/<class>_train.txt   (1 or -1)
ImageSets/Segmentation/train.txt      labelmap.txt     tags.csv
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weakloc.data.palette import label_map_text, voc_palette
from weakloc.data.scenes.canvas import Scene
from weakloc.files import file_name_of, open_whole, write_whole
from weakloc.geometry import box_to_voc

JPEG_QUALITY = 92
FOLDERS = (
    "JPEGImages",
    "Annotations",
    "SegmentationClass",
    "SegmentationObject",
    "ImageSets/Main",
    "ImageSets/Segmentation",
)


def make_folders(folder: Path) -> None:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)


def write_scene(folder: Path, name: str, scene: Scene, *, class_names: Sequence[str]) -> None:
    """The four files of one scene."""
    _write_picture(folder / "JPEGImages" / f"{name}.jpg", Image.fromarray(scene.pixels))
    values = np.zeros(len(scene.objects) + 1, dtype=np.uint8)
    values[1:] = [thing.class_index + 1 for thing in scene.objects]
    _write_indices(folder / "SegmentationClass" / f"{name}.png", values[scene.instances])
    _write_indices(folder / "SegmentationObject" / f"{name}.png", scene.instances)
    with open_whole(folder / "Annotations" / f"{name}.xml") as stream:
        stream.write(annotation(name, scene, class_names=class_names))


def _write_picture(path: Path, picture: Image.Image) -> None:
    with write_whole(path) as temporary:
        picture.save(temporary, quality=JPEG_QUALITY)


def _write_indices(path: Path, values: NDArray[np.uint8]) -> None:
    picture = Image.fromarray(values)
    picture.putpalette(voc_palette())
    with write_whole(path) as temporary:
        picture.save(temporary, compress_level=1)


def annotation(name: str, scene: Scene, *, class_names: Sequence[str]) -> str:
    """The XML of one scene; boxes 1-based, right and bottom pixels counted in."""
    height, width = scene.instances.shape
    lines = [
        "<annotation>",
        f"  <filename>{name}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>1</segmented>",
    ]
    for thing in scene.objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box_to_voc(thing.box), strict=True)
        bounds = "".join(f"<{corner}>{value:.0f}</{corner}>" for corner, value in corners)
        lines += [
            "  <object>",
            f"    <name>{escape(class_names[thing.class_index])}</name>",
            f"    <truncated>{thing.truncated:d}</truncated>",
            f"    <occluded>{thing.occluded:d}</occluded>",
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
            _write_text(folder / "ImageSets" / task / f"{split}.txt", listing)
        for index, class_name in enumerate(class_names):
            marks = "".join(f"{name} {1 if index in names[name] else -1:2d}\n" for name in names)
            _write_text(
                folder / "ImageSets/Main" / f"{file_name_of(class_name)}_{split}.txt", marks
            )
    _write_text(folder / "labelmap.txt", label_map_text(class_names))
    with open_whole(folder / "tags.csv") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("path", "labels", "split"))
        for split, names in tags.items():
            for name, present in names.items():
                labels = ";".join(class_names[index] for index in sorted(present))
                table.writerow((f"JPEGImages/{name}.jpg", labels, split))


def _write_text(path: Path, text: str) -> None:
    with open_whole(path) as stream:
        stream.write(text)
