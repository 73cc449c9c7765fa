"""What each command is given, where it writes, and how it is gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TINY = ("--backbone", "tiny[width=4]", "--image-size", "64")
MACHINE = ("--workers", "0", "--devices", "1", "--precision", "fp32")
SEEN = ("--workers", "0", "--precision", "fp32", "--batch-size", "2")
SCENES = ("scenes", "data", "--train", "16", "--val", "8")


@dataclass(frozen=True)
class Command:
    """One command, with the folder that it writes; `before` are those that it needs.

    All run in one folder, in which `data` and `run` lie. `to_go_on` is added to the same command
    after an interruption.
    """

    arguments: tuple[str, ...]
    out: str
    before: tuple[tuple[str, ...], ...] = ()
    to_go_on: tuple[str, ...] = ()


DATA = (SCENES,)
RUN = (*DATA, ("train", "data", "--out", "run", "--epochs", "1", "--no-refine", *TINY, *MACHINE))
RESUME = ("--resume",)

COMMANDS: Mapping[str, Command] = {
    "scenes": Command((*SCENES[:1], "made", *SCENES[2:]), "made"),
    "train": Command(
        ("train", "data", "--out", "out", "--epochs", "3", *TINY, *MACHINE), "out", DATA, RESUME
    ),
    "frozen": Command(
        ("train", "data", "--out", "out", "--epochs", "3", "--frozen", *TINY, *MACHINE),
        "out",
        DATA,
        RESUME,
    ),
    "refine": Command(("refine", "run", "data", "--rounds", "1", "--epochs", "2"), "run", RUN),
    "distil": Command(
        ("distil", "run", "data", "--out", "out", "--boxes", "6", "--folds", "0", "--epochs", "2"),
        "out",
        (*RUN, ("refine", "run", "data", "--rounds", "1", "--epochs", "1")),
    ),
    "calibrate": Command(("calibrate", "run", "data", "--boxes", "5", *SEEN), "run", RUN),
    "predict": Command(
        ("predict", "run", "data", "--out", "out", "--format", "coco", "--draw", "2", *SEEN),
        "out",
        RUN,
        RESUME,
    ),
    "shared": Command(
        ("predict", "run", "data", "--out", "out", "--devices", "2", *SEEN), "out", RUN, RESUME
    ),
    "export": Command(
        ("export", "predictions", "--out", "out", "--format", "coco", "--format", "voc"),
        "out",
        (*RUN, ("predict", "run", "data", "--out", "predictions", *SEEN)),
    ),
    "label": Command(
        ("label", "photos", "--out", "out", "--weights", "none", "--epochs", "1", *TINY), "out"
    ),
}


def draw_photos(folder: Path) -> None:
    """Two classes of eight photographs in folders, for `label`."""
    import numpy as np
    from PIL import Image, ImageDraw

    for number in range(16):
        random = np.random.default_rng(number)
        picture = Image.fromarray(random.integers(60, 90, (48, 64, 3), dtype=np.uint8))
        left, top = random.integers(4, 30), random.integers(4, 16)
        shape = ("ellipse", "rectangle")[number % 2]
        corners = (left, top, left + 26, top + 22)
        getattr(ImageDraw.Draw(picture), shape)(corners, fill=(230, 40, 30))
        path = folder / shape / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
