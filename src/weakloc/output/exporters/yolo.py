"""YOLO: `images/SPLIT/...`, `labels/SPLIT/<image>.txt` with one line an object, and `data.yaml`.

Numbers are shares of the image's width and height. The format has no place for scores. Images are
links where the file system knows them, else copies. Training tools look for an image's labels where
the last `images` in its path is `labels`, so a folder of that name is written `images_`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray

from weakloc.files import open_whole
from weakloc.geometry import box_to_yolo
from weakloc.output.exporters.objects import join_outlines, outlines_of
from weakloc.output.exporters.selection import (
    Content,
    ImageSplits,
    put_image,
    sidecar,
    with_stems_of_their_own,
)
from weakloc.rle import decode_mask
from weakloc.structures import PlacedObject, Prediction, objects_of

Shares: TypeAlias = NDArray[np.float64]  # of the image's width and height
Describe: TypeAlias = Callable[[PlacedObject, Prediction], Shares]


def export_yolo_boxes(content: Content, out: Path) -> Path:
    """`class centre-x centre-y width height`."""

    def box_shares(item: PlacedObject, prediction: Prediction) -> Shares:
        return np.array(box_to_yolo(item.box, (prediction.width, prediction.height)))

    return _export(content, out, box_shares)


def export_yolo_polygons(content: Content, out: Path) -> Path:
    """`class x1 y1 x2 y2 ...`: one polygon an object, parts and holes joined by seams.

    An object without a mask is written as the four corners of its box.
    """

    def polygon_shares(item: PlacedObject, prediction: Prediction) -> Shares:
        left, top, right, bottom = item.box
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        if item.rle is not None:
            corners = join_outlines(outlines_of(decode_mask(item.rle))).astype(float)
        return np.asarray(corners / (float(prediction.width), float(prediction.height))).ravel()

    return _export(content, out, polygon_shares)


def _export(content: Content, out: Path, describe: Describe) -> Path:
    numbers = {name: number for number, name in enumerate(content.class_names)}
    splits, filled = ImageSplits(content), set()
    if (out / "images").is_symlink():  # of an earlier version, to the folder of the images
        (out / "images").unlink()
    for prediction in with_stems_of_their_own(content.predictions):
        *folders, file = prediction.image.split("/")
        folders = ["images_" if folder == "images" else folder for folder in folders]
        split, name = splits.split_of(prediction), "/".join([*folders, file])
        filled.add(split)
        for other in {"train", "val", "test"} - {split}:  # of an export that divided otherwise
            sidecar(out / "labels" / other, name, ".txt").unlink(missing_ok=True)
            (out / "images" / other / name).unlink(missing_ok=True)
        put_image(content, prediction.image, out / "images" / split / name)
        with open_whole(sidecar(out / "labels" / split, name, ".txt")) as stream:
            for item in objects_of(prediction):
                shares = " ".join(f"{share:.9g}" for share in describe(item, prediction).tolist())
                stream.write(f"{numbers[item.class_name]} {shares}\n")
    description = {
        "path": str(out.resolve()),  # else Ultralytics looks in a folder of its own settings
        "train": "images/train",
        "val": "images/val" if "val" in filled else "images/train",
        **({"test": "images/test"} if "test" in filled else {}),
        "names": dict(enumerate(content.class_names)),
    }
    with open_whole(out / "data.yaml") as stream:
        yaml.safe_dump(description, stream, allow_unicode=True, sort_keys=False)
    return out / "data.yaml"
