"""The metadata folder of wsolevaluation: `<split>/image_ids.txt`, `class_labels.txt` and so on.

The folder is given as labels, or found in the data folder as itself or as `metadata/<name>`.
Classes are numbers; they are named by the folder of their images where each has one of its own,
else by the number. Boxes count both corners in, as the evaluator of that project does. Masks are
read when asked for, in their own resolution; their ignore masks become crowd masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weakloc.data.readers.assembly import (
    DUPLICATE_LABEL,
    IMAGE_WITHOUT_LABELS,
    LABEL_FOR_NO_IMAGE,
    MISSING_IMAGE,
    NOTHING_KNOWN,
    UNREADABLE_BOX,
    UNREADABLE_LABEL,
    UNREADABLE_MASK,
    Assembly,
    LabelClaim,
    MaskFileRle,
    Problems,
    chosen_classes,
    drawn_truth,
    split_name,
    usable_box,
)
from weakloc.data.readers.file_tree import FileIndex, subfolders
from weakloc.errors import DataError
from weakloc.files import numbered_lines
from weakloc.geometry import BoxLTRB, box_from_inclusive
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet, Truth, TruthBox, TruthMask


@dataclass(frozen=True, slots=True)
class _Split:
    """The lists of one split; images are named by their ids."""

    name: str
    images: Mapping[str, str]  # id -> where it is listed
    classes: Mapping[str, frozenset[int]]
    drawn: Mapping[str, Sequence[tuple[tuple[str, ...], str]]]  # id -> (cells, where)
    sizes: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def read_wsol(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """All splits of a metadata folder, with the images below `path`."""
    metadata = find_metadata(labels or path)
    problems = Problems()
    names = [n for n in subfolders(str(metadata)) if (metadata / n / "image_ids.txt").is_file()]
    splits = [_read_split(metadata / name, problems) for name in names]
    index = FileIndex()
    folder = _image_folder(path, metadata, splits, options.image_root, index)
    names_of = _class_names(splits, options)
    assembly = Assembly(path, "wsol", chosen_classes(names_of.values(), options), problems)
    for split in splits:
        _add_split(assembly, split, folder=folder, names_of=names_of, index=index)
    return assembly.finish()


def find_metadata(folder: Path) -> Path:
    """The folder that holds the splits."""
    if _is_metadata(folder):
        return folder
    for parent in (folder / "metadata", folder):
        inner = [parent / name for name in subfolders(str(parent)) if _is_metadata(parent / name)]
        if len(inner) > 1:
            raise DataError(
                f"holds metadata of several data sets: {', '.join(f.name for f in inner)}",
                where=str(parent),
                remedy="Name one of the folders as labels",
            )
        if inner:
            return inner[0]
    raise DataError("holds no <split>/image_ids.txt", where=str(folder))


def _is_metadata(folder: Path) -> bool:
    return any((folder / n / "image_ids.txt").is_file() for n in subfolders(str(folder)))


def _read_split(folder: Path, problems: Problems) -> _Split:
    images: dict[str, str] = {}
    for location, (image,) in _records(folder / "image_ids.txt", lambda _: 1, problems):
        if image in images:
            problems.at(location).warning("duplicate image", f"'{image}' is listed again")
        images.setdefault(image, location)
    classes: dict[str, frozenset[int]] = {}
    for location, (image, written) in _records(folder / "class_labels.txt", lambda _: 2, problems):
        if not written.strip().isdecimal():
            message = f"class '{written}' is not a number from 0"
            problems.at(location).error(UNREADABLE_LABEL, message)
        elif image not in images:
            message = f"'{image}' is not in image_ids.txt"
            problems.at(location).error(LABEL_FOR_NO_IMAGE, message)
        elif int(written) in classes.get(image, ()):
            problems.at(location).warning(DUPLICATE_LABEL, f"'{image}' is repeated")
        else:
            classes[image] = classes.get(image, frozenset()) | {int(written)}
    drawn: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for location, (image, *cells) in _records(folder / "localization.txt", _drawn_width, problems):
        if image in images:
            drawn.setdefault(image, []).append((tuple(cells), location))
        else:
            message = f"'{image}' is not in image_ids.txt"
            problems.at(location).error(LABEL_FOR_NO_IMAGE, message)
    sizes = _sizes(folder / "image_sizes.txt", problems)
    return _Split(split_name(folder.name), images, classes, drawn, sizes)


def _records(
    path: Path, width_of: Callable[[str], int], problems: Problems
) -> Iterator[tuple[str, list[str]]]:
    """(where, cells) of the lines; an image id may hold commas, the cells behind it do not."""
    if not path.is_file():
        return
    file = f"{path.parent.name}/{path.name}"
    for number, line in numbered_lines(path):
        width = width_of(line)
        cells = line.rsplit(",", width - 1)
        if len(cells) == width:
            yield f"{file}, line {number}", cells
        else:
            message = f"{line!r} has {len(cells)} of {width} cells"
            problems.at(f"{file}, line {number}").error(UNREADABLE_LABEL, message)


def _drawn_width(line: str) -> int:
    """Five cells for a box, three for a mask with its ignore mask."""
    last = line.rpartition(",")[2].strip().lstrip("-")
    return 5 if last.replace(".", "", 1).isdecimal() else 3


def _sizes(path: Path, problems: Problems) -> dict[str, tuple[float, float]]:
    sizes: dict[str, tuple[float, float]] = {}
    for location, (image, *sides) in _records(path, lambda _: 3, problems):
        try:
            sizes[image] = (float(sides[0]), float(sides[1]))
        except ValueError:
            message = f"{sides} is not a width and a height"
            problems.at(location).error(UNREADABLE_LABEL, message)
    return sizes


def _image_folder(
    path: Path,
    metadata: Path,
    splits: Sequence[_Split],
    image_root: str | None,
    index: FileIndex,
) -> str:
    """The folder that the ids are relative to: the one with the most of the first of them."""
    name = metadata.name
    folders = [path, path / name, path / "dataset" / name, path / "data" / name]
    if image_root is not None:
        folders = [Path(image_root)]
    probes = [image for split in splits for image in list(split.images)[:20]]
    chosen, num_hits = index.best_folder(folders, probes)
    if not num_hits and probes:
        looked_in = ", ".join(folder.absolute().as_posix() for folder in folders)
        raise DataError(
            f"none of its images was found, such as '{probes[0]}'",
            where=str(metadata),
            remedy=f"Looked in {looked_in}; say which folder they are in (image_root)",
        )
    return chosen


def _class_names(splits: Sequence[_Split], options: ReaderOptions) -> dict[int, str]:
    """Class number -> name."""
    numbers = [n for split in splits for classes in split.classes.values() for n in classes]
    size = max(numbers, default=-1) + 1
    if options.class_names is not None:
        names = dict(enumerate(options.class_names))
        return names | {n: str(n) for n in numbers if n >= len(names)}
    folders: dict[int, set[str]] = {}
    for split in splits:
        for image, classes in split.classes.items():
            for number in classes:
                folders.setdefault(number, set()).add(image.rpartition("/")[0].rpartition("/")[2])
    single = {number: next(iter(f)) for number, f in folders.items() if len(f) == 1}
    if len(set(single.values())) == len(folders) and all(single.values()):
        return {number: single.get(number, str(number)) for number in range(size)}
    return {number: str(number) for number in range(size)}


def _add_split(
    assembly: Assembly,
    split: _Split,
    *,
    folder: str,
    names_of: Mapping[int, str],
    index: FileIndex,
) -> None:
    for image, location in split.images.items():
        path = index.resolve(f"{folder}/{image}")
        if path is None:
            assembly.problems.at(location).error(MISSING_IMAGE, f"'{image}' does not exist")
            continue
        classes = split.classes.get(image)
        if classes is None:
            assembly.problems.at(location).warning(
                IMAGE_WITHOUT_LABELS, f"'{image}' is not in class_labels.txt"
            )
            claim = NOTHING_KNOWN
        else:
            claim = LabelClaim(present=frozenset(names_of[number] for number in classes))
        indices = [assembly.class_index.get(names_of[number]) for number in classes or ()]
        known = [i for i in indices if i is not None]
        truth = None
        if len(known) == 1:
            truth = _truth(assembly, split, image, known[0], folder=folder, index=index)
        name = assembly.name_of(path)
        assembly.add(name, path, claim, split=split.name, location=location, truth=truth)


def _truth(
    assembly: Assembly,
    split: _Split,
    image: str,
    class_index: int,
    *,
    folder: str,
    index: FileIndex,
) -> Truth | None:
    """What is drawn of the one class that the image has."""
    boxes: list[TruthBox] = []
    masks: list[TruthMask] = []
    for cells, location in split.drawn.get(image, ()):
        if len(cells) == 4:
            box = _box(cells, split.sizes.get(image), assembly.problems.at(location))
            if box is not None:
                boxes.append(TruthBox(class_index, box))
            continue
        for mask, crowd in ((cells[0].strip(), False), (cells[1].strip(), True)):
            path = index.resolve(f"{folder}/{mask}") if mask else None
            if path is not None:
                masks.append(TruthMask(class_index, MaskFileRle(path), crowd=crowd))
            elif mask:
                assembly.problems.at(location).warning(
                    UNREADABLE_MASK, f"mask '{mask}' does not exist"
                )
    return drawn_truth(boxes, masks)


def _box(
    cells: Sequence[str],
    size: tuple[float, float] | None,
    problems: Problems,
) -> BoxLTRB | None:
    try:
        left, top, right, bottom = (float(cell) for cell in cells)
    except ValueError:
        problems.warning(UNREADABLE_BOX, f"{cells} are not four corners")
        return None
    box = box_from_inclusive((left, top, right, bottom))
    return usable_box(box, image_size=size, problems=problems)
