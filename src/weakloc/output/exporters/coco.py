"""COCO: annotations/instances_predicted.json (with scores), results.json, and a file a split.

Images are numbered from 1 in the order of the predictions, categories from 1 in the order of the
classes; both files use the same numbers. `mask_form="polygon"` writes one polygon for each
connected part, along the pixel borders; holes are cut by seams. An object without a mask has
an empty segmentation.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from weakloc.files import open_whole
from weakloc.geometry import box_area, box_to_xywh
from weakloc.output.exporters.jsonl import prediction_line, read_predictions
from weakloc.output.exporters.objects import outlines_of
from weakloc.output.exporters.selection import (
    Content,
    ImageSplits,
    ItemWriter,
    json_text,
    put_image,
    write_list,
)
from weakloc.rle import decode_mask, mask_area
from weakloc.structures import PlacedObject, Prediction, objects_of


def export_coco_instances(content: Content, out: Path) -> Path:
    """A whole data set: what COCO calls instances, each with a score."""
    return _write_instances(content, out / "annotations" / "instances_predicted.json")


def _write_instances(content: Content, path: Path) -> Path:
    numbers = dict(zip(content.class_names, itertools.count(1)))
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


SPLIT_FOLDERS = {"train": "train", "val": "valid", "test": "test"}  # as Roboflow names them


def export_splits(content: Content, out: Path) -> Path:
    """`train`, `valid` (and `test`) with `_annotations.coco.json` and the images beside it."""
    out.mkdir(parents=True, exist_ok=True)
    splits = ImageSplits(content)
    with tempfile.TemporaryDirectory(dir=out) as waiting, ExitStack() as opened:
        files = {split: Path(waiting, split) for split in SPLIT_FOLDERS}
        streams = {split: opened.enter_context(file.open("wb")) for split, file in files.items()}
        for prediction in content.predictions:
            streams[splits.split_of(prediction)].write(prediction_line(prediction).encode())
        opened.close()
        if not files["val"].stat().st_size:  # training tools insist on something to watch
            files["val"] = files["train"]
        for split, name in SPLIT_FOLDERS.items():
            if files[split].stat().st_size:
                placed = _beside_their_images(files[split], content, out / name)
                of_split = replace(content, predictions=placed)
                _write_instances(of_split, out / name / "_annotations.coco.json")
    return out


def _beside_their_images(file: Path, content: Content, folder: Path) -> Iterator[Prediction]:
    for prediction in read_predictions(file):
        put_image(content, prediction.image, folder / prediction.image)
        yield prediction


def export_coco_results(content: Content, out: Path) -> Path:
    """The flat list that COCO's evaluation reads; masks always as run lengths."""
    path = out / "results.json"
    numbers = dict(zip(content.class_names, itertools.count(1)))
    with open_whole(path) as stream:
        write_list(
            stream,
            (
                [_result(item, image_id, numbers) for item in objects_of(prediction)]
                for image_id, prediction in enumerate(content.predictions, start=1)
            ),
        )
        stream.write("\n")
    return path


def _annotations(
    content: Content, numbers: Mapping[str, int], *, images: ItemWriter
) -> Iterator[list[dict[str, Any]]]:
    """The annotations of each image; the images themselves go to `images`."""
    ids = itertools.count(1)
    for image_id, prediction in enumerate(content.predictions, start=1):
        record = {
            "id": image_id,
            "file_name": prediction.image,
            "width": prediction.width,
            "height": prediction.height,
        }
        images.add((record,))
        annotations = []
        for item in objects_of(prediction):
            segmentation: Any = [] if item.rle is None else item.rle
            if item.rle is not None and content.options.mask_form == "polygon":
                outlines = outlines_of(decode_mask(item.rle))
                segmentation = [outline.ravel().tolist() for outline in outlines]
            annotations.append(
                {
                    "id": next(ids),
                    "image_id": image_id,
                    "category_id": numbers[item.class_name],
                    "bbox": box_to_xywh(item.box),
                    "area": box_area(item.box) if item.rle is None else mask_area(item.rle),
                    "segmentation": segmentation,
                    "iscrowd": 0,
                    "score": item.score,
                }
            )
        yield annotations


def _result(item: PlacedObject, image_id: int, numbers: Mapping[str, int]) -> dict[str, Any]:
    result = {
        "image_id": image_id,
        "category_id": numbers[item.class_name],
        "bbox": box_to_xywh(item.box),
        "score": item.score,
    }
    return result if item.rle is None else {**result, "segmentation": item.rle}
