"""Cluttered scenes whose objects are cut out of a real data set.

An object is cut along its mask where one is known, else along its box. Objects of the training
scenes come from the training split alone; where the data has one split, every fifth object is
kept for validation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from weakloc.data.images import open_image
from weakloc.data.scenes.canvas import Canvas, Layer, Scene
from weakloc.data.scenes.clutter import (
    break_out,
    object_extent,
    place_object,
    plan_classes,
    splinter,
    strew,
)
from weakloc.data.scenes.outlines import Pose, cover
from weakloc.data.scenes.surfaces import background, uniform
from weakloc.errors import DataError
from weakloc.geometry import BoxLTRB, box_from_xywh, clip_box
from weakloc.run_lengths import decode_mask
from weakloc.structures import DataSet, Sample

MIN_SIDE = 8.0  # pixels; what is smaller shows nothing once enlarged
MAX_TURN = math.radians(20)
CANVAS_SIDES = (160, 320)


@dataclass(frozen=True, slots=True)
class Crop:
    """One object of the data set that can be cut out."""

    path: str
    class_index: int
    box: BoxLTRB
    rle: Mapping[str, Any] | None


CropsByClass: TypeAlias = Mapping[int, tuple[Crop, ...]]


def crops_by_split(data_set: DataSet) -> dict[str, CropsByClass]:
    """The objects for "train" and for "val"."""
    train_split = "train" if "train" in data_set.splits else next(iter(data_set.splits), "")
    train = tuple(_crops_of(data_set.splits.get(train_split, ())))
    others = [name for name in ("val", "test") if name in data_set.splits and name != train_split]
    val = tuple(_crops_of(data_set.splits[others[0]])) if others else ()
    if not val:
        val, train = train[::5], tuple(crop for n, crop in enumerate(train) if n % 5)
    if not train or not val:
        raise DataError(
            f"{len(train) + len(val)} objects with a box or mask of at least "
            f"{MIN_SIDE:.0f} pixels were found, too few to compose scenes from",
            where=str(data_set.root),
            remedy="Give a data set with drawn boxes",
        )
    return {"train": _by_class(train), "val": _by_class(val)}


def _crops_of(samples: Sequence[Sample]) -> Iterator[Crop]:
    for sample in samples:
        truth = sample.truth
        if truth is None:
            continue
        if truth.masks:
            masks = [mask for mask in truth.masks if not mask.crowd]
            found = [
                Crop(sample.path, mask.class_index, _box_of(mask.rle), mask.rle) for mask in masks
            ]
        else:
            boxes = [box for box in truth.boxes if not (box.crowd or box.difficult)]
            found = [Crop(sample.path, box.class_index, box.box, None) for box in boxes]
        yield from (crop for crop in found if _is_large_enough(crop.box))


def _box_of(rle: Mapping[str, Any]) -> BoxLTRB:
    left, top, width, height = coco_mask.toBbox(dict(rle)).tolist()
    return box_from_xywh((left, top, width, height))


def _is_large_enough(box: BoxLTRB) -> bool:
    return min(box[2] - box[0], box[3] - box[1]) >= MIN_SIDE


def _by_class(crops: Sequence[Crop]) -> CropsByClass:
    sorted_crops: dict[int, list[Crop]] = {}
    for crop in crops:
        sorted_crops.setdefault(crop.class_index, []).append(crop)
    return {index: tuple(sorted_crops[index]) for index in sorted(sorted_crops)}


def draw_crops(random: np.random.Generator, crops: CropsByClass) -> Scene:
    low, high = CANVAS_SIDES
    size = (int(random.integers(low, high + 1)), int(random.integers(low, high + 1)))
    canvas = Canvas(background(random, size=size))
    strew(canvas, random, lambda: _fragment(random, crops))
    classes = sorted(crops)
    for number in plan_classes(random, num_classes=len(classes), pair=None):
        candidates = crops[classes[number]]
        crop = candidates[int(random.integers(len(candidates)))]
        place_object(canvas, random, _object(random, crop), crop.class_index)
    return canvas.scene()


def _object(random: np.random.Generator, crop: Crop) -> Layer:
    pixels, alpha = _cut_out(crop, extent=object_extent(random))
    if random.random() < 0.5:
        pixels, alpha = pixels.transpose(_MIRROR), alpha.transpose(_MIRROR)
    degrees = math.degrees(uniform(random, -MAX_TURN, MAX_TURN))
    turned = pixels.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
    coverage = alpha.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
    return Layer(np.asarray(turned), np.asarray(coverage))


_MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


def _fragment(random: np.random.Generator, crops: CropsByClass) -> Layer:
    """A splinter out of some object, at an object's scale."""
    candidates = crops[tuple(crops)[int(random.integers(len(crops)))]]
    crop = candidates[int(random.integers(len(candidates)))]
    pixels, alpha = _cut_out(crop, extent=object_extent(random))
    half = uniform(random, 6.0, 15.0)
    pose = Pose(half, half * uniform(random, 0.5, 1.0), uniform(random, 0, 2 * math.pi))
    coverage, _ = cover(splinter(random), pose)
    return break_out(random, Layer(np.asarray(pixels), np.asarray(alpha)), coverage)


def _cut_out(crop: Crop, *, extent: float) -> tuple[Image.Image, Image.Image]:
    """The pixels of an object, its longer side scaled to `extent`, and their alpha."""
    picture = open_image(Path(crop.path))
    left, top, right, bottom = clip_box(crop.box, picture.size)
    region = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    pixels = picture.crop(region)
    alpha = Image.new("L", pixels.size, 255)
    if crop.rle is not None:
        mask = decode_mask(crop.rle) * np.uint8(255)
        alpha = Image.fromarray(mask).crop(region)
    factor = extent / max(pixels.size)
    size = (max(round(pixels.width * factor), 1), max(round(pixels.height * factor), 1))
    return pixels.resize(size, Image.Resampling.BICUBIC), alpha.resize(size)
