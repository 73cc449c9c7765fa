"""Cluttered scenes: several objects of several classes on a textured canvas.

In `normal`, shape, hue and texture together tell a class: each hue (with jitter) is shared by
two shapes, each texture by two others, a third of the objects lack their texture, and fragments
in the classes' own hues and textures are strewn over every scene. In `hard`, hue and texture
are drawn at random and only the shape counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from weakloc.synthetic.outlines import Coverage, Pose, Shape, clutter_shapes, cover
from weakloc.synthetic.surfaces import (
    PATTERNS,
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

Difficulty: TypeAlias = Literal["normal", "hard"]

CLUTTER_CLASSES = ("arrow", "bolt", "crescent", "cross", "disc", "heart", "ring", "star")
# An arrow is seldom seen without a ring beside it: what a location must not fall for.
PLANTED_PAIR = (CLUTTER_CLASSES.index("arrow"), CLUTTER_CLASSES.index("ring"))
PAIR_SHARE = 0.75
EMPTY_SHARE = 0.06
CLOSE_SHARE = 0.3  # of objects that are laid over or beside the one before
CANVAS_SIDES = (160, 320)
OBJECT_EXTENTS = (28.0, 84.0)  # pixels across, a 3x range

# Two shapes share each hue, and two others each texture.
HUES = {
    "disc": 5.0, "ring": 5.0, "star": 75.0, "cross": 75.0,
    "heart": 190.0, "crescent": 190.0, "arrow": 290.0, "bolt": 290.0,
}  # fmt: skip
TEXTURES: dict[str, Pattern] = {
    "disc": "plain", "bolt": "plain", "star": "stripes", "ring": "stripes",
    "heart": "dots", "cross": "dots", "arrow": "checks", "crescent": "checks",
}  # fmt: skip
HUE_JITTER = 20.0
TEXTURE_SHARE = 0.67  # of objects that show their class's texture


def draw_clutter(random: np.random.Generator, *, difficulty: Difficulty) -> Scene:
    low, high = CANVAS_SIDES
    size = (int(random.integers(low, high + 1)), int(random.integers(low, high + 1)))
    canvas = Canvas(background(random, size=size))
    strew(canvas, random, lambda: _fragment(random, difficulty=difficulty))
    for class_index in plan_classes(random, num_classes=len(CLUTTER_CLASSES), pair=PLANTED_PAIR):
        layer = _object_of(random, CLUTTER_CLASSES[class_index], difficulty=difficulty)
        place_object(canvas, random, layer, class_index)
    if random.random() < 0.3:
        lay_somewhere(canvas, random, _bar(random))
    return canvas.scene()


def plan_classes(
    random: np.random.Generator, *, num_classes: int, pair: tuple[int, int] | None
) -> list[int]:
    """The classes of a scene's 0 to 4 objects: up to three different ones."""
    if random.random() < EMPTY_SHARE:
        return []
    num_objects = int(random.integers(1, 5))
    num_different = min(int(random.integers(1, num_objects + 1)), 3, num_classes)
    different = [int(index) for index in random.permutation(num_classes)[:num_different]]
    if pair and pair[0] in different and pair[1] not in different and random.random() < PAIR_SHARE:
        different = [pair[0], pair[1], *(index for index in different if index != pair[0])][:3]
    repeats = [different[int(random.integers(len(different)))] for _ in range(4)]
    return (different + repeats)[: max(num_objects, len(different))]


def object_extent(random: np.random.Generator) -> float:
    """Pixels across: as many objects between 28 and 48 as between 48 and 84."""
    low, high = OBJECT_EXTENTS
    share = float(random.random())
    return float(low * math.exp(share * math.log(high / low)))


def place_object(canvas: Canvas, random: np.random.Generator, layer: Layer, index: int) -> None:
    """Tries places, some of them close to the last object, until one leaves enough to see."""
    is_close = random.random() < CLOSE_SHARE
    for _ in range(30):
        left, top = _somewhere(canvas, random, layer, overhang=0.25)
        if is_close and canvas.last_corner:
            left = canvas.last_corner[0] + int(uniform(random, -30, 31))
            top = canvas.last_corner[1] + int(uniform(random, -30, 31))
        if canvas.lay_object(layer, left=left, top=top, class_index=index):
            return


def lay_somewhere(canvas: Canvas, random: np.random.Generator, layer: Layer) -> None:
    left, top = _somewhere(canvas, random, layer, overhang=0.5)
    canvas.lay_distraction(layer, left=left, top=top)


def _somewhere(
    canvas: Canvas, random: np.random.Generator, layer: Layer, *, overhang: float
) -> tuple[int, int]:
    """A place at which at most that share of the layer's sides lies beyond the border."""
    height, width = layer.coverage.shape
    beyond_x, beyond_y = int(overhang * width), int(overhang * height)
    left = int(random.integers(-beyond_x, max(canvas.size[0] - width, 0) + beyond_x + 1))
    top = int(random.integers(-beyond_y, max(canvas.size[1] - height, 0) + beyond_y + 1))
    return left, top


def strew(canvas: Canvas, random: np.random.Generator, make: Callable[[], Layer]) -> None:
    """Fragments over the whole canvas, more on a larger one."""
    area = canvas.size[0] * canvas.size[1]
    for _ in range(int(random.integers(4, 11)) * area // 57600 + 2):
        lay_somewhere(canvas, random, make())


def surface_of(random: np.random.Generator, name: str, *, difficulty: Difficulty) -> Surface:
    """The look of one object of a class."""
    if difficulty == "hard":
        hue, pattern = uniform(random, 0, 360), PATTERNS[int(random.integers(len(PATTERNS)))]
    else:
        hue = HUES[name] + uniform(random, -HUE_JITTER, HUE_JITTER)
        pattern = TEXTURES[name] if random.random() < TEXTURE_SHARE else "plain"
    color = color_of(hue, uniform(random, 0.5, 0.95), uniform(random, 0.55, 1.0))
    return Surface(
        color,
        pattern,
        period=uniform(random, 6.0, 10.0),
        contrast=uniform(random, 0.35, 0.6),
        angle=uniform(random, 0, math.pi),
    )


def _object_of(random: np.random.Generator, name: str, *, difficulty: Difficulty) -> Layer:
    half, stretch = object_extent(random) / 2, uniform(random, 0.85, 1.15)
    pose = Pose(half * min(stretch, 1.0), half / max(stretch, 1.0), uniform(random, 0, 2 * math.pi))
    surface = surface_of(random, name, difficulty=difficulty)
    return _painted(random, clutter_shapes()[name], pose, surface)


def _fragment(random: np.random.Generator, *, difficulty: Difficulty) -> Layer:
    """A piece broken out of some class's object: its hue, its texture, a bit of its outline."""
    name = CLUTTER_CLASSES[int(random.integers(len(CLUTTER_CLASSES)))]
    whole = _object_of(random, name, difficulty=difficulty)
    half = uniform(random, 6.0, 15.0)
    pose = Pose(half, half * uniform(random, 0.5, 1.0), uniform(random, 0, 2 * math.pi))
    coverage, _ = cover(splinter(random), pose)
    return break_out(random, whole, coverage)


def break_out(random: np.random.Generator, whole: Layer, coverage: Coverage) -> Layer:
    """The part of a layer under a splinter laid somewhere on it."""
    height, width = whole.coverage.shape
    rows, columns = min(height, coverage.shape[0]), min(width, coverage.shape[1])
    left = int(random.integers(width - columns + 1))
    top = int(random.integers(height - rows + 1))
    window = (slice(top, top + rows), slice(left, left + columns))
    part = np.minimum(whole.coverage[window], coverage[:rows, :columns])
    return Layer(whole.pixels[window], part)


def splinter(random: np.random.Generator) -> Shape:
    """An uneven polygon of three to five corners."""
    num_corners = int(random.integers(3, 6))
    corners = []
    for corner in range(num_corners):
        angle = 2 * math.pi * (corner + uniform(random, -0.3, 0.3)) / num_corners
        radius = uniform(random, 0.6, 1.0)
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return Shape((tuple(corners),))


def _bar(random: np.random.Generator) -> Layer:
    """Something long and dull that hides what it lies on."""
    half_length, half_width = uniform(random, 40.0, 140.0), uniform(random, 3.0, 9.0)
    pose = Pose(half_length, half_width, uniform(random, 0, math.pi))
    dull = color_of(uniform(random, 0, 360), uniform(random, 0.0, 0.3), uniform(random, 0.2, 0.9))
    surface = Surface(dull, "plain", period=8.0, contrast=0.0, angle=0.0)
    return _painted(random, Shape((((-1, -1), (1, -1), (1, 1), (-1, 1)),)), pose, surface)


def _painted(random: np.random.Generator, shape: Shape, pose: Pose, surface: Surface) -> Layer:
    coverage, origin = cover(shape, pose)
    size = (coverage.shape[1], coverage.shape[0])
    return Layer(paint(surface, random, size=size, origin=origin), coverage)
