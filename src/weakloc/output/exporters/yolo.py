"""YOLO: `labels/<image>.txt` with one line an object, and `data.yaml`.

Numbers are shares of the image's width and height. The format has no place for scores. Training
tools look for an image's labels where `images` in its path is `labels`, so `images` becomes a
link to the folder of the images where the file system knows links.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray

from weakloc.files import open_whole
from weakloc.geometry import box_to_yolo
from weakloc.output.exporters.objects import (
    PlacedObject,
    join_outlines,
    objects_of,
    outlines_of_rle,
)
from weakloc.output.exporters.selection import Content, sidecar, with_stems_of_their_own
from weakloc.structures import Prediction

Describe: TypeAlias = Callable[[PlacedObject, Prediction], list[float]]


def export_yolo_boxes(content: Content, out: Path) -> Path:
    """`class centre-x centre-y width height`."""
    return _export(content, out, _box_shares)


def export_yolo_polygons(content: Content, out: Path) -> Path:
    """`class x1 y1 x2 y2 ...`: one polygon an object, parts and holes joined by seams.

    An object without a mask is written as the four corners of its box.
    """
    return _export(content, out, _polygon_shares)


def _export(content: Content, out: Path, describe: Describe) -> Path:
    numbers = {name: number for number, name in enumerate(content.class_names)}
    for prediction in with_stems_of_their_own(content.predictions):
        with open_whole(sidecar(out / "labels", prediction.image, ".txt")) as stream:
            for thing in objects_of(prediction):
                shares = " ".join(f"{share:.9g}" for share in describe(thing, prediction))
                stream.write(f"{numbers[thing.class_name]} {shares}\n")
    if content.image_root is not None:
        _link(out / "images", content.image_root)
    return _write_description(out / "data.yaml", content.class_names)


def _box_shares(thing: PlacedObject, prediction: Prediction) -> list[float]:
    return list(box_to_yolo(thing.box, (prediction.width, prediction.height)))


def _polygon_shares(thing: PlacedObject, prediction: Prediction) -> list[float]:
    corners: NDArray[np.float64] = _corners(thing, prediction) / (
        float(prediction.width),
        float(prediction.height),
    )
    return [float(share) for share in corners.ravel()]


def _corners(thing: PlacedObject, prediction: Prediction) -> NDArray[np.float64]:
    if thing.rle is None:
        left, top, right, bottom = thing.box
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return join_outlines(outlines_of_rle(thing.rle, where=prediction.image)).astype(np.float64)


def _link(link: Path, image_root: Path) -> None:
    """Without links (some file systems) the images can be moved there by hand."""
    if not link.exists() and not link.is_symlink():
        try:
            link.symlink_to(image_root.resolve(), target_is_directory=True)
        except OSError:
            return


def _write_description(path: Path, class_names: Sequence[str]) -> Path:
    description = {
        "path": ".",
        "train": "images",
        "val": "images",
        "names": dict(enumerate(class_names)),
    }
    with open_whole(path) as stream:
        yaml.safe_dump(description, stream, allow_unicode=True, sort_keys=False)
    return path
