"""Pascal VOC: `Annotations/<image>.xml`, `ImageSets/Main/predicted.txt`, and mask PNGs.

Boxes are 1-based, with right and bottom pixels counted in, rounded to whole pixels. Where masks
overlap, the one with the higher score lies above.

The results that VOC's development kit and its server read are named by competition: 1, 3 and 5
(classes, boxes, masks) of what learned from VOC alone, and the next number of what did not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.data.readers.voc import annotation_text, label_map_text, mask_values, write_label_image
from weakloc.errors import PredictionsError
from weakloc.files import file_name_of, one_line, open_whole, write_text
from weakloc.geometry import box_to_voc
from weakloc.output.exporters.selection import (
    Content,
    image_stem,
    sidecar,
    with_stems_of_their_own,
    xml_text,
)
from weakloc.rle import decode_mask
from weakloc.structures import Prediction, objects_of

Painted: TypeAlias = NDArray[np.uint8]  # (rows, columns)
LARGEST_VALUE = 254  # 255 means void


def export_voc_boxes(content: Content, out: Path) -> Path:
    """The XML files; each object also has its score."""
    folder = out / "Annotations"
    with open_whole(out / "ImageSets" / "Main" / "predicted.txt") as listing:
        for prediction in with_stems_of_their_own(content.predictions):
            write_text(sidecar(folder, prediction.image, ".xml"), _annotation(prediction))
            listing.write(_listed(prediction))
    write_text(out / "labelmap.txt", label_map_text(content.class_names))
    return folder


def export_voc_masks(content: Content, out: Path) -> Path:
    """`SegmentationClass` and `SegmentationObject`, and `labelmap.txt` for the values."""
    _check_values(content.class_names)
    values = {name: value for value, name in enumerate(content.class_names, start=1)}
    has_masks = False
    with open_whole(out / "ImageSets" / "Segmentation" / "predicted.txt") as listing:
        for prediction in with_stems_of_their_own(content.predictions):
            has_masks |= bool(prediction.masks)
            folders = (out / "SegmentationClass", out / "SegmentationObject")
            for folder, painted in zip(folders, _painted(prediction, values), strict=True):
                write_label_image(sidecar(folder, prediction.image, ".png"), painted)
            listing.write(_listed(prediction))
        if not has_masks:
            raise PredictionsError(
                "there are no masks among the predictions", remedy="Predict with masks"
            )
    write_text(out / "labelmap.txt", label_map_text(content.class_names))
    return out / "SegmentationClass"


def _listed(prediction: Prediction) -> str:
    """The line of a list, which would name other images where a name has several."""
    stem = str(image_stem(prediction.image))
    if one_line(stem) != stem:
        raise PredictionsError(
            f"the name {stem!r} holds signs that a list cannot name",
            remedy="Rename the image, or export to COCO",
        )
    return f"{stem}\n"


def export_voc_results(content: Content, out: Path) -> Path:
    """`results/<challenge>`: `id score` and `id score x1 y1 x2 y2` for each class, and pictures.

    Corners are not rounded. Pictures are there where any image has a mask.
    """
    _check_values(content.class_names)
    options = content.options
    results = out / "results" / file_name_of(options.voc_challenge)
    split, step = file_name_of(options.voc_split), int(options.voc_training == "external")
    pictures = results / "Segmentation" / f"comp{5 + step}_{split}_cls"
    values = mask_values(content.class_names)
    has_masks = False
    waiting: list[tuple[str, int, int]] = []  # pictures of nothing, which count beside others only
    with ExitStack() as stack:
        of_images, of_boxes = (
            {
                name: stack.enter_context(
                    open_whole(results / "Main" / f"{start}_{split}_{file_name_of(name)}.txt")
                )
                for name in content.class_names
            }
            for start in (f"comp{1 + step}_cls", f"comp{3 + step}_det")
        )
        for prediction in _with_ids(content.predictions):
            for name, stream in of_images.items():
                if name in prediction.scores:
                    stream.write(f"{prediction.image} {prediction.scores[name]!r}\n")
            for box in prediction.boxes:
                corners = " ".join(f"{side:.9g}" for side in box_to_voc(box.box))
                of_boxes[box.class_name].write(f"{prediction.image} {box.score!r} {corners}\n")
            has_masks |= bool(prediction.masks)
            if not has_masks:
                waiting.append((prediction.image, prediction.width, prediction.height))
                continue
            for image in (*(Prediction(*empty, {}) for empty in waiting), prediction):
                write_label_image(pictures / f"{image.image}.png", _painted(image, values)[0])
            waiting.clear()
    return results


def _with_ids(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Named by VOC's ids: the last part of an image's path without its suffix, each its own."""
    ids: set[str] = set()
    for prediction in predictions:
        image_id = image_stem(prediction.image).name
        if image_id in ids or len(image_id.split()) != 1:
            flaw = "is that of an image before it" if image_id in ids else "holds a blank"
            raise PredictionsError(
                f"the id {image_id!r} {flaw}, which results for VOC cannot have",
                location=prediction.image,
                remedy="Rename the image, or export to COCO",
            )
        ids.add(image_id)
        yield replace(prediction, image=image_id)


def _check_values(class_names: Sequence[str]) -> None:
    if len(class_names) > LARGEST_VALUE:
        raise PredictionsError(
            f"{len(class_names)} classes do not fit a VOC mask's {LARGEST_VALUE} values",
            remedy="Export masks to COCO",
        )


def _annotation(prediction: Prediction) -> str:
    path = PurePosixPath(prediction.image)
    size = f"<width>{prediction.width}</width><height>{prediction.height}</height>"
    head = [
        f"  <folder>{xml_text(str(path.parent)) if path.parent.name else ''}</folder>",
        f"  <filename>{xml_text(path.name)}</filename>",
        "  <source><annotation>weakloc</annotation></source>",
        f"  <size>{size}<depth>3</depth></size>",
        f"  <segmented>{bool(prediction.masks):d}</segmented>",
    ]
    objects = []
    for item in objects_of(prediction):
        # Rounded to pixel borders, at least a pixel wide and high.
        left, top, right, bottom = (round(side) for side in box_to_voc(item.box))
        fields = {"name": xml_text(item.class_name), "pose": "Unspecified"}
        fields |= {"truncated": "0", "difficult": "0", "score": repr(item.score)}
        objects.append((fields, (left, top, max(right, left), max(bottom, top))))
    return annotation_text(head, objects)


def _painted(prediction: Prediction, values: Mapping[str, int]) -> tuple[Painted, Painted]:
    """The value of each pixel's class, and the number of its object."""
    classes = np.zeros((prediction.height, prediction.width), dtype=np.uint8)
    instances = np.zeros_like(classes)
    masks = [(item, item.rle) for item in objects_of(prediction) if item.rle is not None]
    if len(masks) > LARGEST_VALUE:
        raise PredictionsError(
            f"has {len(masks)} masks, more than a VOC mask has values",
            location=prediction.image,
            remedy=f"Choose the best {LARGEST_VALUE} of each image at most",
        )
    numbered = enumerate(masks, start=1)
    for number, (item, rle) in sorted(numbered, key=lambda entry: entry[1][0].score):
        mask = decode_mask(rle)
        classes[mask] = values[item.class_name]
        instances[mask] = number
    return classes, instances
