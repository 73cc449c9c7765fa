"""predictions.jsonl -> the formats that annotation and training tools read.

Each exporter is one function: it takes a stream of selected predictions and a folder, writes
files whole or not at all, and gives back the path to point a tool at. Installed packages add
formats by the group `weakloc.exporters`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from weakloc.extensions import Choices, require_known
from weakloc.files import ByName, only_writer, remove_unfinished
from weakloc.output.exporters.coco import export_coco_instances, export_coco_results, export_splits
from weakloc.output.exporters.cvat import export_cvat
from weakloc.output.exporters.fiftyone import export_fiftyone
from weakloc.output.exporters.jsonl import (
    export_csv,
    export_jsonl,
    read_predictions,
    write_predictions,
)
from weakloc.output.exporters.label_studio import export_label_studio
from weakloc.output.exporters.labelme import export_labelme
from weakloc.output.exporters.parquet import export_parquet, parquet_columns
from weakloc.output.exporters.selection import Content, selected
from weakloc.output.exporters.voc import export_voc_boxes, export_voc_masks, export_voc_results
from weakloc.output.exporters.yolo import export_yolo_boxes, export_yolo_polygons
from weakloc.output.settings import ExportOptions

__all__ = [
    "EXPORTERS",
    "Content",
    "ExportOptions",
    "Exporter",
    "check_formats",
    "export_all",
    "export_format",
    "read_predictions",
    "write_predictions",
]


Exporter: TypeAlias = Callable[[Content, Path], Path]
EXPORTERS: Mapping[str, Exporter] = Choices(
    "exporters",
    {
        "jsonl": export_jsonl,
        "coco": export_coco_instances,
        "coco-splits": export_splits,
        "coco-results": export_coco_results,
        "yolo": export_yolo_boxes,
        "yolo-segmentation": export_yolo_polygons,
        "voc": export_voc_boxes,
        "voc-segmentation": export_voc_masks,
        "voc-results": export_voc_results,
        "label-studio": export_label_studio,
        "cvat": export_cvat,
        "fiftyone": export_fiftyone,
        "labelme": export_labelme,
        "csv": export_csv,
        "parquet": export_parquet,
    },
)


def check_formats(names: Iterable[str]) -> None:
    for name in names:
        require_known("exporters", name, f"--format is {name!r}")
        if name == "parquet":
            parquet_columns()  # refused before anything is predicted, where pyarrow is missing


def export_all(
    predictions_file: Path,
    formats: Sequence[str],
    out: Path,
    *,
    class_names: Sequence[str],
    image_root: Path | None = None,
    options: ExportOptions,
    groups: ByName[str] | None = None,
) -> dict[str, Path]:
    """Every format into the folder of its name, reading the predictions once for each."""
    check_formats(formats)
    content = Content((), class_names, image_root, options, groups)
    return {
        name: export_format(
            name, replace(content, predictions=read_predictions(predictions_file)), out / name
        )
        for name in dict.fromkeys(formats)
    }


def export_format(name: str, content: Content, out: Path) -> Path:
    """One format of what is selected into a folder, and where to point a tool."""
    chosen = selected(content.predictions, class_names=content.class_names, options=content.options)
    with only_writer(out):
        remove_unfinished(out.rglob(".*"))
        return EXPORTERS[name](replace(content, predictions=chosen), out)
