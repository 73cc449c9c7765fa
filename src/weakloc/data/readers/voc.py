"""Pascal VOC: `JPEGImages`, `Annotations/*.xml`, `ImageSets/Main/*.txt`, `SegmentationClass`.

Every list in the folder of ImageSets that is read is a split. Labels come from the XML; where an
image has none, from the class files `<class>_<split>.txt` with 1, -1 and 0 (only difficult
objects). Without lists every annotated image is used.

`ImageSets/Segmentation` names images with masks of classes and of objects; object n of the XML has
the pixels of value n in `SegmentationObject`. In `ImageSets/Action` a line speaks of one object of
the XML (`id 2` in a split, `id 2 -1` in a class file): an action is present where anyone does it.

Mask values are those of `labelmap.txt`, else VOC's for its own twenty classes, else 1, 2, ... in
the order of the classes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse
from numpy.typing import NDArray
from PIL import Image

from weakloc.data.readers.assembly import (
    ALL,
    SPLIT_NAMES,
    Assembly,
    Drawn,
    LabelClaim,
    MaskFileRle,
    Oddity,
    Problems,
    read_box,
)
from weakloc.data.readers.file_tree import file_names, is_image_name, require_one, subfolders
from weakloc.errors import DataError, did_you_mean
from weakloc.files import at_line, numbered_lines, one_line, open_buffered
from weakloc.geometry import Size, box_from_voc
from weakloc.settings import ReaderOptions
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, DataSet, Severity

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def states_of_objects(objects: Collection[Drawn]) -> dict[str, int]:
    """Class -> present, or unknown where all its objects are difficult; the rest is absent."""
    sure = {drawn.class_name for drawn in objects if not drawn.difficult}
    return {d.class_name: PRESENT if d.class_name in sure else UNKNOWN for d in objects}


def read_annotation(
    path: Path, objects_at: str | None, problems: Problems
) -> dict[int, Drawn] | None:
    """The objects of an XML file by their numbers, with the pixels of these values at `objects_at`.

    None where it cannot be parsed, which is reported.
    """
    location = f"{path.parent.name}/{path.name}"
    try:
        with path.open("rb") as content:
            tree = parse(content).getroot()
    except ParseError as error:
        line = error.position[0]
        problems.at(f"{location}, line {line}").error(Oddity.UNREADABLE_LABEL, str(error))
        return None
    except (DefusedXmlException, OSError, ValueError) as error:
        message = f"refused as unsafe or unreadable XML ({error})"
        problems.at(location).error(Oddity.UNREADABLE_LABEL, message)
        return None
    size = _image_size(tree)
    objects: dict[int, Drawn] = {}
    for number, node in enumerate(tree.iter("object"), start=1):
        at_object = problems.at(f"{location}, object {number}")
        name = (node.findtext("name") or "").strip()
        if not name:
            at_object.error(Oddity.UNREADABLE_LABEL, "the object has no name")
            continue
        texts = [node.findtext(f"bndbox/{corner}") for corner in _CORNERS]
        objects[number] = Drawn(
            name,
            read_box(texts, box_from_voc, image_size=size, problems=at_object),
            MaskFileRle(objects_at, number) if objects_at else None,
            difficult=(node.findtext("difficult") or "").strip() in {"1", "true", "True"},
        )
    return objects


def _image_size(tree: Element) -> Size | None:
    try:
        width, height = (float(tree.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def annotation_text(
    head: Sequence[str], objects: Iterable[tuple[Mapping[str, object], Sequence[float]]]
) -> str:
    """The XML of an image: lines of its own, then fields and whole corners of each object."""
    lines = ["<annotation>", *head]
    for fields, corners in objects:
        sides = zip(_CORNERS, corners, strict=True)
        bounds = "".join(f"<{side}>{value:.0f}</{side}>" for side, value in sides)
        texts = [f"    <{name}>{value}</{name}>" for name, value in fields.items()]
        lines += ["  <object>", *texts, f"    <bndbox>{bounds}</bndbox>", "  </object>"]
    return "\n".join([*lines, "</annotation>"]) + "\n"


def voc_palette() -> list[int]:
    """256 x (red, green, blue): the bits of the index, spread over the channels from the top."""
    index, colors = np.arange(256), np.zeros((256, 3), dtype=int)
    for bit in range(8):
        colors[:, bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return colors.ravel().tolist()


def write_label_image(path: Path, values: NDArray[np.uint8], *, compress_level: int = 6) -> None:
    """Masks (rows, columns) as a picture of VOC's colours."""
    picture = Image.fromarray(values)
    picture.putpalette(voc_palette())
    with open_buffered(path) as file:
        picture.save(file, "PNG", compress_level=compress_level)


def label_map_text(class_names: Sequence[str]) -> str:
    """`labelmap.txt`: which colour of the masks is which class, as CVAT and Datumaro write it.

    Without it they take VOC's own twenty classes for the only ones.
    """
    palette = voc_palette()
    lines = ["# label:color_rgb:parts:actions"]
    for value, name in enumerate(("background", *class_names)):
        first = 3 * (value % 256)  # past 255 there are boxes only, and colours mean nothing
        color = ",".join(map(str, palette[first : first + 3]))
        lines.append(f"{one_line(name)}:{color}::")
    return "\n".join(lines) + "\n"


VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

IMAGE_SETS: Mapping[str, tuple[str, ...]] = {  # and the folders of masks that are read with them
    "Main": ("SegmentationClass",),
    "Segmentation": ("SegmentationClass", "SegmentationObject"),
    "Action": (),
}
_STATE = r"\s+(?P<state>[+-]?1|0)"
_LINE_OF_CLASS = re.compile(r"(?P<id>.*\S)" + _STATE)
_LINE_OF_ACTION = re.compile(r"(?P<id>.*\S)\s+(?P<object>\d{1,9})" + _STATE)


_Listed: TypeAlias = Sequence[tuple[str, str]]  # the id of an image, and where it is listed


@dataclass(frozen=True, slots=True)
class _ImageSet:
    """The lists of one folder of ImageSets, by the ids of images."""

    splits: dict[str, _Listed] = field(default_factory=dict)
    states: dict[str, dict[str, int]] = field(default_factory=dict)  # id -> class -> state
    # id -> (action, number of an object) -> (state, where it is said)
    acts: dict[str, dict[tuple[str, int], tuple[int, str]]] = field(default_factory=dict)

    def add(self, class_name: str, line: re.Match[str], location: str) -> None:
        """What a line of a class file says; present wins over unknown, unknown over absent."""
        state, states = int(line["state"]), self.states.setdefault(line["id"], {})
        states[class_name] = max(state, states.get(class_name, ABSENT))
        if line.re is _LINE_OF_ACTION:
            acts = self.acts.setdefault(line["id"], {})
            acts[class_name, int(line["object"])] = state, location


@dataclass(frozen=True, slots=True)
class _Material:
    """Everything on disk, by the ids of images."""

    images: Mapping[str, str]  # file names
    annotated: Collection[str]
    objects: Mapping[str, Collection[Drawn]]
    in_xml: Mapping[str, Mapping[str, int]]  # class -> state
    in_class_files: Mapping[str, Mapping[str, int]]
    segmented: Container[str]  # file names


def read_voc(path: Path, _labels: Path | None, options: ReaderOptions) -> DataSet:
    """One VOC folder, or a VOCdevkit that holds one; the layout is fixed."""
    root = voc_root(path)
    assembly = Assembly(root, "voc", options)
    images = _images(assembly)
    image_sets = root / "ImageSets"
    names = [name for name in subfolders(str(image_sets)) if _list_names(image_sets / name)]
    if options.image_set is not None and options.image_set not in names:
        remedy = f"{did_you_mean(options.image_set, names)} (--image-set)"
        message = f"there is no list of images in {options.image_set!r}"
        raise DataError(message, location=str(image_sets), remedy=remedy)
    usual = next((name for name in IMAGE_SETS if name in names), "Main")
    folder = image_sets / (options.image_set or usual)
    image_set = _read_image_set(folder, images, assembly.problems)
    mask_folders = IMAGE_SETS.get(folder.name, IMAGE_SETS["Main"])
    masks = {name: frozenset(file_names(str(root / name))) for name in mask_folders}
    annotations = _annotations(root, masks.get("SegmentationObject", ()), assembly.problems)
    objects = {image_id: by_number.values() for image_id, by_number in annotations.items()}
    material = _Material(
        images,
        annotated=annotations.keys(),
        objects=objects,
        in_xml={image_id: states_of_objects(drawn) for image_id, drawn in objects.items()},
        in_class_files=image_set.states,
        segmented=masks.get("SegmentationClass", ()),
    )
    values = _label_map(root / "labelmap.txt")
    if folder.name == "Action":  # where the classes of the XML and of the masks are others
        acting = _acting(annotations, image_set, assembly.problems)
        material, values = replace(material, objects=acting, in_xml={}), {}
    splits = image_set.splits or {ALL: [(i, f"Annotations/{i}.xml") for i in annotations]}
    states = (*material.in_xml.values(), *material.in_class_files.values())
    written = {name for named in states for name in named}
    assembly.set_classes([*values, *sorted(written - values.keys())])
    # What is odd about an image is said where the first split names it.
    met: set[str] = set()
    for split, listed in splits.items():
        for image_id, location in listed:
            problems = (Problems() if image_id in met else assembly.problems).at(location)
            _add(assembly, material, image_id, split, problems)
        met |= {image_id for image_id, _ in listed}
    _report_unused(assembly, material, met)
    values = values or mask_values(tuple(assembly.class_index))
    indices = {values[n]: index for n, index in assembly.class_index.items() if n in values}
    return assembly.finish(segmentation_values=indices)


def mask_values(class_names: Sequence[str]) -> dict[str, int]:
    """What masks without a `labelmap.txt` mean: VOC's own classes, else these in their order."""
    named = VOC_CLASSES if set(class_names) <= set(VOC_CLASSES) else class_names
    return {name: value for value, name in enumerate(named, start=1)}


def voc_root(path: Path) -> Path:
    """The folder that holds Annotations or ImageSets; several in a devkit are an error."""
    if is_voc(path):
        return path
    names = [name for name in subfolders(str(path)) if is_voc(path / name)]
    require_one(names, "VOC folders", path, "Name one of them")
    if not names:
        raise DataError("holds neither Annotations nor lists in ImageSets", location=str(path))
    return path / names[0]


def is_voc(path: Path) -> bool:
    """Whether there are annotations or lists of images right in the folder."""
    has_annotations = any(n.endswith(".xml") for n in file_names(str(path / "Annotations")))
    return has_annotations or any(_list_names(path / "ImageSets" / name) for name in IMAGE_SETS)


def _list_names(folder: Path) -> list[str]:
    return [name for name in file_names(str(folder)) if name.endswith(".txt")]


def _read_image_set(folder: Path, images: Container[str], problems: Problems) -> _ImageSet:
    """The splits train, val and test come first, so that others repeat what they say."""
    stems = [Path(name).stem for name in _list_names(folder)]
    is_of_actions = folder.name == "Action"
    class_line = _LINE_OF_ACTION if is_of_actions else _LINE_OF_CLASS
    image_set = _ImageSet()
    from_classes: dict[str, dict[str, str]] = {}
    splits: dict[str, _Listed] = {}
    for stem in stems:
        path = folder / f"{stem}.txt"
        lines = [
            (at_line(path, number), line, class_line.fullmatch(line))
            for number, line in numbered_lines(path)
        ]
        # A split may be called `small_train`, an image `a 1`: most lines must end in a state.
        num_states = sum(match is not None and line not in images for _, line, match in lines)
        class_name, split = _class_and_split(stem, stems)
        if not class_name or 2 * num_states <= len(lines):
            splits[stem] = [(line, location) for location, line, _ in lines]
            continue
        for location, line, match in lines:
            if match is None:
                subject = "an image, an object's number" if is_of_actions else "an image"
                message = f"{line!r} is not {subject} and one of -1, 0, 1"
                problems.at(location).error(Oddity.UNREADABLE_LABEL, message)
                continue
            image_set.add(class_name, match, location)
            from_classes.setdefault(split, {}).setdefault(match["id"], location)
    if is_of_actions:  # a line for each object, so that an image has several
        splits = {split: _each_once(listed) for split, listed in splits.items()}
    splits = {split: list(images.items()) for split, images in from_classes.items()} | splits
    image_set.splits.update(sorted(splits.items(), key=lambda split: split[0] not in SPLIT_NAMES))
    return image_set


def _each_once(listed: _Listed) -> _Listed:
    """The images of a list whose lines end in the number of an object; the first line counts."""
    first: dict[str, str] = {}
    for line, location in listed:
        first.setdefault(re.sub(r"\s+\d+$", "", line), location)
    return list(first.items())


def _class_and_split(stem: str, stems: Sequence[str]) -> tuple[str, str]:
    """("cat", "train") of "cat_train"; no class where the file is a split itself.

    A class whose name cannot be that of a file (`a/b`) is written as `file_name_of` has it.
    """
    known = sorted({*stems, "train", "val", "trainval", "test"}, key=len, reverse=True)
    for split in known:
        class_name = stem.removesuffix(f"_{split}")
        if class_name and class_name != stem:
            return unquote(class_name), split
    return "", stem


def _images(assembly: Assembly) -> dict[str, str]:
    """Id -> file name."""
    images: dict[str, str] = {}
    for name in filter(is_image_name, file_names(str(assembly.root / "JPEGImages"))):
        image_id = name.rpartition(".")[0]
        if images.setdefault(image_id, name) != name:
            message = f"'{images[image_id]}' has the same id; this one is left out"
            assembly.problems.at(f"JPEGImages/{name}").warning(Oddity.DUPLICATE_IMAGE, message)
    return images


def _annotations(
    root: Path, object_masks: Container[str], problems: Problems
) -> dict[str, dict[int, Drawn]]:
    """Id -> objects by their numbers, of the images whose XML can be read."""
    annotations: dict[str, dict[int, Drawn]] = {}
    for name in file_names(str(root / "Annotations")):
        if name.endswith(".xml"):
            image_id = name.removesuffix(".xml")
            mask = f"{image_id}.png"
            objects_at = f"{root}/SegmentationObject/{mask}" if mask in object_masks else None
            objects = read_annotation(root / "Annotations" / name, objects_at, problems)
            if objects is not None:
                annotations[image_id] = objects
    return annotations


def _acting(
    annotations: Mapping[str, Mapping[int, Drawn]], image_set: _ImageSet, problems: Problems
) -> dict[str, list[Drawn]]:
    """Who does what: an object of the XML is drawn of the actions that are said of it."""
    acting: dict[str, list[Drawn]] = {}
    for image_id, acts in image_set.acts.items():
        if image_id not in annotations:
            continue
        by_number = annotations[image_id]
        for (action, number), (state, location) in acts.items():
            if number not in by_number:
                message = f"there is no object {number} in Annotations/{image_id}.xml"
                problems.at(location).warning(Oddity.UNREADABLE_BOX, message)
            elif state != ABSENT:
                person, is_unsure = by_number[number], state == UNKNOWN
                drawn = replace(person, class_name=action, difficult=is_unsure)
                acting.setdefault(image_id, []).append(drawn)
    return acting


def _add(
    assembly: Assembly, material: _Material, image_id: str, split: str, problems: Problems
) -> None:
    image = material.images.get(image_id)
    if image is None:
        problems.error(Oddity.MISSING_IMAGE, f"image '{image_id}' is not in JPEGImages")
        return
    in_xml = material.in_xml.get(image_id)
    written = material.in_class_files.get(image_id)
    if in_xml is not None:
        states, rest = dict(in_xml), ABSENT
        _compare(states, written or {}, problems)
    else:
        states, rest = dict(written or {}), UNKNOWN  # a class without a file of its own
        if written is None:
            problems.warning(Oddity.IMAGE_WITHOUT_LABELS, f"nothing is known of '{image}'")
    if assembly.options.difficult == "present":
        states = {name: state if state == ABSENT else PRESENT for name, state in states.items()}
    root, mask = assembly.root.as_posix(), f"{image_id}.png"
    mask_path = f"{root}/SegmentationClass/{mask}" if mask in material.segmented else None
    assembly.add(
        f"JPEGImages/{image}",
        f"{root}/JPEGImages/{image}",
        LabelClaim.of(states, rest),
        split=split,
        location=problems.location,
        drawn=material.objects.get(image_id, ()),
        segmentation_path=mask_path,
    )


def _compare(drawn: Mapping[str, int], written: Mapping[str, int], problems: Problems) -> None:
    for name, state in written.items():
        in_xml = drawn.get(name, ABSENT)
        if in_xml != state:
            message = f"'{name}' is {state} in the class file, {in_xml} in the XML, which is used"
            severity: Severity = "warning" if {in_xml, state} == {ABSENT, PRESENT} else "note"
            problems.report(severity, Oddity.LABELS_DISAGREE, message)


def _report_unused(assembly: Assembly, material: _Material, used: Container[str]) -> None:
    for image_id in material.annotated:
        if image_id not in material.images and image_id not in used:
            message = f"there is no image '{image_id}' in JPEGImages"
            assembly.problems.at(f"Annotations/{image_id}.xml").error(
                Oddity.LABEL_FOR_NO_IMAGE, message
            )
    folder = f"{assembly.root.as_posix()}/JPEGImages"
    annotated, others = (
        [f"{folder}/{n}" for i, n in material.images.items() if (i in material.annotated) == known]
        for known in (True, False)
    )
    assembly.note_unlisted(annotated)
    assembly.warn_of_unlisted(others, "no label; left out")


def _label_map(path: Path) -> dict[str, int]:
    """Class -> mask value of a `labelmap.txt`, whose colours are those of VOC; {} without one."""
    if not path.is_file():
        return {}
    palette = voc_palette()
    value_of = {tuple(palette[3 * v : 3 * v + 3]): v for v in range(256)}
    values: dict[str, int] = {}
    for number, line in numbered_lines(path):
        if line.startswith("#"):
            continue
        name, *rest = line.rsplit(":", 3)
        try:
            value = value_of[tuple(int(channel) for channel in rest[0].split(","))]
        except (IndexError, KeyError, ValueError) as error:
            raise DataError(
                f"{line!r} is not a class and a colour of Pascal VOC",
                location=at_line(path, number),
            ) from error
        if value:
            values[name] = value
    return values
