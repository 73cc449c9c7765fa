"""A path in, the name of its layout out; what fits several layouts is an error that lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from weakloc.data.readers.assembly import SPLIT_NAMES
from weakloc.data.readers.file_tree import file_names, is_image_name, subfolders
from weakloc.data.readers.review import find_reviews, is_review
from weakloc.data.readers.shard_members import SHARD_SUFFIXES
from weakloc.data.readers.table_rows import TABLE_SUFFIXES
from weakloc.data.readers.voc import is_voc
from weakloc.errors import DataError

_NO_CLASSES = frozenset({"images", "image", "img", "imgs", "jpegimages", "annotations", "labels"})
_MAX_DEPTH = 4  # how far down class folders are looked for
_COCO_KEYS = (b'"images"', b'"categories"')


@dataclass(frozen=True, slots=True)
class _Listing:
    """The names in a folder, and in the folders right below it."""

    path: Path
    files: tuple[str, ...]
    below: Mapping[str, tuple[str, ...]]  # subfolder -> its files

    def has_file(self, pattern: str) -> bool:
        return any(re.fullmatch(pattern, name, re.IGNORECASE) for name in self.files)

    def has_below(self, folder: str, pattern: str) -> bool:
        names = self.below.get(folder, ())
        return any(re.fullmatch(pattern, name, re.IGNORECASE) for name in names)


def detect_layout(path: Path, labels: Path | None) -> str:
    """The layout of a data set; the label file decides where there is one."""
    if labels is not None:
        return _layout_of_labels(labels)
    if path.is_file() or "{" in path.name:
        return _layout_of_labels(path)
    if not path.is_dir():
        raise DataError("there is no such file or folder", where=str(path))
    below = {name: file_names(str(path / name)) for name in subfolders(str(path))}
    listing = _Listing(path, file_names(str(path)), below)
    # Tables often lie beside the material of another layout, which then says more.
    for stage in (_OWN_STRUCTURE, _LOOSE):
        layouts = [layout for layout, fits in stage.items() if fits(listing)]
        if len(layouts) > 1:
            raise DataError(
                f"fits several layouts: {', '.join(layouts)}",
                where=str(path),
                remedy="Name the layout that is meant",
            )
        if layouts:
            return layouts[0]
    raise DataError(
        "no known layout was found; looked for class folders with images, a CSV, TSV or "
        "JSONL table, Annotations (VOC), instance JSON files (COCO), data.yaml (YOLO), wnids.txt "
        "(Tiny ImageNet), image_ids.txt (wsolevaluation) and tar shards",
        where=str(path),
        remedy="Name the layout, or give a label file",
    )


def _layout_of_labels(labels: Path) -> str:
    if "{" in labels.name and not labels.exists():
        return "shards"
    if not labels.exists():
        raise DataError("there is no such file or folder", where=str(labels))
    if labels.is_dir():
        return detect_layout(labels, None)
    if labels.name.lower().endswith(SHARD_SUFFIXES):
        return "shards"
    kinds = dict.fromkeys(TABLE_SUFFIXES, "table") | _LAYOUT_OF_SUFFIX
    suffix = labels.suffix.lower()
    if suffix not in kinds:
        raise DataError(
            f"label files end in {', '.join(sorted(kinds))}, not in '{suffix}'",
            where=str(labels),
            remedy="Rename it, or name the layout",
        )
    return "review" if suffix == ".json" and is_review(labels) else kinds[suffix]


_LAYOUT_OF_SUFFIX = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".txt": "table"}


def _is_coco(listing: _Listing) -> bool:
    if listing.has_below("annotations", r".*\.json"):
        return True
    if any(listing.has_below(name, r"_annotations\.coco\.json") for name in listing.below):
        return True
    names = [name for name in listing.files if name.lower().endswith(".json")]
    contents = ((listing.path / name).read_bytes() for name in names)
    return any(all(key in content for key in _COCO_KEYS) for content in contents)


def _is_yolo(listing: _Listing) -> bool:
    if listing.has_file(r"data\.ya?ml"):
        return True
    described = [n for n in listing.files if n.lower().endswith((".yaml", ".yml"))]
    if any(re.search(rb"^names\s*:", (listing.path / n).read_bytes(), re.M) for n in described):
        return True
    has_names = listing.has_file(r"classes\.txt|obj\.names")
    has_labels = "labels" in listing.below or any(
        (listing.path / name / "labels").is_dir() for name in listing.below
    )
    return has_names and (has_labels or any(map(is_image_name, listing.files)))


def _is_wsol(listing: _Listing) -> bool:
    folders = [listing.path / "metadata" / n for n in subfolders(str(listing.path / "metadata"))]
    return any(
        "image_ids.txt" in file_names(str(folder / name))
        for folder in (listing.path, *folders)
        for name in subfolders(str(folder))
    )


def _is_table(listing: _Listing) -> bool:
    return any(Path(name).suffix.lower() in TABLE_SUFFIXES for name in listing.files)


def _is_folders(listing: _Listing) -> bool:
    # Beside a table a single folder is rather where its images are kept.
    num_needed = 2 if _is_table(listing) else 1
    classes = (c for name in listing.below for c in _class_folders(listing.path / name, _MAX_DEPTH))
    return len(list(islice(classes, num_needed))) == num_needed


def _class_folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folders with images whose names may be those of classes, down from this one."""
    name = folder.name.lower()
    is_class = name not in _NO_CLASSES and name not in SPLIT_NAMES
    if is_class and any(map(is_image_name, file_names(str(folder)))):
        yield folder
    if depth:
        for inner in subfolders(str(folder)):
            yield from _class_folders(folder / inner, depth - 1)


_OWN_STRUCTURE: Mapping[str, Callable[[_Listing], bool]] = {
    "voc": lambda listing: any(
        map(is_voc, [listing.path, *(listing.path / name for name in listing.below)])
    ),
    "coco": _is_coco,
    "yolo": _is_yolo,
    "tiny_imagenet": lambda listing: (
        listing.has_file(r"wnids\.txt") or listing.has_below("val", r"val_annotations\.txt")
    ),
    "wsol": _is_wsol,
    "shards": lambda listing: any(
        name.lower().endswith(SHARD_SUFFIXES)
        for names in (listing.files, *listing.below.values())
        for name in names
    ),
}
_LOOSE: Mapping[str, Callable[[_Listing], bool]] = {
    "table": _is_table,
    "folders": _is_folders,
    "review": lambda listing: bool(find_reviews(listing.path)),
}
