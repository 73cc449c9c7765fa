"""Pascal VOC: `Annotations/<image>.xml`, `ImageSets/Main/predicted.txt`, and mask PNGs.

Boxes are 1-based, with right and bottom pixels counted in, rounded to whole pixels. Where masks
overlap, the one with the higher score lies above.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from weakloc.data.readers.voc import label_map_text, voc_palette
from weakloc.errors import PredictionsError
from weakloc.files import open_whole, write_whole
from weakloc.geometry import box_to_voc
from weakloc.output.exporters.objects import PlacedObject, objects_of
from weakloc.output.exporters.selection import (
    Content,
    image_stem,
    sidecar,
    with_stems_of_their_own,
    xml_text,
)
from weakloc.rle import decode_mask
from weakloc.structures import Prediction

LARGEST_VALUE = 254  # 255 means void


def export_voc_boxes(content: Content, out: Path) -> Path:
    """The XML files; each object also has its score."""
    folder = out / "Annotations"
    with open_whole(out / "ImageSets" / "Main" / "predicted.txt") as listing:
        for prediction in with_stems_of_their_own(content.predictions):
            with open_whole(sidecar(folder, prediction.image, ".xml")) as stream:
                stream.write(_annotation(prediction))
            listing.write(f"{image_stem(prediction.image)}\n")
    _write_label_map(out, content.class_names)
    return folder


def export_voc_masks(content: Content, out: Path) -> Path:
    """`SegmentationClass` and `SegmentationObject`, and `labelmap.txt` for the values."""
    if len(content.class_names) > LARGEST_VALUE:
        raise PredictionsError(
            f"{len(content.class_names)} classes do not fit a VOC mask's {LARGEST_VALUE} values",
            remedy="Export masks to COCO",
        )
    has_masks = False
    with open_whole(out / "ImageSets" / "Segmentation" / "predicted.txt") as listing:
        for prediction in with_stems_of_their_own(content.predictions):
            has_masks |= bool(prediction.masks)
            _write_masks(prediction, out, content.class_names)
            listing.write(f"{image_stem(prediction.image)}\n")
        if not has_masks:
            raise PredictionsError(
                "there are no masks among the predictions", remedy="Predict with masks"
            )
    _write_label_map(out, content.class_names)
    return out / "SegmentationClass"


def _write_label_map(out: Path, class_names: Sequence[str]) -> None:
    """Without it CVAT and Datumaro take VOC's own twenty classes for the only ones."""
    with open_whole(out / "labelmap.txt") as stream:
        stream.write(label_map_text(class_names))


def _annotation(prediction: Prediction) -> str:
    path = PurePosixPath(prediction.image)
    size = f"<width>{prediction.width}</width><height>{prediction.height}</height>"
    lines = [
        "<annotation>",
        f"  <folder>{xml_text(str(path.parent)) if path.parent.name else ''}</folder>",
        f"  <filename>{xml_text(path.name)}</filename>",
        "  <source><annotation>weakloc</annotation></source>",
        f"  <size>{size}<depth>3</depth></size>",
        f"  <segmented>{bool(prediction.masks):d}</segmented>",
    ]
    for item in objects_of(prediction):
        lines += _object_lines(item)
    return "\n".join([*lines, "</annotation>"]) + "\n"


def _object_lines(item: PlacedObject) -> list[str]:
    """The box is rounded to pixel borders, at least a pixel wide and high."""
    left, top, right, bottom = (round(side) for side in box_to_voc(item.box))
    corner = f"<xmax>{max(right, left)}</xmax><ymax>{max(bottom, top)}</ymax>"
    return [
        "  <object>",
        f"    <name>{xml_text(item.class_name)}</name>",
        "    <pose>Unspecified</pose>",
        "    <truncated>0</truncated>",
        "    <difficult>0</difficult>",
        f"    <score>{item.score!r}</score>",
        f"    <bndbox><xmin>{left}</xmin><ymin>{top}</ymin>{corner}</bndbox>",
        "  </object>",
    ]


def _write_masks(prediction: Prediction, out: Path, class_names: Sequence[str]) -> None:
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
        classes[mask] = class_names.index(item.class_name) + 1
        instances[mask] = number
    for name, values in (("SegmentationClass", classes), ("SegmentationObject", instances)):
        picture = Image.fromarray(values)
        picture.putpalette(voc_palette())
        with write_whole(sidecar(out / name, prediction.image, ".png")) as temporary:
            picture.save(temporary)
