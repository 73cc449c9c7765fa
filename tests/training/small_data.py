"""A data set and a network so small that a training takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from weakloc.methods.method import Optimisation
from weakloc.methods.wildcat import Wildcat
from weakloc.settings import TrainSettings
from weakloc.structures import ABSENT, PRESENT, DataSet, Sample, Truth, TruthBox

CLASSES = ("red", "green")
WIDTH, HEIGHT = 36, 28  # neither square nor a multiple of the stride
SIDE = 32


def make_data_set(folder: Path, *, num_train: int = 22, num_val: int = 9) -> DataSet:
    """Noise with a red square, a green one, both or none; where they are is known."""
    random = np.random.default_rng(7)
    splits = {
        split: [make_sample(folder, f"{split}{index}.png", random) for index in range(count)]
        for split, count in (("train", num_train), ("val", num_val))
    }
    return DataSet(folder, "folders", CLASSES, splits)


def make_sample(folder: Path, name: str, random: np.random.Generator) -> Sample:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = random.integers(0, 80, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    labels = np.full(2, ABSENT, dtype=np.int8)
    boxes = []
    for class_index in np.flatnonzero(random.random(2) < 0.5).tolist():
        left, top = int(random.integers(WIDTH - 12)), int(random.integers(HEIGHT - 12))
        pixels[top : top + 12, left : left + 12, class_index] = 240
        labels[class_index] = PRESENT
        boxes.append(TruthBox(class_index, (left, top, left + 12.0, top + 12.0)))
    Image.fromarray(pixels).save(folder / name)
    return Sample(name, str(folder / name), labels, Truth(tuple(boxes)))


def settings(**changes: object) -> TrainSettings:
    given: dict[str, object] = {
        "backbone": "tiny[width=4]",
        "image_size": SIDE,
        "epochs": 3,
        "batch_size": 4,
        "precision": "fp32",
        "devices": 1,
        "workers": 0,
    }
    return TrainSettings(**{**given, **changes})  # type: ignore[arg-type]


def method(**changes: object) -> Wildcat:
    optimisation = Optimisation(
        kind="sgd", learning_rate=0.05, schedule="cosine", weight_decay=1e-4, epochs=3, batch_size=4
    )
    given: dict[str, object] = {"optimisation": optimisation, "maps_per_class": 2}
    return Wildcat(**{**given, **changes})  # type: ignore[arg-type]
