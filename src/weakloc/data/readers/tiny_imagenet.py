"""Tiny ImageNet: `train/<id>/images`, `train/<id>/<id>_boxes.txt`, `val/val_annotations.txt`.

Classes come in the order of `wnids.txt` (else sorted) and carry the first of their words in
`words.txt` (else the id). Corners are 0-based and inclusive, images 64 x 64. The images of `test`
have no labels and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weakloc.data.readers.assembly import (
    IMAGE_WITHOUT_LABELS,
    LABEL_FOR_NO_IMAGE,
    UNKNOWN_CLASS,
    UNREADABLE_LABEL,
    Assembly,
    LabelClaim,
    Problems,
    usable_box,
)
from weakloc.data.readers.file_tree import file_names, is_image_name, subfolders
from weakloc.errors import DataError, did_you_mean
from weakloc.files import at_line, numbered_lines
from weakloc.geometry import BoxLTRB, box_from_inclusive
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet, Truth, TruthBox

IMAGE_SIZE = (64.0, 64.0)


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a boxes file: an image, its class id where given, its box where usable."""

    image: str
    class_id: str | None
    box: BoxLTRB | None
    location: str


def read_tiny_imagenet(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """Both labelled splits; the layout says everything, so `labels` is ignored."""
    del labels
    names = _class_names(path)
    for name in options.class_names or ():
        if name not in names.values():
            remedy = did_you_mean(name, names.values())
            raise DataError(f"there is no class '{name}'", where=str(path), remedy=remedy)
    chosen = options.class_names or tuple(names.values())
    assembly = Assembly(path, "tiny_imagenet", chosen, Problems())
    for class_id in subfolders(str(path / "train")):
        if class_id in names:
            _add_train_class(assembly, path, class_id, names[class_id])
        else:
            message = f"folder '{class_id}' is not in wnids.txt"
            assembly.problems.at(f"train/{class_id}").error(UNKNOWN_CLASS, message)
    _add_val(assembly, path, names)
    if unlabelled := file_names(str(path / "test" / "images")):
        message = f"{len(unlabelled)} images have no labels and are left out"
        assembly.problems.at("test/images").note(IMAGE_WITHOUT_LABELS, message)
    return assembly.finish()


def _class_names(root: Path) -> dict[str, str]:
    """Class id -> a name that no other class has."""
    if (root / "wnids.txt").exists():
        ids = list(dict.fromkeys(line for _, line in numbered_lines(root / "wnids.txt")))
    else:
        ids = list(subfolders(str(root / "train")))
    words: dict[str, str] = {}
    if (root / "words.txt").exists():
        known = frozenset(ids)
        for _, line in numbered_lines(root / "words.txt"):
            class_id, _, text = line.partition("\t")
            if class_id in known:
                words[class_id] = text.partition(",")[0].strip()
    first = [words.get(class_id) or class_id for class_id in ids]
    return {
        class_id: name if first.count(name) == 1 else f"{name} ({class_id})"
        for class_id, name in zip(ids, first, strict=True)
    }


def _add_train_class(assembly: Assembly, root: Path, class_id: str, class_name: str) -> None:
    folder = f"{root.as_posix()}/train/{class_id}/images"
    listed = _rows_by_image(assembly, root / "train" / class_id / f"{class_id}_boxes.txt")
    claim = LabelClaim(present=frozenset({class_name}))
    relative = f"train/{class_id}/images"
    index = assembly.class_index.get(class_name)
    for image in filter(is_image_name, file_names(folder)):
        rows = listed.pop(image, ())
        truth = _truth(rows, index)
        name = f"{relative}/{image}"
        assembly.add(name, f"{folder}/{image}", claim, split="train", location=name, truth=truth)
    _report_leftovers(assembly, listed)


def _add_val(assembly: Assembly, root: Path, names: dict[str, str]) -> None:
    folder = f"{root.as_posix()}/val/images"
    listed = _rows_by_image(assembly, root / "val" / "val_annotations.txt")
    for image in filter(is_image_name, file_names(folder)):
        name = f"val/images/{image}"
        rows = listed.pop(image, ())
        known = [row for row in rows if row.class_id in names]
        if not known:
            assembly.problems.at(name).warning(
                IMAGE_WITHOUT_LABELS, "no class is given for it; left out"
            )
            continue
        class_name = names[known[0].class_id or ""]
        assembly.add(
            name,
            f"{folder}/{image}",
            LabelClaim(present=frozenset({class_name})),
            split="val",
            location=known[0].location,
            truth=_truth(tuple(known), assembly.class_index.get(class_name)),
        )
    _report_leftovers(assembly, listed)


def _rows_by_image(assembly: Assembly, path: Path) -> dict[str, tuple[_Row, ...]]:
    if not path.exists():
        return {}
    listed: dict[str, tuple[_Row, ...]] = {}
    for row in _rows(path, assembly.problems):
        listed[row.image] = (*listed.get(row.image, ()), row)
    return listed


def _rows(path: Path, problems: Problems) -> Iterator[_Row]:
    for number, line in numbered_lines(path):
        location = at_line(path, number)
        image, *rest = line.split("\t")
        class_id = rest.pop(0) if len(rest) == 5 else None
        try:
            left, top, right, bottom = map(float, rest)
        except ValueError:
            message = f"{line!r} is not a name, a class and four corners"
            problems.at(location).error(UNREADABLE_LABEL, message)
            yield _Row(image, class_id, None, location)
            continue
        box = box_from_inclusive((left, top, right, bottom))
        yield _Row(
            image,
            class_id,
            usable_box(box, image_size=IMAGE_SIZE, problems=problems.at(location)),
            location,
        )


def _truth(rows: tuple[_Row, ...], class_index: int | None) -> Truth | None:
    if class_index is None:
        return None
    boxes = tuple(TruthBox(class_index, row.box) for row in rows if row.box is not None)
    return Truth(boxes) if boxes else None


def _report_leftovers(assembly: Assembly, listed: dict[str, tuple[_Row, ...]]) -> None:
    for image, rows in listed.items():
        assembly.problems.at(rows[0].location).error(
            LABEL_FOR_NO_IMAGE, f"image '{image}' does not exist"
        )
