"""Literal presets from files to printed numbers, by the commands that users type; small data."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from weakloc.cli import run as weakloc

# What makes a literal preset small enough for a test, and leaves alone all that follows the maps.
SMALL = (
    "--backbone=tiny[width=4]",
    "--batch-size=4",
    "--workers=0",
    "--devices=1",
    "--precision=fp32",
)


def command(*words: object) -> Any:
    """The JSON that a command prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert weakloc([*map(str, words), "--json"]) == 0
    return json.loads(printed.getvalue())


def train_literally(data: Path, out: Path, method: str, *flags: str) -> Path:
    command("train", data, "--method", method, "--preset", "literal", "--out", out, *flags)
    return out


def numbers_of(run: Path, data: Path, *flags: str) -> dict[str, float]:
    """What `weakloc evaluate` prints, by name."""
    printed = command("evaluate", run, data, "--resamples", 0, *flags)
    return {metric["name"]: metric["value"] for metric in printed["metrics"]}


# What is drawn: class, box (left, top, right, bottom; exclusive) and whether it is difficult.
Drawn = tuple[str, tuple[int, int, int, int], bool]
COLORS = {"bird": (230, 40, 40), "boat": (40, 220, 50), "train": (50, 60, 240)}
SIZE = (60, 44)


def draw_scene(random: np.random.Generator, num_objects: int, difficult: float) -> list[Drawn]:
    drawn: list[Drawn] = []
    for name in random.choice([*COLORS], num_objects).tolist():
        width, height = random.integers(12, 27, 2).tolist()
        left = int(random.integers(SIZE[0] - width + 1))
        top = int(random.integers(SIZE[1] - height + 1))
        is_difficult = bool(random.random() < difficult)
        drawn.append((name, (left, top, left + width, top + height), is_difficult))
    return drawn


def paint(drawn: Sequence[Drawn], random: np.random.Generator, path: Path) -> None:
    pixels = random.integers(90, 130, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    for name, (left, top, right, bottom), _ in drawn:
        pixels[top:bottom, left:right] = COLORS[name]
    Image.fromarray(pixels).save(path, quality=95)


def write_voc(
    root: Path, *, images: dict[str, int], most_objects: int = 3, difficult: float = 0.2
) -> dict[str, list[Drawn]]:
    """A folder as VOC's: how many images each split has; what is drawn, by image id.

    `difficult` is the share of such objects.
    """
    random = np.random.default_rng(3)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    by_id: dict[str, list[Drawn]] = {}
    for split, count in images.items():
        ids = [f"{split}_{number:03}" for number in range(count)]
        for number, image_id in enumerate(ids):
            drawn = draw_scene(random, 1 + number % most_objects, difficult)
            paint(drawn, random, root / "JPEGImages" / f"{image_id}.jpg")
            (root / "Annotations" / f"{image_id}.xml").write_text(_xml(image_id, drawn))
            by_id[image_id] = drawn
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
    return by_id


def _xml(image_id: str, drawn: Sequence[Drawn]) -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult:d}</difficult><bndbox>"
        f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        "</bndbox></object>"
        for name, (left, top, right, bottom), difficult in drawn
    )
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{image_id}.jpg</filename>{size}{objects}</annotation>"


def write_tiny_imagenet(root: Path, *, num_train: int, num_val: int) -> None:
    """`num_train` images of 64 x 64 a class in train, `num_val` in val, one box in each."""
    random = np.random.default_rng(4)
    (root / "val/images").mkdir(parents=True)
    lines = []
    for number, color in enumerate(COLORS.values()):
        class_id = f"n0000000{number}"
        (root / "train" / class_id / "images").mkdir(parents=True)
        boxes = []
        for index in range(num_train + num_val):
            left, top = random.integers(0, 34, 2).tolist()
            right, bottom = random.integers(20, 30, 2).tolist()
            right, bottom = left + right, top + bottom
            pixels = random.integers(90, 130, (64, 64, 3)).astype(np.uint8)
            pixels[top : bottom + 1, left : right + 1] = color  # corners are inclusive
            corners = f"{left}\t{top}\t{right}\t{bottom}"
            folder, name = f"train/{class_id}", f"{class_id}_{index}.JPEG"
            if index < num_train:
                boxes.append(f"{name}\t{corners}")
            else:
                folder = "val"
                lines.append(f"{name}\t{class_id}\t{corners}")
            Image.fromarray(pixels).save(root / folder / "images" / name, quality=95)
        (root / "train" / class_id / f"{class_id}_boxes.txt").write_text("\n".join(boxes) + "\n")
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("".join(f"n0000000{n}\n" for n in range(len(COLORS))))
