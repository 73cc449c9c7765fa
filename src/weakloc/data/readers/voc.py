"""Pascal VOC: `JPEGImages`, `Annotations/*.xml`, `ImageSets/Main/*.txt`, `SegmentationClass`.

Labels come from the XML; where an image has none, from the class files `<class>_<split>.txt` with
1, -1 and 0 (only difficult objects). Without `ImageSets/Main` every annotated image is used.
`trainval` is left out where it is exactly train and val together.
Mask values are those of `labelmap.txt`, else VOC's for its own twenty classes, else 1, 2, ... in
the order of the classes.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from weakloc.data.readers.assembly import (
    ALL,
    DUPLICATE_IMAGE,
    IMAGE_WITHOUT_LABELS,
    LABEL_FOR_NO_IMAGE,
    LABELS_DISAGREE,
    MISSING_IMAGE,
    UNREADABLE_LABEL,
    Assembly,
    Problems,
    claim_of_states,
    drawn_truth,
    read_box,
)
from weakloc.data.readers.file_tree import file_names, is_image_name, subfolders
from weakloc.errors import DataError
from weakloc.files import at_line, file_name_of, numbered_lines
from weakloc.geometry import BoxLTRB, Size, box_from_voc
from weakloc.settings import ReaderOptions
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, DataSet, Severity, Truth, TruthBox

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class DrawnObject:
    """One object; its box is None where it cannot be used, but its class still counts."""

    class_name: str
    box: BoxLTRB | None
    difficult: bool


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one XML file says about its image."""

    objects: tuple[DrawnObject, ...]

    @property
    def states(self) -> dict[str, int]:
        """Class -> present, or unknown where all its objects are difficult; the rest is absent."""
        sure = {drawn.class_name for drawn in self.objects if not drawn.difficult}
        names = dict.fromkeys(drawn.class_name for drawn in self.objects)
        return {name: PRESENT if name in sure else UNKNOWN for name in names}


def read_annotation(path: Path, problems: Problems) -> Annotation | None:
    """The objects of an XML file, or None where it cannot be parsed, which is reported."""
    location = f"{path.parent.name}/{path.name}"
    try:
        tree = parse(str(path)).getroot()
    except ParseError as error:
        line = error.position[0]
        problems.at(f"{location}, line {line}").error(UNREADABLE_LABEL, str(error))
        return None
    except (DefusedXmlException, OSError, ValueError) as error:
        message = f"refused as unsafe or unreadable XML ({error})"
        problems.at(location).error(UNREADABLE_LABEL, message)
        return None
    size = _image_size(tree)
    objects = (
        _object(node, size, problems.at(f"{location}, object {number}"))
        for number, node in enumerate(tree.iter("object"), start=1)
    )
    return Annotation(tuple(drawn for drawn in objects if drawn is not None))


def _image_size(tree: Element) -> Size | None:
    try:
        width, height = (float(tree.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _object(node: Element, size: Size | None, problems: Problems) -> DrawnObject | None:
    name = (node.findtext("name") or "").strip()
    if not name:
        problems.error(UNREADABLE_LABEL, "the object has no name")
        return None
    difficult = (node.findtext("difficult") or "").strip() in {"1", "true", "True"}
    return DrawnObject(name, _box(node, size, problems), difficult)


def _box(node: Element, size: Size | None, problems: Problems) -> BoxLTRB | None:
    texts = [node.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    return read_box(texts, box_from_voc, image_size=size, problems=problems)


def voc_palette() -> list[int]:
    """256 x (red, green, blue): the bits of the index, spread over the channels from the top."""
    colors = []
    for index in range(256):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colors += channels
    return colors


def label_map_text(class_names: Sequence[str]) -> str:
    """`labelmap.txt`: which colour of the masks is which class, as CVAT and Datumaro write it."""
    palette = voc_palette()
    lines = ["# label:color_rgb:parts:actions"]
    for value, name in enumerate(("background", *class_names)):
        first = 3 * (value % 256)  # past 255 there are boxes only, and colours mean nothing
        color = ",".join(map(str, palette[first : first + 3]))
        lines.append(f"{name}:{color}::")
    return "\n".join(lines) + "\n"


VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

_STATES = frozenset({"-1", "0", "1", "+1"})


@dataclass(frozen=True, slots=True)
class _Listed:
    """An image named in a split, and where."""

    image_id: str
    location: str


@dataclass(frozen=True, slots=True)
class _Material:
    """Everything on disk: ids -> image file names, annotations, and the states in class files."""

    images: Mapping[str, str]
    annotations: Mapping[str, Annotation]
    states: Mapping[str, Mapping[str, int]]  # id -> class -> state
    mask_names: frozenset[str]


def read_voc(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """One VOC folder, or a VOCdevkit that holds one; the layout is fixed, `labels` is ignored."""
    del labels
    root = voc_root(path)
    assembly = Assembly(root, "voc", options)
    images = _images(assembly)
    splits, states = _read_image_sets(root / "ImageSets" / "Main", images, assembly.problems)
    annotations = _annotations(root, assembly.problems)
    values = _label_map(root / "labelmap.txt")
    drawn = {o.class_name for a in annotations.values() for o in a.objects}
    # A class whose name cannot be that of a file (`a/b`) is written otherwise in class files.
    real_names = {file_name_of(name): name for name in sorted(drawn | values.keys())}
    states = {
        image_id: {real_names.get(name, name): state for name, state in named.items()}
        for image_id, named in states.items()
    }
    masks = frozenset(file_names(str(root / "SegmentationClass")))
    material = _Material(images, annotations, states, masks)
    splits = splits or {ALL: [_Listed(i, f"Annotations/{i}.xml") for i in annotations]}
    written = {name for named in states.values() for name in named}
    assembly.set_classes([*values, *sorted((drawn | written) - values.keys())])
    for split, listed in splits.items():
        for item in listed:
            _add(assembly, material, item, split)
    _report_unused(assembly, material, splits)
    names = tuple(assembly.class_index)
    if not values and set(names) <= set(VOC_CLASSES):
        values = {name: value for value, name in enumerate(VOC_CLASSES, start=1)}
    values = values or {name: value for value, name in enumerate(names, start=1)}
    indices = {values[name]: index for index, name in enumerate(names) if name in values}
    return assembly.finish(segmentation_values=indices)


def voc_root(path: Path) -> Path:
    """The folder that holds Annotations or ImageSets; several in a devkit are an error."""
    if is_voc(path):
        return path
    inner = [path / name for name in subfolders(str(path)) if is_voc(path / name)]
    if len(inner) > 1:
        raise DataError(
            f"holds several VOC folders: {', '.join(folder.name for folder in inner)}",
            location=str(path),
            remedy="Name one of them",
        )
    if not inner:
        raise DataError("holds neither Annotations nor ImageSets/Main", location=str(path))
    return inner[0]


def is_voc(path: Path) -> bool:
    """Whether there are annotations or lists of images right in the folder."""
    main = path / "ImageSets" / "Main"
    has_annotations = any(n.endswith(".xml") for n in file_names(str(path / "Annotations")))
    return has_annotations or any(n.endswith(".txt") for n in file_names(str(main)))


def _read_image_sets(
    folder: Path, images: Container[str], problems: Problems
) -> tuple[dict[str, list[_Listed]], dict[str, dict[str, int]]]:
    """(split -> images, id -> class -> state) of the files in ImageSets/Main."""
    stems = [Path(name).stem for name in file_names(str(folder)) if name.endswith(".txt")]
    class_files: dict[str, tuple[str, str]] = {}
    for stem in stems:
        # A split may be called `small_train`, an image `a 1`: most lines must end in a state.
        lines = [line for _, line in numbered_lines(folder / f"{stem}.txt")]
        with_states = [n for n in lines if n.rpartition(" ")[2] in _STATES and n not in images]
        parts = _class_and_split(stem, stems)
        if parts is not None and 2 * len(with_states) > len(lines):
            class_files[stem] = parts
    states: dict[str, dict[str, int]] = {}
    from_classes: dict[str, dict[str, _Listed]] = {}
    for stem, (class_name, split) in class_files.items():
        for item, state in _class_lines(folder / f"{stem}.txt", problems):
            states.setdefault(item.image_id, {})[class_name] = state
            from_classes.setdefault(split, {}).setdefault(item.image_id, item)
    splits = {split: list(items.values()) for split, items in from_classes.items()}
    for stem in (stem for stem in stems if stem not in class_files):
        path = folder / f"{stem}.txt"
        splits[stem] = [
            _Listed(text, at_line(path, number)) for number, text in numbered_lines(path)
        ]
    _leave_out_union(splits, problems)
    return splits, states


def _class_and_split(stem: str, stems: Sequence[str]) -> tuple[str, str] | None:
    """("cat", "train") of "cat_train"; None where the file is a split itself."""
    known = sorted({*stems, "train", "val", "trainval", "test"}, key=len, reverse=True)
    for split in known:
        class_name = stem.removesuffix(f"_{split}")
        if class_name and class_name != stem:
            return class_name, split
    return None


def _class_lines(path: Path, problems: Problems) -> Iterator[tuple[_Listed, int]]:
    for number, line in numbered_lines(path):
        image_id, _, written = line.rpartition(" ")
        if written not in _STATES or not image_id.strip():
            message = f"{line!r} is not an image and one of -1, 0, 1"
            problems.at(at_line(path, number)).error(UNREADABLE_LABEL, message)
            continue
        yield _Listed(image_id.strip(), at_line(path, number)), int(written)


def _leave_out_union(splits: dict[str, list[_Listed]], problems: Problems) -> None:
    if not {"train", "val", "trainval"} <= splits.keys():
        return
    ids = {split: {item.image_id for item in items} for split, items in splits.items()}
    if ids["trainval"] == ids["train"] | ids["val"]:
        del splits["trainval"]
        message = "trainval is train and val together and is left out"
        problems.at("trainval.txt").note("joined split", message)


def _images(assembly: Assembly) -> dict[str, str]:
    """Id -> file name."""
    images: dict[str, str] = {}
    for name in filter(is_image_name, file_names(str(assembly.root / "JPEGImages"))):
        image_id = name.rpartition(".")[0]
        if images.setdefault(image_id, name) != name:
            message = f"'{images[image_id]}' has the same id; this one is left out"
            assembly.problems.at(f"JPEGImages/{name}").warning(DUPLICATE_IMAGE, message)
    return images


def _annotations(root: Path, problems: Problems) -> dict[str, Annotation]:
    annotations: dict[str, Annotation] = {}
    for name in file_names(str(root / "Annotations")):
        if name.endswith(".xml"):
            annotation = read_annotation(root / "Annotations" / name, problems)
            if annotation is not None:
                annotations[name.removesuffix(".xml")] = annotation
    return annotations


def _add(assembly: Assembly, material: _Material, item: _Listed, split: str) -> None:
    problems = assembly.problems.at(item.location)
    image = material.images.get(item.image_id)
    if image is None:
        problems.error(MISSING_IMAGE, f"image '{item.image_id}' is not in JPEGImages")
        return
    annotation = material.annotations.get(item.image_id)
    written = material.states.get(item.image_id)
    if annotation is not None:
        states, rest = annotation.states, ABSENT
        _compare(states, written or {}, problems)
    else:
        states, rest = dict(written or {}), UNKNOWN  # a class without a file of its own
        if written is None:
            problems.warning(IMAGE_WITHOUT_LABELS, f"nothing is known of '{image}'")
    if assembly.options.difficult == "present":
        states = {name: state if state == ABSENT else PRESENT for name, state in states.items()}
    assembly.add(
        f"JPEGImages/{image}",
        f"{assembly.root.as_posix()}/JPEGImages/{image}",
        claim_of_states(states, rest),
        split=split,
        location=item.location,
        truth=_truth(assembly, material, item.image_id),
    )


def _compare(drawn: Mapping[str, int], written: Mapping[str, int], problems: Problems) -> None:
    for name, state in written.items():
        in_xml = drawn.get(name, ABSENT)
        if in_xml != state:
            message = f"'{name}' is {state} in the class file, {in_xml} in the XML, which is used"
            severity: Severity = "warning" if {in_xml, state} == {ABSENT, PRESENT} else "note"
            problems.report(severity, LABELS_DISAGREE, message)


def _truth(assembly: Assembly, material: _Material, image_id: str) -> Truth | None:
    annotation, mask = material.annotations.get(image_id), f"{image_id}.png"
    boxes = [
        TruthBox(assembly.class_index[drawn.class_name], drawn.box, difficult=drawn.difficult)
        for drawn in (annotation.objects if annotation is not None else ())
        if drawn.box is not None and drawn.class_name in assembly.class_index
    ]
    mask_path = f"{assembly.root.as_posix()}/SegmentationClass/{mask}"
    return drawn_truth(boxes, segmentation_path=mask_path if mask in material.mask_names else None)


def _report_unused(
    assembly: Assembly, material: _Material, splits: Mapping[str, Sequence[_Listed]]
) -> None:
    used = {item.image_id for items in splits.values() for item in items}
    for image_id in material.annotations:
        if image_id not in material.images and image_id not in used:
            message = f"there is no image '{image_id}' in JPEGImages"
            assembly.problems.at(f"Annotations/{image_id}.xml").error(LABEL_FOR_NO_IMAGE, message)
    for image_id, name in material.images.items():
        if image_id not in used:
            image_problems = assembly.problems.at(f"JPEGImages/{name}")
            if image_id in material.annotations:
                image_problems.note(IMAGE_WITHOUT_LABELS, "no split names it; left out")
            else:
                image_problems.warning(IMAGE_WITHOUT_LABELS, "no label; left out")


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
