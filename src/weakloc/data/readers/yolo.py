"""YOLO: `data.yaml`, `images/...`, `labels/...txt` with a class number and a box or a polygon.

A missing label file means that nothing is known of the image, an empty one that it shows no
class. Sides are shares of the image, so the header of each image with objects is read for its
size. Without `data.yaml` the names come from `classes.txt` and the images from the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from weakloc.data.images import image_size
from weakloc.data.readers.assembly import (
    ALL,
    NOTHING_KNOWN,
    Assembly,
    Drawn,
    LabelClaim,
    Oddity,
    PolygonRle,
    Problems,
    split_name,
    usable_box,
)
from weakloc.data.readers.file_tree import (
    file_names,
    image_paths_below,
    is_image_name,
    require_one,
    subfolders,
)
from weakloc.errors import DataError, ImageError
from weakloc.files import at_line, is_so, numbered_lines, read_text
from weakloc.geometry import box_from_yolo, box_of_points
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet


def _read_label(
    assembly: Assembly, image: str, label: str, class_names: Sequence[str]
) -> tuple[LabelClaim, Iterator[Drawn]]:
    """What the file says is present (all else is absent), and the boxes and masks in pixels."""
    file, image_problems = assembly.name_of(label), assembly.problems.at(assembly.name_of(image))
    path = assembly.files.resolve(label)
    if path is None:
        message = f"there is no {file}; nothing is known of the image"
        image_problems.warning(Oddity.IMAGE_WITHOUT_LABELS, message)
        return NOTHING_KNOWN, iter(())
    present: set[str] = set()
    shapes: list[tuple[str, list[float], Problems]] = []
    lines: set[str] = set()
    for number, line in numbered_lines(Path(path)):
        problems = assembly.problems.at(f"{file}, line {number}")
        if line in lines:
            problems.warning(Oddity.DUPLICATE_LABEL, f"{line!r} is repeated")
            continue
        lines.add(line)
        try:
            class_number, values = _parse(line)
        except ValueError:
            message = f"{line!r} is not a class number and a box or a polygon"
            problems.error(Oddity.UNREADABLE_LABEL, message)
            continue
        if class_number >= len(class_names):
            message = f"class {class_number} is not among the {len(class_names)} names"
            problems.error(Oddity.UNKNOWN_CLASS, message)
            continue
        name = class_names[class_number]
        present.add(name)
        if name in assembly.class_index:
            shapes.append((name, values, problems))
    return LabelClaim.showing(*present), _drawn(shapes, image, image_problems)


_FARTHEST = 1000  # shares of the image: beyond all that can be meant


def _parse(line: str) -> tuple[int, list[float]]:
    """The class number and 4 numbers of a box, or at least 3 pairs of a polygon."""
    first, *rest = line.split()
    number, values = int(first), [float(value) for value in rest]
    if number < 0 or (len(values) != 4 and (len(values) < 6 or len(values) % 2)):
        raise ValueError(line)
    if not (np.abs(values) <= _FARTHEST).all():
        raise ValueError(line)
    return number, values


def _drawn(
    shapes: Sequence[tuple[str, Sequence[float], Problems]], image: str, image_problems: Problems
) -> Iterator[Drawn]:
    try:
        size = image_size(image) if shapes else (0, 0)
    except ImageError as error:
        image_problems.error(Oddity.BROKEN_IMAGE, error.message)
        return
    for class_name, values, problems in shapes:
        rle = None
        if len(values) == 4:
            box = box_from_yolo((values[0], values[1], values[2], values[3]), size)
        else:
            corners = np.asarray(values).reshape(-1, 2) * size  # (N, 2) in pixels
            try:
                rle = PolygonRle([corners.ravel().tolist()], size)
            except ValueError as error:
                problems.warning(Oddity.UNREADABLE_MASK, str(error))
            box = box_of_points(corners)
        yield Drawn(class_name, usable_box(box, image_size=size, problems=problems), rle)


_SPLIT_KEYS = ("train", "val", "test")
_NAME_FILES = ("classes.txt", "obj.names")


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where everything is: class names, and for each split the image paths with their source."""

    class_names: tuple[str, ...]
    images: Mapping[str, Sequence[tuple[str, str]]]  # split -> (path, where it is named)


def read_yolo(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """A folder with `data.yaml`, the YAML file itself, or a folder with images and labels."""
    description = find_description(path, labels)
    assembly = Assembly(path, "yolo", options)
    plan = _plan_of_yaml(assembly, description) if description else _plan_of_folder(assembly.root)
    assembly.set_classes(plan.class_names)
    label_files: set[str] = set()
    for split, images in plan.images.items():
        for image, location in images:
            label = label_path(image)
            label_files.add(label)
            claim, drawn = _read_label(assembly, image, label, plan.class_names)
            name, listed_at = assembly.name_of(image), assembly.name_of(location)
            assembly.add(name, image, claim, split=split, location=listed_at, drawn=drawn)
    _report_stray_labels(assembly, label_files)
    return assembly.finish()


def find_description(path: Path, labels: Path | None) -> Path | None:
    """The YAML file that describes the data, where there is one."""
    labels_at = labels or path
    if labels_at.is_file():
        return labels_at
    names = [n for n in file_names(str(labels_at)) if n.lower().endswith((".yaml", ".yml"))]
    if "data.yaml" in names:
        return labels_at / "data.yaml"
    require_one(names, "descriptions", labels_at, "Name the one that is meant")
    return labels_at / names[0] if names else None


def label_path(image: str) -> str:
    """`images/a/1.jpg` -> `labels/a/1.txt`; beside the image where no folder is called images."""
    stem = image.rpartition(".")[0]
    before, separator, after = stem.rpartition("/images/")
    return f"{before}/labels/{after}.txt" if separator else f"{stem}.txt"


_LONGEST_DESCRIPTION = 2**21


def _plan_of_yaml(assembly: Assembly, file: Path) -> _Plan:
    try:
        text = read_text(file)
        if len(text) > _LONGEST_DESCRIPTION:
            raise ValueError(f"it has over {_LONGEST_DESCRIPTION:,} letters")
        # A few aliases of aliases are gigabytes.
        aliases = (token for token in yaml.scan(text) if isinstance(token, yaml.AliasToken))
        if alias := next(aliases, None):
            remedy = "an alias (*) is not read: write out what it stands for"
            raise yaml.MarkedYAMLError(problem=remedy, problem_mark=alias.start_mark)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        location = f"{file}, line {mark.line + 1}" if mark else str(file)
        problem = getattr(error, "problem", None) or str(error).partition(";")[0]
        raise DataError(f"is not valid YAML: {problem}", location=location) from error
    if not isinstance(content, dict) or "names" not in content:
        raise DataError("names no classes", location=str(file), remedy="Add: names: [cat, dog]")
    bases = [file.parent, assembly.root]
    if isinstance(content.get("path"), str):
        bases = [file.parent / content["path"], *bases]
    images = {
        split_name(key): [
            image
            for written in (content[key] if isinstance(content[key], list) else [content[key]])
            for image in _images_at(assembly, str(written), bases, file)
        ]
        for key in _SPLIT_KEYS
        if content.get(key)
    }
    if not images:
        raise DataError("names neither train nor val", location=str(file))
    return _Plan(_class_names(content["names"], file), images)


def _class_names(names: Any, file: Path) -> tuple[str, ...]:
    if isinstance(names, list):
        return tuple(str(name) for name in names)
    if isinstance(names, dict) and all(isinstance(key, int) and key >= 0 for key in names):
        size = max(names, default=-1) + 1
        if size > 2 * len(names) + 1000:
            raise DataError(
                f"class {size - 1} is far beyond {len(names)} names", location=str(file)
            )
        return tuple(str(names.get(number, number)) for number in range(size))
    raise DataError("names is neither a list nor a map from numbers", location=str(file))


def _images_at(
    assembly: Assembly, listed_at: str, bases: Sequence[Path], file: Path
) -> Iterator[tuple[str, str]]:
    """(path, where it is named) of the images in a folder or in a list file."""
    # Some exporters write ../train/images in a file that lies beside train.
    spellings = [listed_at, listed_at.removeprefix("../")]
    paths = [(base / spelling).absolute() for spelling in spellings for base in bases]
    images_at = next((path for path in paths if is_so(path.exists)), None)
    if images_at is None:
        message = f"'{listed_at}' does not exist"
        assembly.problems.at(file.name).error(Oddity.MISSING_IMAGE, message)
    elif images_at.is_dir():
        yield from ((path, path) for path in image_paths_below(images_at.as_posix()))
    else:
        folders = [base.absolute().as_posix() for base in (images_at.parent, *bases)]
        for number, line in numbered_lines(images_at):
            location = at_line(images_at, number)
            image = assembly.find_image(Path(line).as_posix(), folders, location)
            if image is not None:
                yield image, location


def _plan_of_folder(root: Path) -> _Plan:
    """Splits are `train/images` or `images/train`; else there is one."""
    named = next((root / name for name in _NAME_FILES if (root / name).is_file()), None)
    if named is None:
        raise DataError(
            "there is neither data.yaml nor classes.txt",
            location=str(root),
            remedy="Add classes.txt with one class name a line",
        )
    names = tuple(line for _, line in numbered_lines(named))
    splits = {name: root / name / "images" for name in subfolders(str(root))}
    splits |= {name: root / "images" / name for name in subfolders(str(root / "images"))}
    folders = {split_name(n): f for n, f in splits.items() if split_name(n) in _SPLIT_KEYS}
    if not any(folder.is_dir() for folder in folders.values()):
        folders = {ALL: root / "images" if (root / "images").is_dir() else root}
    images = {
        split: [(path, path) for path in image_paths_below(folder.absolute().as_posix())]
        for split, folder in folders.items()
        if folder.is_dir()
    }
    return _Plan(names, images)


def _report_stray_labels(assembly: Assembly, used: set[str]) -> None:
    """Label files beside those that were used which belong to no image."""
    images_beside = {label.rpartition("/")[0] for label in used}
    for folder in sorted(images_beside):
        names = assembly.files.names(folder)
        if any(map(is_image_name, names)):
            continue  # labels lie beside the images, with other text files
        for name in sorted(names):
            path = f"{folder}/{name}"
            if name.endswith(".txt") and name not in _NAME_FILES and path not in used:
                problems = assembly.problems.at(assembly.name_of(path))
                problems.error(Oddity.LABEL_FOR_NO_IMAGE, "there is no image for it")
