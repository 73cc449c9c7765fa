"""Stand-in data: drawn scenes with exact truth, written in Pascal VOC layout."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from weakloc.geometry import BoxLTRB, box_to_voc
from weakloc.structures import ABSENT, PRESENT, Sample, Truth, TruthBox

CLASSES = ("disc", "square", "triangle")


def draw_scene(random: np.random.Generator) -> tuple[Image.Image, list[tuple[int, BoxLTRB]]]:
    """One textured canvas with up to three shapes, and where they are."""
    width, height = (int(side) for side in random.integers(96, 160, size=2))
    noise = random.normal(120, 25, (height, width, 3)).clip(0, 255).astype(np.uint8)
    image, objects = Image.fromarray(noise), []
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(0, 4))):
        index, side = int(random.integers(3)), int(random.integers(20, 48))
        left, top = int(random.integers(width - side)), int(random.integers(height - side))
        color = tuple(int(value) for value in random.integers(0, 255, 3))
        right, bottom = left + side - 1, top + side - 1
        if index == 0:
            draw.ellipse((left, top, right, bottom), fill=color)
        elif index == 1:
            draw.rectangle((left, top, right, bottom), fill=color)
        else:
            draw.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=color)
        objects.append((index, (float(left), float(top), right + 1.0, bottom + 1.0)))
    return image, objects


def write_scenes(folder: Path, *, num_train: int, num_val: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", num_train), ("val", num_val)):
        names = [f"{split}_{index:05d}" for index in range(count)]
        for name in names:
            image, objects = draw_scene(random)
            image.save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
            (folder / "Annotations" / f"{name}.xml").write_text(_annotation(objects))
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names) + "\n")


def _annotation(objects: list[tuple[int, BoxLTRB]]) -> str:
    text = io.StringIO()
    text.write("<annotation>")
    for index, box in objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box_to_voc(box), strict=True)
        inner = "".join(f"<{name}>{value:g}</{name}>" for name, value in corners)
        text.write(f"<object><name>{CLASSES[index]}</name><bndbox>{inner}</bndbox></object>")
    text.write("</annotation>\n")
    return text.getvalue()


def scene_samples(*, count: int, seed: int) -> list[tuple[Image.Image, Sample]]:
    """Scenes kept in memory."""
    random, scenes = np.random.default_rng(seed), []
    for index in range(count):
        image, objects = draw_scene(random)
        labels = np.full(len(CLASSES), ABSENT, dtype=np.int8)
        labels[[class_index for class_index, _ in objects]] = PRESENT
        truth = Truth(boxes=tuple(TruthBox(class_index, box) for class_index, box in objects))
        scenes.append((image, Sample(f"{index:05d}.jpg", "", labels, truth)))
    return scenes
