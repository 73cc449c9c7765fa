"""FiftyOne: a dataset folder, `samples.json` beside the images in `data`, for its `from_dir`.

The folder says no version: FiftyOne then makes the fields of the labels that it meets. Places are
shares of the image. A mask fills the pixels that its box touches; what lies outside is cut off.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np

from weakloc.files import open_whole, write_json
from weakloc.geometry import box_to_xywh
from weakloc.output.exporters.selection import Content, put_image, write_list
from weakloc.rle import decode_mask
from weakloc.structures import Prediction, objects_of


def export_fiftyone(content: Content, out: Path) -> Path:
    with open_whole(out / "samples.json") as stream:
        stream.write('{"samples": ')
        write_list(stream, _samples(content, out))
        stream.write("}\n")
    write_json(out / "metadata.json", {"info": {"classes": list(content.class_names)}})
    return out


def _samples(content: Content, out: Path) -> Iterator[list[dict[str, Any]]]:
    least = content.options.tag_threshold
    for prediction in content.predictions:
        path, split = f"data/{prediction.image}", prediction.extra.get("split")
        put_image(content, prediction.image, out / path)
        size = {"_cls": "ImageMetadata", "width": prediction.width, "height": prediction.height}
        sample = {"filepath": path, "tags": [split] if split else [], "metadata": size}
        yield [sample | fields_of(prediction, least)]


def fields_of(prediction: Prediction, tag_threshold: float) -> dict[str, Any]:
    """Labels by the names of their fields, and the numbers `doubt` and `disagreement` to sort by.

    The latter is how sure the network is against the tag that it contradicts most; 0 without any.
    """
    size, contradicted = np.array([prediction.width, prediction.height]), prediction.disagreements
    points = (
        {
            "label": point.class_name,
            "points": [([point.x, point.y] / size).tolist()],
            "confidence": [point.score],
            "heat": point.heat,
        }
        for point in prediction.points
    )
    likely = [item for item in prediction.scores.items() if item[1] >= tag_threshold]
    classes = ({"label": name, "confidence": score} for name, score in likely)
    tags = ({"label": d.class_name, "confidence": d.score, "kind": d.kind} for d in contradicted)
    sure = (1 - d.score if d.kind == "missing" else d.score for d in contradicted)
    return {
        "boxes": _labels("Detection", _detections(prediction, np.tile(size, 2))),
        "points": _labels("Keypoint", points),
        "classes": _labels("Classification", classes),
        "disagreements": _labels("Classification", tags),
        "doubt": prediction.doubt,
        "disagreement": max(sure, default=0.0),
    }


def _labels(kind: str, labels: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"_cls": f"{kind}s", f"{kind.lower()}s": [{"_cls": kind, **label} for label in labels]}


def _detections(prediction: Prediction, size: Any) -> Iterator[dict[str, Any]]:
    for item in objects_of(prediction):
        box = (box_to_xywh(item.box) / size).tolist()
        label = {"label": item.class_name, "bounding_box": box, "confidence": item.score}
        if item.rle is not None:
            left, top, right, bottom = item.box
            stream = BytesIO()
            pixels = decode_mask(item.rle)
            np.save(stream, pixels[floor(top) : ceil(bottom), floor(left) : ceil(right)])
            packed = base64.b64encode(zlib.compress(stream.getvalue())).decode()
            label["mask"] = {"$binary": {"base64": packed, "subType": "00"}}
        yield label
