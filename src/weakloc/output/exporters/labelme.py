"""LabelMe: one JSON file an image, beside one another as the images are.

Boxes are rectangles, points are points, masks are polygons, one for each connected part with the
mask's number as their group; LabelMe's flags hold the classes whose score reaches `tag_threshold`.
Copied beside the images the files open as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from weakloc.files import write_text
from weakloc.output.exporters.objects import outlines_of
from weakloc.output.exporters.selection import Content, json_text, sidecar, with_stems_of_their_own
from weakloc.rle import decode_mask
from weakloc.structures import Box, Mask, Point, Prediction

FORMAT_VERSION = "5.5.0"


def export_labelme(content: Content, out: Path) -> Path:
    least = content.options.tag_threshold
    for prediction in with_stems_of_their_own(content.predictions):
        annotation = {
            "version": FORMAT_VERSION,
            "flags": {name: score >= least for name, score in prediction.scores.items()},
            "shapes": list(_shapes(prediction)),
            "imagePath": PurePosixPath(prediction.image).name,
            "imageData": None,
            "imageHeight": prediction.height,
            "imageWidth": prediction.width,
        }
        write_text(sidecar(out, prediction.image, ".json"), f"{json_text(annotation)}\n")
    return out


def _shapes(prediction: Prediction) -> Iterator[dict[str, Any]]:
    for box in prediction.boxes:
        left, top, right, bottom = box.box
        yield _shape("rectangle", box, [[left, top], [right, bottom]])
    for point in prediction.points:
        yield _shape("point", point, [[point.x, point.y]])
    for number, mask in enumerate(prediction.masks, start=1):
        for outline in outlines_of(decode_mask(mask.rle)):
            yield _shape("polygon", mask, outline.astype(float).tolist(), group=number)


def _shape(
    kind: str, marked: Box | Point | Mask, points: list[list[float]], group: int | None = None
) -> dict[str, Any]:
    return {
        "label": marked.class_name,
        "points": points,
        "group_id": group,
        "description": f"score {marked.score:.4f}",
        "shape_type": kind,
        "flags": {},
        "score": marked.score,
    }
