"""Each literal preset from a folder of Pascal VOC to the number that is printed.

What a network answers is taken as it is; its ranking, the place that counts and the definition of
the number are worked out again from the papers' and the development kit's texts.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.small_data import settings
from weakloc.api.runs import TrainedRun
from weakloc.api.training import train
from weakloc.cli import run as weakloc
from weakloc.methods import METHODS
from weakloc.settings import Look, Places
from weakloc.structures import Prediction

CLASSES = ("green", "red")
WIDTH, HEIGHT, SIDE = 45, 34, 14
NUM_TRAIN, NUM_VAL = 10, 8
Corners = tuple[int, int, int, int]  # as VOC writes them: from 1, the last pixel included


def write_voc(folder: Path) -> dict[str, tuple[str, Corners]]:
    """Images of one square each; the class and the corners of those of val."""
    random = np.random.default_rng(3)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    truth: dict[str, tuple[str, Corners]] = {}
    for number in range(NUM_TRAIN + NUM_VAL):
        class_name = CLASSES[number % 2]
        left = int(random.integers(WIDTH - SIDE))
        top = int(random.integers(HEIGHT - SIDE))
        pixels = random.integers(0, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        channel = {"red": 0, "green": 1}[class_name]
        pixels[top : top + SIDE, left : left + SIDE, channel] = 240
        Image.fromarray(pixels).save(folder / f"JPEGImages/{number:02}.jpg", quality=95)
        corners = left + 1, top + 1, left + SIDE, top + SIDE
        named = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        sides = "".join(f"<{name}>{value}</{name}>" for name, value in named)
        (folder / f"Annotations/{number:02}.xml").write_text(
            f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            f"<object><name>{class_name}</name><bndbox>{sides}</bndbox></object></annotation>"
        )
        if number >= NUM_TRAIN:
            truth[f"{number:02}"] = class_name, corners
    numbers = [f"{number:02}" for number in range(NUM_TRAIN + NUM_VAL)]
    for split, listed in (("train", numbers[:NUM_TRAIN]), ("val", numbers[NUM_TRAIN:])):
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(listed))
    return truth


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "VOC2012"


@pytest.fixture(scope="module")
def truth(folder: Path) -> dict[str, tuple[str, Corners]]:
    return write_voc(folder)


def precision_envelope(is_hit: list[bool], num_positives: int) -> float:
    """Pascal VOC from 2010 on: precision, made to fall, over recall."""
    precisions = [sum(is_hit[:end]) / end for end in range(1, len(is_hit) + 1)]
    return sum(max(precisions[rank:]) / num_positives for rank, hit in enumerate(is_hit) if hit)


def precision_at_hits(is_hit: list[bool], num_positives: int) -> float:
    """WILDCAT's released code: the mean of the precision at every positive."""
    precisions = [sum(is_hit[:end]) / end for end in range(1, len(is_hit) + 1)]
    return sum(value for value, hit in zip(precisions, is_hit, strict=True) if hit) / num_positives


def overlap(box: tuple[float, ...], corners: Corners) -> float:
    """The development kit's: corners from 1, both ends counted, a pixel added to each side."""
    own = box[0] + 1, box[1] + 1, box[2], box[3]
    width = min(own[2], corners[2]) - max(own[0], corners[0]) + 1
    height = min(own[3], corners[3]) - max(own[1], corners[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in (own, corners)]
    return width * height / (sum(areas) - width * height)


Truths = dict[str, tuple[str, Corners]]


def expected_numbers(
    name: str, predictions: dict[str, Prediction], truth: Truths
) -> dict[str, float]:
    definition = precision_at_hits if name == "wildcat" else precision_envelope
    suffix = "_nonint" if name == "wildcat" else ""
    tags, points, boxes = [], [], []
    for class_name in CLASSES:
        ranked = sorted(predictions, key=lambda image: -predictions[image].scores[class_name])
        positives = [image for image in ranked if truth[image][0] == class_name]
        tags.append(definition([image in positives for image in ranked], len(positives)))
        is_hit = []
        for image in ranked:
            (point,) = [p for p in predictions[image].points if p.class_name == class_name]
            left, top, right, bottom = truth[image][1]
            inside = left - 1 <= point.x < right and top - 1 <= point.y < bottom
            is_hit.append(image in positives and inside)
        points.append(definition(is_hit, len(positives)))
        detections = sorted(
            (-box.score, image, box.box)
            for image in predictions
            for box in predictions[image].boxes
            if box.class_name == class_name
        )
        taken: set[str] = set()
        is_hit = []
        for _, image, box in detections:
            hits = image in positives and overlap(tuple(box), truth[image][1]) >= 0.5
            is_hit.append(hits and image not in taken)
            taken |= {image} if hits else set()
        boxes.append(definition(is_hit, len(positives)))
    numbers = {"classification_map": tags, "point_map": points, "box_map_50": boxes}
    return {number + suffix: float(np.mean(values)) for number, values in numbers.items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_literal_run_is_printed_the_number_of_its_paper(
    name: str,
    folder: Path,
    truth: Truths,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run: TrainedRun = train(
        str(folder),
        method=name,
        preset="literal",
        out=tmp_path / "run",
        settings=settings(epochs=2),
    )
    assert (
        weakloc(
            [
                "evaluate",
                str(tmp_path / "run"),
                str(folder),
                "--resamples",
                "0",
                "--workers",
                "0",
                "--map-side",
                "45",
                "--json",
            ]
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    values = {metric["name"]: metric["value"] for metric in printed["metrics"]}
    paths = [folder / f"JPEGImages/{image}.jpg" for image in truth]
    answers = run.predict(paths, look=Look(workers=0, map_side=45), places=Places(top=2))
    predictions = {}
    for image, answer in zip(truth, answers, strict=True):
        assert isinstance(answer, Prediction)
        predictions[image] = answer
    for number, value in expected_numbers(name, predictions, truth).items():
        assert values[number] == pytest.approx(value, abs=1e-9), number
    if name == "cam":
        hits, first = [], []
        for image, (class_name, corners) in truth.items():
            likeliest = max(CLASSES, key=lambda other: predictions[image].scores[other])
            (box,) = [b for b in predictions[image].boxes if b.class_name == class_name]
            hits.append(overlap(tuple(box.box), corners) >= 0.5)
            first.append(hits[-1] and likeliest == class_name)
        assert values["gt_known_loc"] == pytest.approx(np.mean(hits))
        assert values["top_1_loc"] == pytest.approx(np.mean(first))
