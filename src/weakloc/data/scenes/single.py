"""Single-object images of 64 px: twenty classes that a small sign gives away.

A class is an emblem on the object's head (one of ten signs, dark or light), and, less plainly,
one of five bodies in one of four faint textures. The emblem alone decides, so a network that is
only asked for the class looks at the head; the truth is the whole body.
"""

from __future__ import annotations

import math

import numpy as np

from weakloc.data.scenes.canvas import Canvas, Layer, Scene
from weakloc.data.scenes.outlines import Pose, body_shapes, cover, emblem_shapes
from weakloc.data.scenes.surfaces import (
    PATTERNS,
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
