"""Class folders: `root/cat/1.jpg`, or with splits `root/train/cat/1.jpg`.

A folder that holds images is a class, named by its path below the root (or split) with forward
slashes: `animals/cat` where `animals` holds only folders. Folders below a class folder belong to
that class. Each image has its own class and none of the others.

Lists beside the class folders (`train.txt`, MIT67's `TrainImages.txt`) with a line `cat/1.jpg` for
each image are the splits; what none of them names is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from weakloc.data.readers.assembly import (
    ALL,
    SPLIT_NAMES,
    Assembly,
    LabelClaim,
    Oddity,
    Problems,
    split_name,
)
from weakloc.data.readers.file_tree import (
    ImageFolder,
    file_names,
    image_folders,
    image_paths_below,
    is_image_name,
    join,
    subfolders,
)
from weakloc.files import at_line, numbered_lines
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet


def read_folders(path: Path, _labels: Path | None, options: ReaderOptions) -> DataSet:
    """The class folders below a path; there is no label file."""
    folders = list(image_folders(path.as_posix()))
    assembly = Assembly(path, "folders", options)
    has_splits = _has_splits(folders, assembly.problems.at(path.as_posix()))
    lists = {} if has_splits else _lists(assembly)
    if lists:
        _add_listed(assembly, lists)
        return assembly.finish()
    parts = (
        folder.relative.partition("/") if has_splits else (ALL, "", folder.relative)
        for folder in folders
    )
    placed = [(split_name(first), below) for first, _, below in parts]
    holding = {
        below for folder, (_, below) in zip(folders, placed, strict=True) if folder.image_names
    }
    holding.discard("")
    class_of: dict[str, str | None] = {}
    for _, below in placed:  # the shallowest folder on the way down that holds images in some split
        on_the_way = accumulate(below.split("/"), "{}/{}".format)
        class_of[below] = next((folder for folder in on_the_way if folder in holding), None)
    assembly.set_classes(sorted(set(filter(None, class_of.values()))))
    for folder, (split, below) in zip(folders, placed, strict=True):
        _add_folder(assembly, folder, split, class_of[below])
    return assembly.finish()


def _lists(assembly: Assembly) -> dict[str, list[tuple[str, str]]]:
    """Split -> (image below the folder of the classes, where it is listed)."""
    lists: dict[str, list[tuple[str, str]]] = {}
    for name in file_names(str(assembly.root)):
        split = split_of_list(name)
        lines = numbered_lines(assembly.root / name) if split else ()
        listed = [(_image_of(line), at_line(Path(name), number)) for number, line in lines]
        if split and any(is_image_name(i) and "/" in i.lstrip("/") for i, _ in listed):
            lists[split] = listed
    return lists


def split_of_list(name: str) -> str | None:
    """train of train.txt, train_list.txt and TrainImages.txt."""
    return SPLIT_NAMES.get(re.sub(r"[-_ ]?(images|list)?\.txt$", "", name.lower()))


def _image_of(line: str) -> str:
    """The image of a line, which may name a number of its class after it."""
    image = line.replace("\\", "/").removeprefix("./")
    return image if is_image_name(image) else re.sub(r"[\s,]+\d+$", "", image)


def _add_listed(assembly: Assembly, lists: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """The images of lists, which name them from the root or from a folder in it."""
    root = assembly.root
    images = [image for listed in lists.values() for image, _ in listed]
    bases = [root, *(root / name for name in subfolders(str(root)))]
    base = assembly.image_folder(bases, images, str(root))
    assembly.set_classes(sorted(filter(None, {image.rpartition("/")[0] for image in images})))
    for split, listed in lists.items():
        for image, location in listed:
            class_name = image.rpartition("/")[0]
            if not class_name:
                message = f"'{image}' is in no class folder"
                assembly.problems.at(location).error(Oddity.UNREADABLE_LABEL, message)
            elif path := assembly.find_image(image, [base], location):
                claim = LabelClaim.showing(class_name)
                assembly.add(assembly.name_of(path), path, claim, split=split, location=location)
    assembly.note_unlisted(image_paths_below(base))


def _has_splits(folders: Sequence[ImageFolder], problems: Problems) -> bool:
    """Whether all folders of the first level that lead to images are splits of class folders."""
    filled = [folder.relative for folder in folders if folder.image_names]
    first_levels = {relative.partition("/")[0] for relative in filled if relative}
    flat = {relative for relative in filled if "/" not in relative}
    splits = {name for name in first_levels - flat if name.lower() in SPLIT_NAMES}
    if splits and splits != first_levels:
        others = ", ".join(sorted(first_levels - splits)[:5])
        message = f"{', '.join(sorted(splits))} are read as groups of classes because of {others}"
        problems.warning(Oddity.NOT_A_CLASS, message)
    return bool(splits) and splits == first_levels


def _add_folder(
    assembly: Assembly, folder: ImageFolder, split: str, class_name: str | None
) -> None:
    for name in folder.dangling_names:
        message = "is a link to a file that is missing, or a folder that cannot be listed"
        assembly.problems.at(join(folder.relative, name)).error(Oddity.MISSING_IMAGE, message)
    if class_name is None:
        if folder.image_names:
            message = f"{len(folder.image_names)} images lie in no class folder and are left out"
            assembly.problems.at(folder.relative or ".").warning(
                Oddity.IMAGE_WITHOUT_LABELS, message
            )
        return
    claim = LabelClaim.showing(class_name)
    for name in folder.image_names:
        relative = join(folder.relative, name)
        assembly.add(relative, f"{folder.path}/{name}", claim, split=split, location=relative)
