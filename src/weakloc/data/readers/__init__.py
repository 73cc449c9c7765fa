"""A path in, a data set out: its layout, classes, samples of every split, and all that was odd.

Each layout is a module with one function `(path, labels, options) -> DataSet`; its docstring says
what the layout means. Installed packages add layouts by the group `weakloc.readers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

from weakloc.data.readers.assembly import SPLIT_NAMES
from weakloc.data.readers.coco import read_coco
from weakloc.data.readers.file_tree import file_names, is_image_name, subfolders
from weakloc.data.readers.folders import read_folders, split_of_list
from weakloc.data.readers.review import find_reviews, is_review, read_review_data
from weakloc.data.readers.shards import SHARD_SUFFIXES, read_shards
from weakloc.data.readers.table import METADATA_NAMES, TABLE_SUFFIXES, read_table
from weakloc.data.readers.tiny_imagenet import read_tiny_imagenet
from weakloc.data.readers.voc import is_voc, read_voc
from weakloc.data.readers.wsol import is_metadata, read_wsol
from weakloc.data.readers.yolo import read_yolo
from weakloc.errors import DataError
from weakloc.extensions import Choices, require_known
from weakloc.files import UNFINISHED, path_of
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet

__all__ = ["READERS", "detect_layout", "raise_if_strict", "read_data_set"]

Reader: TypeAlias = Callable[[Path, Path | None, ReaderOptions], DataSet]

READERS: Mapping[str, Reader] = Choices(
    "readers",
    {
        "folders": read_folders,
        "table": read_table,
        "voc": read_voc,
        "coco": read_coco,
        "yolo": read_yolo,
        "tiny_imagenet": read_tiny_imagenet,
        "wsol": read_wsol,
        "shards": read_shards,
        "review": read_review_data,
    },
)

_NO_CLASSES = frozenset({"images", "image", "img", "imgs", "jpegimages", "annotations", "labels"})
_BESIDE_CLASSES = _NO_CLASSES.union(
    ("masks", "mask", "label", "annotation", "segmentation", "ground_truth")
)
_FEW = 64  # class folders, which show whether they are any
_MAX_DEPTH = 4  # how far down class folders are looked for
_COCO_KEYS = (b'"images"', b'"categories"')
_LAYOUT_OF_SUFFIX = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".txt": "table"}


def read_data_set(
    path: str | Path,
    *,
    layout: str | None = None,
    labels: str | Path | None = None,
    options: ReaderOptions,
) -> DataSet:
    """Reads `path` (and the labels, where they lie elsewhere) in the given or detected layout."""
    root = path_of(path).absolute()
    label_place = path_of(labels).absolute() if labels is not None else None
    for named in (root, label_place):
        if named is not None and not named.exists() and "{" not in named.name:
            raise DataError("there is no such file or folder", location=str(named))
    if (root / UNFINISHED).exists():
        remedy = "The command that was stopped while it wrote it finishes it when given again"
        raise DataError("is not finished", location=str(root), remedy=remedy)
    chosen = layout or detect_layout(root, label_place)
    require_known("readers", chosen, f"there is no layout {chosen!r}")
    return READERS[chosen](root, label_place, options)


def raise_if_strict(data_set: DataSet) -> None:
    """An error that names the first problem, where there is any beyond notes."""
    grave = [problem for problem in data_set.problems if problem.severity != "note"]
    if not grave:
        return
    first = next((p for p in grave if p.severity == "error"), grave[0])
    others = f" ({len(grave) - 1} more problems)" if len(grave) > 1 else ""
    raise DataError(f"{first.kind}: {first.message}{others}", location=first.location)


def detect_layout(path: Path, labels: Path | None) -> str:
    """The layout of a data set; the label file decides where there is one."""
    shown = labels or path
    if not shown.exists():  # a pattern in braces
        return "shards"
    if shown.is_file():
        return _layout_of_file(shown)
    listing = _Listing.of(shown)
    # Tables often lie beside the material of another layout, which then says more.
    for stage in (_OWN_STRUCTURE, _METADATA, _LOOSE):
        layouts = [layout for layout, fits in stage.items() if fits(listing)]
        if len(layouts) > 1:
            raise DataError(
                f"fits several layouts: {', '.join(layouts)}",
                location=str(shown),
                remedy="Name the layout that is meant",
            )
        if layouts == ["folders"]:
            _require_classes(listing)
        if layouts:
            return layouts[0]
    raise DataError(
        "no known layout was found; looked for class folders with images, a CSV, TSV, JSONL or "
        "Parquet table, Annotations (VOC), instance JSON files (COCO), data.yaml (YOLO), wnids.txt "
        "(Tiny ImageNet), image_ids.txt (wsolevaluation) and tar shards",
        location=str(shown),
        remedy="Name the layout, or give a label file",
    )


def _require_classes(listing: _Listing) -> None:
    """An error where the folders that hold images are arranged by something else than classes."""
    remedy = "Name the layout (--layout folders) where each folder with images is a class"
    for name in islice(listing.files, 1, _FEW + 1):
        inner = _Listing.of(listing.path / name)
        known = (layout for layout, fits in {**_OWN_STRUCTURE, **_METADATA}.items() if fits(inner))
        layout = "folders" if "train" in inner.files else next(known, None)
        if layout is not None:
            reason = f"holds no class folders, but a data set ({layout}) in {name}"
            raise DataError(reason, location=str(listing.path), remedy=f"Give that. {remedy}")
    folders = islice(_class_folders(listing.path, _MAX_DEPTH), _FEW)
    for parts in (folder.relative_to(listing.path).parts for folder in folders):
        is_listed = any(map(split_of_list, listing.files[""]))  # as of MIT67, in Images
        for part in parts[is_listed:]:
            name = part.lower()
            numbered = re.sub(r"[-_ ]?\d+$", "", name)
            if numbered in _BESIDE_CLASSES or (numbered in SPLIT_NAMES and name != numbered):
                reason = f"holds images in {'/'.join(parts)}, and {part} is no name of a class"
                raise DataError(
                    reason,
                    location=str(listing.path),
                    remedy=f"Give the folder whose folders are classes, or --labels. {remedy}",
                )


def _layout_of_file(labels: Path) -> str:
    if labels.name.lower().endswith(SHARD_SUFFIXES):
        return "shards"
    kinds = dict.fromkeys(TABLE_SUFFIXES, "table") | _LAYOUT_OF_SUFFIX
    suffix = labels.suffix.lower()
    if suffix not in kinds:
        raise DataError(
            f"label files end in {', '.join(sorted(kinds))}, not in '{suffix}'",
            location=str(labels),
            remedy="Rename it, or name the layout",
        )
    return "review" if suffix == ".json" and is_review(labels) else kinds[suffix]


def _is_coco(listing: _Listing) -> bool:
    if listing.has(r".*\.json", "annotations"):
        return True
    if any(listing.has(r"_annotations\.coco\.json", folder) for folder in listing.files):
        return True
    names = [name for name in listing.files[""] if name.lower().endswith(".json")]
    contents = ((listing.path / name).read_bytes() for name in names[:_FEW])
    return any(all(key in content for key in _COCO_KEYS) for content in contents)


def _is_yolo(listing: _Listing) -> bool:
    if listing.has(r"data\.ya?ml"):
        return True
    described = [n for n in listing.files[""] if n.lower().endswith((".yaml", ".yml"))]
    if any(re.search(rb"^names\s*:", (listing.path / n).read_bytes(), re.M) for n in described):
        return True
    has_labels = any((listing.path / folder / "labels").is_dir() for folder in listing.files)
    has_names = listing.has(r"classes\.txt|obj\.names")
    return has_names and (has_labels or any(map(is_image_name, listing.files[""])))


def _is_table(listing: _Listing) -> bool:
    return any(Path(name).suffix.lower() in TABLE_SUFFIXES for name in listing.files[""])


def _class_folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folders below this one with images whose names may be those of classes."""
    for name in subfolders(str(folder)):
        is_class = name.lower() not in _NO_CLASSES and name.lower() not in SPLIT_NAMES
        if is_class and any(map(is_image_name, file_names(str(folder / name)))):
            yield folder / name
        if depth:
            yield from _class_folders(folder / name, depth - 1)


@dataclass(frozen=True, slots=True)
class _Listing:
    """The names in a folder, which is "" itself, and in the folders right below it."""

    path: Path
    files: Mapping[str, tuple[str, ...]]  # by their folder

    @classmethod
    def of(cls, path: Path) -> _Listing:
        folders = ("", *subfolders(str(path)))
        return cls(path, {folder: file_names(str(path / folder)) for folder in folders})

    def has(self, pattern: str, folder: str = "") -> bool:
        names = self.files.get(folder, ())
        return any(re.fullmatch(pattern, name, re.IGNORECASE) for name in names)


_OWN_STRUCTURE: Mapping[str, Callable[[_Listing], bool]] = {
    "voc": lambda listing: any(is_voc(listing.path / folder) for folder in listing.files),
    "coco": _is_coco,
    "yolo": _is_yolo,
    "tiny_imagenet": lambda listing: (
        listing.has(r"wnids\.txt") or listing.has(r"val_annotations\.txt", "val")
    ),
    "wsol": lambda listing: any(
        map(is_metadata, [listing.path, *(listing.path / "metadata").glob("[!.]*/")])
    ),
    "shards": lambda listing: any(
        name.lower().endswith(SHARD_SUFFIXES) for name in chain(*listing.files.values())
    ),
}
_METADATA: Mapping[str, Callable[[_Listing], bool]] = {
    "table": lambda listing: not METADATA_NAMES.isdisjoint(chain(*listing.files.values()))
}
_LOOSE: Mapping[str, Callable[[_Listing], bool]] = {
    "table": _is_table,
    # Beside a table a single folder is rather where its images are kept.
    "folders": lambda listing: (
        len(list(islice(_class_folders(listing.path, _MAX_DEPTH), 2)))
        >= (2 if _is_table(listing) else 1)
    ),
    "review": lambda listing: bool(find_reviews(listing.path)),
}
