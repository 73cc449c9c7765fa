"""predictions.jsonl -> the formats that annotation and training tools read.

Each exporter is one function: it takes a stream of predictions and a folder, writes files whole
or not at all, and gives back the path to point a tool at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from weakloc.errors import SettingError, did_you_mean
from weakloc.output.exporters import (
    coco,
    cvat,
    jsonl,
    label_studio,
    labelme,
    spreadsheet,
    voc,
    yolo,
)
from weakloc.output.exporters.heat_maps import write_heat_maps
from weakloc.output.exporters.jsonl import read_predictions, write_predictions
from weakloc.output.exporters.selection import ExportOptions
from weakloc.structures import Prediction

__all__ = [
    "EXPORTERS",
    "ExportOptions",
    "Exporter",
    "export_all",
    "read_predictions",
    "write_heat_maps",
    "write_predictions",
]


class Exporter(Protocol):
    """Anything that writes predictions into a folder and says where to look."""

    def __call__(
        self,
        predictions: Iterable[Prediction],
        out: Path,
        *,
        class_names: Sequence[str],
        image_root: Path | None,
        options: ExportOptions,
    ) -> Path: ...


EXPORTERS: Mapping[str, Exporter] = {
    "jsonl": jsonl.export,
    "coco": coco.export_instances,
    "coco-results": coco.export_results,
    "yolo": yolo.export_boxes,
    "yolo-segmentation": yolo.export_polygons,
    "voc": voc.export_boxes,
    "voc-segmentation": voc.export_masks,
    "label-studio": label_studio.export,
    "cvat": cvat.export,
    "labelme": labelme.export,
    "csv": spreadsheet.export,
}


def export_all(
    predictions_file: Path,
    formats: Sequence[str],
    out: Path,
    *,
    class_names: Sequence[str],
    image_root: Path | None = None,
    options: ExportOptions,
) -> dict[str, Path]:
    """Every format into the folder of its name, reading the predictions once for each."""
    for name in formats:
        if name not in EXPORTERS:
            raise SettingError(f"there is no format {name!r}", remedy=did_you_mean(name, EXPORTERS))
    return {
        name: EXPORTERS[name](
            read_predictions(predictions_file),
            out / name,
            class_names=class_names,
            image_root=image_root,
            options=options,
        )
        for name in dict.fromkeys(formats)
    }
