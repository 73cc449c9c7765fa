"""The metadata folder of wsolevaluation: `<split>/image_ids.txt`, `class_labels.txt` and so on.

The folder is given as labels, or found in the data folder as itself or as `metadata/<name>`.
Classes are numbers; they are named by the folder of their images where each has one of its own,
else by the number. Boxes count both corners in, as the evaluator of that project does. Masks are
read when asked for, in their own resolution; their ignore masks become crowd masks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakloc.data.readers.assembly import (
    MOST_CLASSES,
    NOTHING_KNOWN,
    Assembly,
    Drawn,
    LabelClaim,
    MaskFileRle,
    Oddity,
    Problems,
    read_box,
    split_name,
)
from weakloc.data.readers.file_tree import require_one, subfolders
from weakloc.errors import DataError
from weakloc.files import leads_out, numbered_lines
from weakloc.geometry import box_from_inclusive
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet

_CLASS = re.compile(r"\s*\d{1,9}\s*")
_ENDS_IN_NUMBER = re.compile(r",\s*-*(\d+\.?\d*|\.\d+)\s*$")


@dataclass(frozen=True, slots=True)
class _Split:
    """The lists of one split; images are named by their ids."""

    name: str
    images: Mapping[str, str]  # id -> where it is listed
    classes: Mapping[str, frozenset[int]]
    drawn: Mapping[str, Sequence[tuple[tuple[str, ...], str]]]  # id -> (cells, where)
    sizes: Mapping[str, tuple[float, float]]


def read_wsol(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """All splits of a metadata folder, with the images below `path`."""
    metadata = find_metadata(labels or path)
    assembly = Assembly(path, "wsol", options)
    names = [n for n in subfolders(str(metadata)) if (metadata / n / "image_ids.txt").is_file()]
    splits = [_read_split(metadata / name, assembly.problems) for name in names]
    name, root = metadata.name, assembly.root
    folders = [root, root / name, root / "dataset" / name, root / "data" / name]
    images = [image for split in splits for image in split.images]
    folder = assembly.image_folder(folders, images, str(metadata))
    names_of = _class_names(splits, options)
    assembly.set_classes(names_of.values())
    for split in splits:
        _add_split(assembly, split, folder, names_of)
    return assembly.finish()


def find_metadata(folder: Path) -> Path:
    """The folder that holds the splits."""
    if is_metadata(folder):
        return folder
    for parent in (folder / "metadata", folder):
        names = [name for name in subfolders(str(parent)) if is_metadata(parent / name)]
        require_one(names, "folders of metadata", parent, "Name one of them as labels")
        if names:
            return parent / names[0]
    raise DataError("holds no <split>/image_ids.txt", location=str(folder))


def is_metadata(folder: Path) -> bool:
    """Whether there are lists of splits in a folder."""
    return any((folder / n / "image_ids.txt").is_file() for n in subfolders(str(folder)))


def _read_split(folder: Path, problems: Problems) -> _Split:
    images: dict[str, str] = {}
    for location, (image,) in _records(folder / "image_ids.txt", lambda _: 1, problems):
        if image in images:
            problems.at(location).warning(Oddity.DUPLICATE_IMAGE, f"'{image}' is listed again")
        images.setdefault(image, location)
    classes: dict[str, frozenset[int]] = {}
    labelled = _records(folder / "class_labels.txt", lambda _: 2, problems, images)
    for location, (image, written) in labelled:
        if not _CLASS.fullmatch(written) or int(written) >= MOST_CLASSES:
            message = f"class '{written}' is not a number from 0 to {MOST_CLASSES - 1:,}"
            problems.at(location).error(Oddity.UNREADABLE_LABEL, message)
        elif int(written) in classes.get(image, ()):
            problems.at(location).warning(Oddity.DUPLICATE_LABEL, f"'{image}' is repeated")
        else:
            classes[image] = classes.get(image, frozenset()) | {int(written)}
    drawn: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    shapes = _records(
        folder / "localization.txt",
        lambda line: 5 if _ENDS_IN_NUMBER.search(line) else 3,  # a box, or two masks
        problems,
        images,
    )
    for location, (image, *cells) in shapes:
        drawn.setdefault(image, []).append((tuple(cells), location))
    sizes: dict[str, tuple[float, float]] = {}
    for location, (image, *sides) in _records(folder / "image_sizes.txt", lambda _: 3, problems):
        try:
            sizes[image] = (float(sides[0]), float(sides[1]))
        except ValueError:
            message = f"{sides} is not a width and a height"
            problems.at(location).error(Oddity.UNREADABLE_LABEL, message)
    return _Split(split_name(folder.name), images, classes, drawn, sizes)


def _records(
    path: Path,
    width_of: Callable[[str], int],
    problems: Problems,
    known: Container[str] | None = None,
) -> Iterator[tuple[str, list[str]]]:
    """(where, cells) of the lines; an image id may hold commas, the cells behind it do not."""
    if not path.is_file():
        return
    file = f"{path.parent.name}/{path.name}"
    for number, line in numbered_lines(path):
        width = width_of(line)
        cells = line.rsplit(",", width - 1)
        location = f"{file}, line {number}"
        if len(cells) < width:
            message = f"{line!r} has {len(cells)} of {width} cells"
            problems.at(location).error(Oddity.UNREADABLE_LABEL, message)
        elif known is not None and cells[0] not in known:
            message = f"'{cells[0]}' is not in image_ids.txt"
            problems.at(location).error(Oddity.LABEL_FOR_NO_IMAGE, message)
        else:
            yield location, cells


def _class_names(splits: Sequence[_Split], options: ReaderOptions) -> dict[int, str]:
    """Class number -> name."""
    folders: dict[int, set[str]] = {}
    for split in splits:
        for image, classes in split.classes.items():
            for number in classes:
                folders.setdefault(number, set()).add(image.rpartition("/")[0].rpartition("/")[2])
    names = {number: str(number) for number in range(max(folders, default=-1) + 1)}
    if options.class_names is not None:
        return names | dict(enumerate(options.class_names))
    single = {number: next(iter(f)) for number, f in folders.items() if len(f) == 1}
    are_names = len(set(single.values())) == len(folders) and all(single.values())
    return names | single if are_names else names


def _add_split(assembly: Assembly, split: _Split, folder: str, names_of: Mapping[int, str]) -> None:
    for image, location in split.images.items():
        path = assembly.find_image(image, [folder], location)
        if path is None:
            continue
        names = [names_of[number] for number in split.classes.get(image, ())]
        claim = LabelClaim.showing(*names) if names else NOTHING_KNOWN
        if not names:
            message = f"'{image}' is not in class_labels.txt"
            assembly.problems.at(location).warning(Oddity.IMAGE_WITHOUT_LABELS, message)
        chosen = [name for name in names if name in assembly.class_index]
        drawn = _drawn(assembly, split, image, chosen[0], folder) if len(chosen) == 1 else ()
        name = assembly.name_of(path)
        assembly.add(name, path, claim, split=split.name, location=location, drawn=drawn)


def _drawn(
    assembly: Assembly, split: _Split, image: str, class_name: str, folder: str
) -> Iterator[Drawn]:
    """What is drawn of the one class that the image has."""
    size = split.sizes.get(image)
    for cells, location in split.drawn.get(image, ()):
        problems = assembly.problems.at(location)
        if len(cells) == 4:
            box = read_box(cells, box_from_inclusive, image_size=size, problems=problems)
            yield Drawn(class_name, box)
            continue
        for mask, crowd in ((cells[0].strip(), False), (cells[1].strip(), True)):
            is_safe = bool(mask) and not leads_out(mask)
            path = assembly.files.resolve(f"{folder}/{mask}") if is_safe else None
            if path is not None:
                yield Drawn(class_name, None, MaskFileRle(path), crowd=crowd)
            elif mask:
                problems.warning(Oddity.UNREADABLE_MASK, f"mask '{mask}' does not exist")
