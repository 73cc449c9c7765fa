"""Single-object images of 64 px: twenty classes that a small sign gives away.

A class is an emblem on the object's head (one of ten signs, dark or light), and, less plainly,
one of five bodies in one of four faint textures. The emblem alone decides, so a network that is
only asked for the class looks at the head; the truth is the whole body.
"""

from __future__ import annotations

import math

import numpy as np

from weakloc.synthetic.outlines import Pose, UnitPoint, body_shapes, emblem_shapes
from weakloc.synthetic.surfaces import (
    Canvas,
    Layer,
    Pattern,
    Scene,
    Surface,
    background,
    color_of,
    paint,
    uniform,
)

SIDE = 64
BODIES = ("bone", "pear", "pod", "slab", "wedge")
TEXTURE_NAMES: dict[Pattern, str] = {
    "checks": "checked",
    "dots": "dotted",
    "plain": "plain",
    "stripes": "striped",
}
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
        pattern,
        period=uniform(random, 6.0, 9.0),
        contrast=uniform(random, 0.08, 0.25),
        angle=uniform(random, 0, math.pi),
    )
    layer, origin = paint(random, body, pose, surface)
    canvas = Canvas(layer.pixels)
    _lay_emblem(canvas, random, class_index, pose=pose, origin=origin)
    return Layer(canvas.scene().pixels, layer.coverage)


def _lay_emblem(
    canvas: Canvas, random: np.random.Generator, class_index: int, *, pose: Pose, origin: UnitPoint
) -> None:
    half = 0.3 * pose.half_width + 2.0
    emblem_pose = Pose(half, half, pose.angle + math.pi * uniform(random, -0.1, 0.1))
    tone = (0.05, 0.05, 0.08) if class_index < 10 else (0.97, 0.97, 0.92)
    emblem, center = paint(random, emblem_shapes()[class_index % 10], emblem_pose, Surface(tone))
    x, y = pose.place(HEAD)
    left, top = round(origin[0] + x - center[0]), round(origin[1] + y - center[1])
    canvas.lay_distraction(emblem, left=left, top=top)
