"""Single-object images of 64 px: twenty classes that a small sign gives away.

A class is an emblem on the object's head (one of ten signs, dark or light), and, less plainly,
one of five bodies in one of four faint textures. The emblem alone decides, so a network that is
only asked for the class looks at the head; the truth is the whole body.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from weakloc.data.images import open_image
from weakloc.errors import DataError
from weakloc.geometry import BoxLTRB, clip_box
from weakloc.rle import decode_mask, tight_box
from weakloc.structures import DataSet, Sample
from weakloc.synthetic.clutter import (
    break_out,
    object_extent,
    place_object,
    plan_classes,
    splinter,
    strew,
)
from weakloc.synthetic.outlines import Pose, body_shapes, cover, emblem_shapes
from weakloc.synthetic.surfaces import (
    PATTERNS,
    Canvas,
    Layer,
    Scene,
    Surface,
    background,
    color_of,
    paint,
    uniform,
)

SIDE = 64
BODIES = ("bone", "pear", "pod", "slab", "wedge")
TEXTURE_NAMES = {"checks": "checked", "dots": "dotted", "plain": "plain", "stripes": "striped"}
SINGLE_CLASSES = tuple(f"{texture} {body}" for texture in TEXTURE_NAMES.values() for body in BODIES)
HEAD = (0.62, 0.0)  # of the body's half length


def draw_single(random: np.random.Generator) -> Scene:
    class_index = int(random.integers(len(SINGLE_CLASSES)))
    canvas = Canvas(background(random, size=(SIDE, SIDE)))
    layer = _object(random, class_index)
    height, width = layer.coverage.shape
    placed = False
    while not placed:
        left = int(random.integers(min(SIDE - width, 0), max(SIDE - width, 0) + 1))
        top = int(random.integers(min(SIDE - height, 0), max(SIDE - height, 0) + 1))
        placed = canvas.lay_object(layer, left=left, top=top, class_index=class_index)
    return canvas.scene()


def _object(random: np.random.Generator, class_index: int) -> Layer:
    body = body_shapes()[BODIES[class_index % len(BODIES)]]
    pattern = tuple(TEXTURE_NAMES)[class_index // len(BODIES)]
    half_length = uniform(random, 16.0, 28.0)
    half_width = half_length * uniform(random, 0.55, 0.75)
    pose = Pose(half_length, half_width, uniform(random, 0, 2 * math.pi))
    hue, saturation = uniform(random, 0, 360), uniform(random, 0.3, 0.9)
    color = color_of(hue, saturation, uniform(random, 0.5, 0.85))
    surface = Surface(
        color,
        PATTERNS[PATTERNS.index(pattern)],
        period=uniform(random, 6.0, 9.0),
        contrast=uniform(random, 0.08, 0.25),
        angle=uniform(random, 0, math.pi),
    )
    coverage, origin = cover(body, pose)
    size = (coverage.shape[1], coverage.shape[0])
    canvas = Canvas(paint(surface, random, size=size, origin=origin))
    _lay_emblem(canvas, random, class_index, pose=pose, origin=origin)
    return Layer(canvas.scene().pixels, coverage)


def _lay_emblem(
    canvas: Canvas,
    random: np.random.Generator,
    class_index: int,
    *,
    pose: Pose,
    origin: tuple[float, float],
) -> None:
    half = 0.3 * pose.half_width + 2.0
    emblem_pose = Pose(half, half, pose.angle + math.pi * uniform(random, -0.1, 0.1))
    coverage, own_origin = cover(emblem_shapes()[class_index % 10], emblem_pose)
    tone = (0.05, 0.05, 0.08) if class_index < 10 else (0.97, 0.97, 0.92)
    surface = Surface(tone, "plain", period=8.0, contrast=0.0, angle=0.0)
    size = (coverage.shape[1], coverage.shape[0])
    layer = Layer(paint(surface, random, size=size, origin=own_origin), coverage)
    x, y = pose.place(HEAD)
    canvas.lay_distraction(
        layer, left=round(origin[0] + x - own_origin[0]), top=round(origin[1] + y - own_origin[1])
    )


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
        masks = sample.truth.masks if sample.truth else ()
        boxes = sample.truth.boxes if sample.truth and not masks else ()
        for mask in masks:
            box = tight_box(mask.rle)
            if not mask.crowd and smallest_side(box) >= MIN_SIDE:
                yield Crop(sample.path, mask.class_index, box, mask.rle)
        for drawn in boxes:
            if not (drawn.crowd or drawn.difficult) and smallest_side(drawn.box) >= MIN_SIDE:
                yield Crop(sample.path, drawn.class_index, drawn.box, None)


def smallest_side(box: BoxLTRB) -> float:
    return min(box[2] - box[0], box[3] - box[1])


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
        place_object(canvas, random, _crop(random, crop), crop.class_index)
    return canvas.scene()


def _crop(random: np.random.Generator, crop: Crop) -> Layer:
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
