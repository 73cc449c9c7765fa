"""Tiny ImageNet: `train/<id>/images`, `train/<id>/<id>_boxes.txt`, `val/val_annotations.txt`.

Classes come in the order of `wnids.txt` (else sorted) and carry the first of their words in
`words.txt` (else the id). Corners are 0-based and inclusive, images 64 x 64. The images of `test`
have no labels and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weakloc.data.readers.assembly import Assembly, Drawn, LabelClaim, Oddity, read_box
from weakloc.data.readers.file_tree import file_names, is_image_name, subfolders
from weakloc.errors import DataError, did_you_mean
from weakloc.files import at_line, numbered_lines
from weakloc.geometry import BoxLTRB, box_from_inclusive
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet

IMAGE_SIZE = (64.0, 64.0)


@dataclass(frozen=True, slots=True)
class _Row:
    """What a line says of its image: a class id or "", and a box where it is usable."""

    class_id: str
    box: BoxLTRB | None
    location: str


def read_tiny_imagenet(path: Path, _labels: Path | None, options: ReaderOptions) -> DataSet:
    """Both labelled splits; the layout says everything."""
    names = _class_names(path)
    for name in options.class_names or ():
        if name not in names.values():
            remedy = did_you_mean(name, names.values())
            raise DataError(f"there is no class '{name}'", location=str(path), remedy=remedy)
    assembly = Assembly(path, "tiny_imagenet", options)
    assembly.set_classes(names.values())
    for class_id in subfolders(str(path / "train")):
        if class_id in names:
            folder = f"train/{class_id}"
            _add_images(assembly, folder, f"{class_id}_boxes.txt", names, class_id=class_id)
        else:
            message = f"folder '{class_id}' is not in wnids.txt"
            assembly.problems.at(f"train/{class_id}").error(Oddity.UNKNOWN_CLASS, message)
    _add_images(assembly, "val", "val_annotations.txt", names, class_id="")
    if unlabelled := file_names(str(path / "test" / "images")):
        message = f"{len(unlabelled)} images have no labels and are left out"
        assembly.problems.at("test/images").note(Oddity.IMAGE_WITHOUT_LABELS, message)
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


def _add_images(
    assembly: Assembly, folder: str, list_name: str, names: Mapping[str, str], class_id: str
) -> None:
    """The images of a folder, of the class with that id or, with "", of those in the list."""
    path = assembly.root / folder / list_name
    rows: dict[str, list[_Row]] = {}  # by image
    for number, line in numbered_lines(path) if path.exists() else ():
        problems = assembly.problems.at(at_line(path, number))
        image, *corners = line.split("\t")
        written = corners.pop(0) if len(corners) == 5 else ""
        box = read_box(corners, box_from_inclusive, image_size=IMAGE_SIZE, problems=problems)
        rows.setdefault(image, []).append(_Row(class_id or written, box, problems.location))
    for image in filter(is_image_name, file_names(f"{assembly.root}/{folder}/images")):
        name = f"{folder}/images/{image}"
        of_image = [row for row in rows.pop(image, ()) if row.class_id in names]
        if not class_id and not of_image:
            message = "no class is given for it; left out"
            assembly.problems.at(name).warning(Oddity.IMAGE_WITHOUT_LABELS, message)
            continue
        class_name = names[class_id or of_image[0].class_id]
        assembly.add(
            name,
            f"{assembly.root.as_posix()}/{name}",
            LabelClaim.showing(class_name),
            split=folder.partition("/")[0],
            location=name if class_id else of_image[0].location,
            drawn=[Drawn(class_name, row.box) for row in of_image],
        )
    for image, unused in rows.items():
        problems = assembly.problems.at(unused[0].location)
        problems.error(Oddity.LABEL_FOR_NO_IMAGE, f"image '{image}' does not exist")
