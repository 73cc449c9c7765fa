"""Predictions that are hard on file formats: odd names, nested folders, masks with holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from weakloc.structures import Box, Disagreement, Mask, Point, Prediction

CLASS_NAMES = (
    "dog",
    "café crème",
    'say "hi" & <b>bye</b>',
    "a/b\\c: 100%",
    "日本犬 'x'",
    "=1+2; drop, table",
    "{{ 7*7 }} ]]> --",
)
IMAGES = ("plain.jpg", "cats/a b.jpg", "cats/deep er/naïve & <1>.png", "empty.webp", "100% #1?.jpg")


def encoded(mask: np.ndarray) -> dict[str, object]:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def blob(
    width: int, height: int, box: tuple[float, ...], random: np.random.Generator
) -> np.ndarray:
    """A ragged part of a box with a hole in it, and a second part outside of it."""
    mask = np.zeros((height, width), dtype=bool)
    left, top, right, bottom = (round(side) for side in box)
    mask[top:bottom, left:right] = random.random((bottom - top, right - left)) < 0.9
    mask[top, left] = mask[bottom - 1, right - 1] = True
    mask[top + 2 : top + 5, left + 2 : left + 6] = False
    return mask


def one_prediction(image: str, random: np.random.Generator, *, num_boxes: int) -> Prediction:
    width, height = int(random.integers(60, 140)), int(random.integers(40, 90))
    boxes, masks, points = [], [], []
    for number in range(num_boxes):
        name = CLASS_NAMES[int(random.integers(len(CLASS_NAMES)))]
        left, top = float(random.uniform(0, width - 25)), float(random.uniform(0, height - 20))
        right, bottom = left + float(random.uniform(12, 25)), top + float(random.uniform(10, 20))
        boxes.append(Box(name, (left, top, right, bottom), float(random.random())))
        points.append(Point(name, (left + right) / 2, (top + bottom) / 2, float(random.random())))
        if number % 2 == 0:
            mask = blob(width, height, boxes[-1].box, random)
            masks.append(Mask(name, encoded(mask), boxes[-1].score))
    return Prediction(
        image,
        width,
        height,
        {name: float(random.random()) for name in CLASS_NAMES},
        tuple(points),
        tuple(boxes),
        tuple(masks),
        doubt=float(random.random()),
        disagreements=(Disagreement("dog", "missing", 0.25),),
        extra={"tags": ["dog", CLASS_NAMES[2]]},
    )


@pytest.fixture
def predictions() -> list[Prediction]:
    random = np.random.default_rng(5)
    return [
        one_prediction(image, random, num_boxes=0 if image.startswith("empty") else 4)
        for image in IMAGES
    ]


@pytest.fixture
def image_root(tmp_path: Path, predictions: list[Prediction]) -> Path:
    """The pictures that the predictions speak of."""
    root = tmp_path / "the images"
    for prediction in predictions:
        path = root / prediction.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (prediction.width, prediction.height), (90, 120, 60)).save(path)
    return root
