"""Kind, split, number and seed -> one scene, and whole folders of scenes in Pascal VOC layout.

A scene depends on the seed, its split and its number alone, so the same seed gives the same bytes.

Clutter: several objects of several classes on a textured canvas. Shape, hue and texture together
tell a class: each hue (with jitter) is shared by two shapes, each texture by two others, a third of
the objects lack their texture, and fragments in the classes' own hues and textures are strewn over
every scene.

Single objects of 64 px: twenty classes that a small sign gives away. A class is an emblem on the
object's head (one of ten signs, dark or light), and, less plainly, one of five bodies in one of
four faint textures. The emblem alone decides, so a network that is only asked for the class looks
at the head; the truth is the whole body.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from weakloc.data.images import open_image
from weakloc.data.readers.voc import annotation_text, label_map_text, write_label_image
from weakloc.errors import DataError, SettingError, did_you_mean
from weakloc.files import (
    UNFINISHED,
    file_name_of,
    only_writer,
    open_buffered,
    open_whole,
    require_own,
    write_text,
)
from weakloc.geometry import BoxLTRB, box_to_voc, clip_box
from weakloc.rle import decode_mask, tight_box
from weakloc.structures import DataSet, Sample
from weakloc.synthetic.canvas import (
    BODY_SHAPES,
    CLUTTER_SHAPES,
    EMBLEM_SHAPES,
    Canvas,
    Layer,
    Pattern,
    Pose,
    Scene,
    Shape,
    Surface,
    background,
    color_of,
    cover,
    paint,
    polar,
    uniform,
)
from weakloc.work import Progress, silent

CLUTTER_CLASSES = ("arrow", "bolt", "crescent", "cross", "disc", "heart", "ring", "star")
# An arrow is seldom seen without a ring beside it: what a location must not fall for.
PLANTED_PAIR = (CLUTTER_CLASSES.index("arrow"), CLUTTER_CLASSES.index("ring"))
PAIR_SHARE = 0.75
EMPTY_SHARE = 0.06
CLOSE_SHARE = 0.3  # of objects that are laid over or beside the one before
CANVAS_SIDES = (160, 320)
OBJECT_EXTENTS = (28.0, 84.0)  # pixels across, a 3x range
LARGE_SIDES = (224, 360)
LARGE_EXTENTS = (0.45, 0.85)  # of the shorter side
TWO_SHARE = 0.35  # of scenes with two large objects
NUM_FRAGMENTS = 3

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


def draw_large(random: np.random.Generator) -> Scene:
    """One or two objects of different classes, as somebody photographs them: large, and whole."""
    canvas = _canvas(random, LARGE_SIDES)
    for number in random.permutation(len(CLUTTER_CLASSES))[:NUM_FRAGMENTS].tolist():
        source = _object_of_class(random, number, extent=80.0)
        lay_somewhere(canvas, random, break_out(random, source))
    num_objects = 1 + int(random.random() < TWO_SHARE)
    for number in random.permutation(len(CLUTTER_CLASSES))[:num_objects].tolist():
        extent = uniform(random, *LARGE_EXTENTS) * min(canvas.size) / num_objects**0.5
        layer = _object_of_class(random, number, extent=extent)
        place_object(canvas, random, layer, number, overhang=0.0, beside=None)
    return canvas.scene()


def _object_of_class(random: np.random.Generator, class_index: int, *, extent: float) -> Layer:
    name = CLUTTER_CLASSES[class_index]
    half, stretch = extent / 2, uniform(random, 0.85, 1.15)
    angle = uniform(random, 0, 2 * math.pi)
    pose = Pose(half * min(stretch, 1.0), half / max(stretch, 1.0), angle)
    surface = surface_of(random, name)
    return paint(random, CLUTTER_SHAPES[name], pose, surface)[0]


def draw_clutter(random: np.random.Generator) -> Scene:
    def draw_object(class_index: int) -> Layer:
        return _object_of_class(random, class_index, extent=object_extent(random))

    classes = range(len(CLUTTER_CLASSES))
    canvas = compose(
        random, classes, pair=PLANTED_PAIR, draw_object=draw_object, draw_source=draw_object
    )
    if random.random() < 0.3:
        lay_somewhere(canvas, random, _bar(random))
    return canvas.scene()


def compose(
    random: np.random.Generator,
    classes: Sequence[int],
    *,
    pair: tuple[int, int] | None,
    draw_object: Callable[[int], Layer],
    draw_source: Callable[[int], Layer],
) -> Canvas:
    """A canvas strewn with fragments, more on a larger one, and the objects of a plan.

    The objects are drawn by class; so is what a fragment is broken out of.
    """
    canvas = _canvas(random, CANVAS_SIDES)
    for _ in range(int(random.integers(4, 11)) * math.prod(canvas.size) // 57600 + 2):
        source = draw_source(classes[int(random.integers(len(classes)))])
        lay_somewhere(canvas, random, break_out(random, source))
    for number in plan_classes(random, num_classes=len(classes), pair=pair):
        layer = draw_object(classes[number])
        beside = canvas.last_corner if random.random() < CLOSE_SHARE else None
        place_object(canvas, random, layer, classes[number], overhang=0.25, beside=beside)
    return canvas


def _canvas(random: np.random.Generator, sides: tuple[int, int]) -> Canvas:
    width, height = random.integers(sides[0], sides[1] + 1, size=2).tolist()
    return Canvas(background(random, size=(width, height)))


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


def place_object(
    canvas: Canvas,
    random: np.random.Generator,
    layer: Layer,
    index: int,
    *,
    overhang: float,
    beside: tuple[int, int] | None,
) -> None:
    """Tries places, those close to a corner where one is given, until one leaves enough to see."""
    for _ in range(30):
        left, top = _somewhere(canvas, random, layer, overhang=overhang)
        if beside:
            left, top = (corner + int(uniform(random, -30, 31)) for corner in beside)
        if canvas.lay(layer, left=left, top=top, class_index=index):
            return


def lay_somewhere(canvas: Canvas, random: np.random.Generator, layer: Layer) -> None:
    left, top = _somewhere(canvas, random, layer, overhang=0.5)
    canvas.lay(layer, left=left, top=top)


def _somewhere(
    canvas: Canvas, random: np.random.Generator, layer: Layer, *, overhang: float
) -> tuple[int, int]:
    """A place at which at most that share of the layer's sides lies beyond the border."""
    height, width = layer.coverage.shape
    beyond_x, beyond_y = int(overhang * width), int(overhang * height)
    left = int(random.integers(-beyond_x, max(canvas.size[0] - width, 0) + beyond_x + 1))
    top = int(random.integers(-beyond_y, max(canvas.size[1] - height, 0) + beyond_y + 1))
    return left, top


def surface_of(random: np.random.Generator, name: str) -> Surface:
    """The look of one object of a class."""
    hue = HUES[name] + uniform(random, -HUE_JITTER, HUE_JITTER)
    pattern = TEXTURES[name] if random.random() < TEXTURE_SHARE else "plain"
    color = color_of(hue, uniform(random, 0.5, 0.95), uniform(random, 0.55, 1.0))
    period, contrast = uniform(random, 6.0, 10.0), uniform(random, 0.35, 0.6)
    return Surface(color, pattern, period, contrast, angle=uniform(random, 0, math.pi))


def break_out(random: np.random.Generator, whole: Layer) -> Layer:
    """The part of a layer under a splinter laid somewhere on it."""
    half = uniform(random, 6.0, 15.0)
    pose = Pose(half, half * uniform(random, 0.5, 1.0), uniform(random, 0, 2 * math.pi))
    coverage, _ = cover(splinter(random), pose)
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
    angles = (
        2 * math.pi * (corner + uniform(random, -0.3, 0.3)) / num_corners
        for corner in range(num_corners)
    )
    return Shape((tuple(polar(uniform(random, 0.6, 1.0), angle=angle) for angle in angles),))


def _bar(random: np.random.Generator) -> Layer:
    """Something long and dull that hides what it lies on."""
    half_length, half_width = uniform(random, 40.0, 140.0), uniform(random, 3.0, 9.0)
    pose = Pose(half_length, half_width, uniform(random, 0, math.pi))
    dull = color_of(uniform(random, 0, 360), uniform(random, 0.0, 0.3), uniform(random, 0.2, 0.9))
    square = Shape((((-1, -1), (1, -1), (1, 1), (-1, 1)),))
    return paint(random, square, pose, Surface(dull))[0]


MIN_SIDE = 8.0  # pixels; what is smaller shows nothing once enlarged
MAX_TURN = math.radians(20)
_MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


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
            location=str(data_set.root),
            remedy="Give a data set with drawn boxes",
        )
    return {"train": _by_class(train), "val": _by_class(val)}


def _crops_of(samples: Sequence[Sample]) -> Iterator[Crop]:
    """Cut along the masks of an image if it has any, else along its boxes."""
    for sample in samples:
        truth = sample.drawn
        masks = (mask for mask in truth.masks if not mask.crowd)
        boxes = (drawn for drawn in truth.boxes if not (drawn.crowd or drawn.difficult))
        if truth.masks:
            crops = [Crop(sample.path, m.class_index, tight_box(m.rle), m.rle) for m in masks]
        else:
            crops = [Crop(sample.path, drawn.class_index, drawn.box, None) for drawn in boxes]
        for crop in crops:
            left, top, right, bottom = crop.box
            if min(right - left, bottom - top) >= MIN_SIDE:
                yield crop


def _by_class(crops: Sequence[Crop]) -> CropsByClass:
    classes = sorted({crop.class_index for crop in crops})
    return {index: tuple(c for c in crops if c.class_index == index) for index in classes}


def draw_crops(random: np.random.Generator, crops: CropsByClass) -> Scene:
    def cut_out(class_index: int) -> Sequence[Image.Image]:
        candidates = crops[class_index]
        crop = candidates[int(random.integers(len(candidates)))]
        picture = open_image(Path(crop.path))
        left, top, right, bottom = clip_box(crop.box, picture.size)
        region = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
        pixels = picture.crop(region)
        alpha = Image.new("L", pixels.size, 255)
        if crop.rle is not None:
            mask = decode_mask(crop.rle) * np.uint8(255)
            alpha = Image.fromarray(mask).crop(region)
        factor = object_extent(random) / max(pixels.size)
        size = (max(round(pixels.width * factor), 1), max(round(pixels.height * factor), 1))
        return (pixels.resize(size, Image.Resampling.BICUBIC), alpha.resize(size))

    def draw_object(class_index: int) -> Layer:
        """Mirrored or not, and a little turned."""
        pictures = cut_out(class_index)
        if random.random() < 0.5:
            pictures = [picture.transpose(_MIRROR) for picture in pictures]
        degrees = math.degrees(uniform(random, -MAX_TURN, MAX_TURN))
        bilinear = Image.Resampling.BILINEAR
        turned = (picture.rotate(degrees, bilinear, expand=True) for picture in pictures)
        return Layer(*map(np.asarray, turned))

    def draw_source(class_index: int) -> Layer:
        return Layer(*map(np.asarray, cut_out(class_index)))

    classes = tuple(crops)
    canvas = compose(random, classes, pair=None, draw_object=draw_object, draw_source=draw_source)
    return canvas.scene()


SIDE = 64
BODIES = ("bone", "pear", "pod", "slab", "wedge")
TEXTURE_NAMES: dict[Pattern, str] = {
    "checks": "checked", "dots": "dotted", "plain": "plain", "stripes": "striped",
}  # fmt: skip
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
        placed = canvas.lay(layer, left=left, top=top, class_index=class_index)
    return canvas.scene()


def _object(random: np.random.Generator, class_index: int) -> Layer:
    body = BODY_SHAPES[BODIES[class_index % len(BODIES)]]
    pattern = tuple(TEXTURE_NAMES)[class_index // len(BODIES)]
    half_length = uniform(random, 16.0, 28.0)
    half_width = half_length * uniform(random, 0.55, 0.75)
    pose = Pose(half_length, half_width, uniform(random, 0, 2 * math.pi))
    hue, saturation = uniform(random, 0, 360), uniform(random, 0.3, 0.9)
    color = color_of(hue, saturation, uniform(random, 0.5, 0.85))
    period, contrast = uniform(random, 6.0, 9.0), uniform(random, 0.08, 0.25)
    surface = Surface(color, pattern, period, contrast, angle=uniform(random, 0, math.pi))
    layer, origin = paint(random, body, pose, surface)
    canvas = Canvas(layer.pixels)
    half = 0.3 * pose.half_width + 2.0
    emblem_pose = Pose(half, half, pose.angle + math.pi * uniform(random, -0.1, 0.1))
    tone = (0.05, 0.05, 0.08) if class_index < 10 else (0.97, 0.97, 0.92)
    emblem, center = paint(random, EMBLEM_SHAPES[class_index % 10], emblem_pose, Surface(tone))
    x, y = pose.place(HEAD)
    left, top = round(origin[0] + x - center[0]), round(origin[1] + y - center[1])
    canvas.lay(emblem, left=left, top=top)
    return Layer(canvas.scene().pixels, layer.coverage)


JPEG_QUALITY = 92


def annotation(name: str, scene: Scene, *, class_names: Sequence[str]) -> str:
    """The XML of one scene; boxes 1-based, right and bottom pixels counted in."""
    height, width = scene.instances.shape
    head = [
        f"  <filename>{name}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>1</segmented>",
    ]
    objects = []
    for drawn in scene.objects:
        fields = {"name": escape(class_names[drawn.class_index])}
        fields |= {"truncated": f"{drawn.truncated:d}", "occluded": f"{drawn.occluded:d}"}
        objects.append((fields | {"difficult": "0"}, box_to_voc(drawn.box)))
    return annotation_text(head, objects)


def write_lists(
    folder: Path, tags: Mapping[str, Mapping[str, frozenset[int]]], *, class_names: Sequence[str]
) -> None:
    """The lists over all scenes; `tags` is split -> name -> indices of the classes present."""
    for split, names in tags.items():
        listing = "".join(f"{name}\n" for name in names)
        for task in ("Main", "Segmentation"):
            write_text(folder / "ImageSets" / task / f"{split}.txt", listing)
        for index, class_name in enumerate(class_names):
            marks = "".join(f"{name} {1 if index in names[name] else -1:2d}\n" for name in names)
            write_text(folder / "ImageSets/Main" / f"{file_name_of(class_name)}_{split}.txt", marks)
    write_text(folder / "labelmap.txt", label_map_text(class_names))
    with open_whole(folder / "tags.csv") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("path", "labels", "split"))
        for split, names in tags.items():
            for name, present in names.items():
                labels = ";".join(class_names[index] for index in sorted(present))
                table.writerow((f"JPEGImages/{name}.jpg", labels, split))


Kind: TypeAlias = Literal["clutter", "large", "single"]
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Artist:
    """Draws scenes of some classes, given a generator and the split."""

    class_names: tuple[str, ...]
    draw: Callable[[np.random.Generator, str], Scene]


ARTISTS: Mapping[Kind, Artist] = {
    "clutter": Artist(CLUTTER_CLASSES, lambda random, _: draw_clutter(random)),
    "large": Artist(CLUTTER_CLASSES, lambda random, _: draw_large(random)),
    "single": Artist(SINGLE_CLASSES, lambda random, _: draw_single(random)),
}


def artist_of(kind: Kind) -> Artist:
    if kind not in ARTISTS:
        raise SettingError(f"there are no scenes {kind!r}", remedy=did_you_mean(kind, ARTISTS))
    return ARTISTS[kind]


def artist_from(data_set: DataSet) -> Artist:
    """Draws with the objects of a real data set."""
    crops = crops_by_split(data_set)
    return Artist(data_set.class_names, lambda random, split: draw_crops(random, crops[split]))


def draw_scene(artist: Artist, *, split: str, index: int, seed: int) -> Scene:
    if seed < 0:
        raise SettingError(f"the seed is {seed}", remedy="Give a whole number from 0 on")
    return artist.draw(np.random.default_rng([seed, SPLITS.index(split), index]), split)


def write_scenes(
    folder: Path, artist: Artist, counts: tuple[int, int], seed: int, on_progress: Progress = silent
) -> None:
    """Fills an empty folder with scenes in Pascal VOC layout, or one in which this was stopped.

    `counts` are those of train and val. Until the end a mark says that it is not a whole data set.
    """
    require_own(folder, ("*",), marks=(UNFINISHED,))
    mark = folder / UNFINISHED
    files = f"weakloc scenes: {counts[0]} + {counts[1]} of {', '.join(artist.class_names)}\n"
    with only_writer(folder):
        if mark.is_file() and mark.read_text("utf-8") != files:  # some would stay
            reason = f"was begun with other scenes ({mark.read_text('utf-8').strip()})"
            raise DataError(reason, location=str(folder), remedy="Name a new folder")
        write_text(mark, files)
        tags: dict[str, dict[str, frozenset[int]]] = {split: {} for split in SPLITS}
        splits = zip(SPLITS, counts, strict=True)
        numbers = [(split, number) for split, count in splits for number in range(count)]
        for done, (split, index) in enumerate(numbers, start=1):
            name = f"{split}_{index:05d}"
            scene = draw_scene(artist, split=split, index=index, seed=seed)
            _write_scene(folder, name, scene, class_names=artist.class_names)
            tags[split][name] = frozenset(drawn.class_index for drawn in scene.objects)
            on_progress(done, len(numbers))
        write_lists(folder, tags, class_names=artist.class_names)
        mark.unlink()


def _write_scene(folder: Path, name: str, scene: Scene, *, class_names: Sequence[str]) -> None:
    with open_buffered(folder / "JPEGImages" / f"{name}.jpg") as file:
        Image.fromarray(scene.pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    values = np.array([0, *(drawn.class_index + 1 for drawn in scene.objects)], dtype=np.uint8)
    painted = {"SegmentationClass": values[scene.instances], "SegmentationObject": scene.instances}
    for kind, pixels in painted.items():
        write_label_image(folder / kind / f"{name}.png", pixels, compress_level=1)
    text = annotation(name, scene, class_names=class_names)
    write_text(folder / "Annotations" / f"{name}.xml", text)
