"""COCO: annotations/instances_predicted.json (with scores) and results.json.

Images are numbered from 1 in the order of the predictions, categories from 1 in the order of the
classes; both files use the same numbers. `mask_form="polygon"` writes one polygon for each
connected part, along the pixel borders; holes are cut by seams. An object without a mask has
an empty segmentation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakloc.files import open_whole
from weakloc.geometry import box_area, box_to_xywh
from weakloc.output.exporters.objects import (
    PlacedObject,
    Rle,
    mask_area,
    objects_of,
    outlines_of_rle,
)
from weakloc.output.exporters.selection import Content, ItemWriter, MaskForm, json_text, write_list


def export_coco_instances(content: Content, out: Path) -> Path:
    """A whole data set: what COCO calls instances, each with a score."""
    path = out / "annotations" / "instances_predicted.json"
    numbers = _category_numbers(content.class_names)
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    # The images wait on disk until all annotations are written: a single pass, little memory.
    with (
        open_whole(path) as stream,
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent) as images,
    ):
        description = {"description": "weakloc predictions"}
        stream.write(f'{{"info": {json_text(description)},\n"licenses": [],\n')
        stream.write(f'"categories": {json_text(categories)},\n"annotations": ')
        image_writer = ItemWriter(images)
        write_list(stream, _annotations(content, numbers, images=image_writer))
        image_writer.flush()
        stream.write(',\n"images": [')
        images.seek(0)
        for line in images:
            stream.write(line)
        stream.write("]}\n")
    return path


def export_coco_results(content: Content, out: Path) -> Path:
    """The flat list that COCO's evaluation reads; masks always as run lengths."""
    path = out / "results.json"
    numbers = _category_numbers(content.class_names)
    with open_whole(path) as stream:
        write_list(
            stream,
            (
                [_result(thing, image_id, numbers) for thing in objects_of(prediction)]
                for image_id, prediction in enumerate(content.predictions, start=1)
            ),
        )
        stream.write("\n")
    return path


def _category_numbers(class_names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(class_names, start=1)}


@dataclass
class _Numbering:
    """The running number of annotations."""

    last: int = 0

    def next(self) -> int:
        self.last += 1
        return self.last


def _annotations(
    content: Content, numbers: Mapping[str, int], *, images: ItemWriter
) -> Iterator[list[dict[str, Any]]]:
    """The annotations of each image; the images themselves go to `images`."""
    numbering, form = _Numbering(), content.options.mask_form
    for image_id, prediction in enumerate(content.predictions, start=1):
        record = {
            "id": image_id,
            "file_name": prediction.image,
            "width": prediction.width,
            "height": prediction.height,
        }
        images.add((record,))
        yield [
            {
                "id": numbering.next(),
                "image_id": image_id,
                "category_id": numbers[thing.class_name],
                "bbox": box_to_xywh(thing.box),
                "area": box_area(thing.box) if thing.rle is None else mask_area(thing.rle),
                "segmentation": _segmentation(thing.rle, prediction.image, form),
                "iscrowd": 0,
                "score": thing.score,
            }
            for thing in objects_of(prediction)
        ]


def _segmentation(rle: Rle | None, image: str, masks: MaskForm) -> Any:
    if rle is None:
        return []
    if masks == "rle":
        return rle
    return [outline.ravel().tolist() for outline in outlines_of_rle(rle, where=image)]


def _result(thing: PlacedObject, image_id: int, numbers: Mapping[str, int]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "image_id": image_id,
        "category_id": numbers[thing.class_name],
        "bbox": box_to_xywh(thing.box),
        "score": thing.score,
    }
    if thing.rle is not None:
        result["segmentation"] = thing.rle
    return result
