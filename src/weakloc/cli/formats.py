"""Flags of the commands that write other formats."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from cyclopts import Parameter

from weakloc.config import ExportOptions, flag_of
from weakloc.errors import SettingError

Filters = Annotated[ExportOptions, Parameter(name="*")]


@dataclass(frozen=True, kw_only=True)
class Formats:
    """What is written for other tools."""

    formats: Annotated[tuple[str, ...], Parameter(name="--format")] = ()
    """Write jsonl, coco, coco-results, yolo, yolo-segmentation, voc, voc-segmentation,
    label-studio, cvat, labelme or csv, each into a folder of its name; may be repeated."""

    def refuse_idle(self, filters: ExportOptions) -> None:
        """SettingError where filters are given, but nothing that they would filter."""
        changed = [
            flag_of(field.name)
            for field in fields(filters)
            if getattr(filters, field.name) != field.default
        ]
        if changed and not self.formats:
            raise SettingError(
                f"{' and '.join(changed)} would do nothing, as no --format is given",
                remedy="Say which, such as --format coco; predictions.jsonl keeps everything",
            )
