"""A path in, a data set out: classes, samples of every split, and everything that was odd.

Each layout is a module with one function `(path, labels, options) -> DataSet`; its docstring says
what the layout means. Installed packages add layouts by the group `weakloc.readers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from weakloc.data.readers.assembly import ReaderOptions
from weakloc.data.readers.coco import read_coco
from weakloc.data.readers.detection import detect_layout
from weakloc.data.readers.folders import read_folders
from weakloc.data.readers.review import read_review_data
from weakloc.data.readers.shards import read_shards
from weakloc.data.readers.table import read_table
from weakloc.data.readers.tiny_imagenet import read_tiny_imagenet
from weakloc.data.readers.voc import read_voc
from weakloc.data.readers.wsol import read_wsol
from weakloc.data.readers.yolo import read_yolo
from weakloc.errors import DataError, SettingError, did_you_mean
from weakloc.extensions import Choices
from weakloc.structures import DataSet

__all__ = ["READERS", "ReaderOptions", "detect_layout", "raise_if_strict", "read_data_set"]

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


def read_data_set(
    path: str | Path,
    *,
    layout: str | None = None,
    labels: str | Path | None = None,
    options: ReaderOptions,
) -> DataSet:
    """Reads `path` (and the labels, where they lie elsewhere) in the given or detected layout."""
    root = Path(path).absolute()
    label_place = Path(labels).absolute() if labels is not None else None
    for named in (root, label_place):
        if named is not None and not named.exists() and "{" not in named.name:
            raise DataError("there is no such file or folder", where=str(named))
    chosen = layout or detect_layout(root, label_place)
    if chosen not in READERS:
        raise SettingError(f"there is no layout '{chosen}'", remedy=did_you_mean(chosen, READERS))
    return READERS[chosen](root, label_place, options)


def raise_if_strict(data_set: DataSet) -> None:
    """An error that names the first problem, where there is any beyond notes."""
    grave = [problem for problem in data_set.problems if problem.severity != "note"]
    if not grave:
        return
    first = next((p for p in grave if p.severity == "error"), grave[0])
    others = f" ({len(grave) - 1} more problems)" if len(grave) > 1 else ""
    raise DataError(f"{first.kind}: {first.message}{others}", where=first.where)
