"""Label Studio: `tasks.json` with pre-annotations, and `config.xml`, the labelling interface.

Coordinates are percent of the image. A task's image is `image_prefix` and its path, quoted as a
URL; without one it is a file of Label Studio's local storage, whose document root is taken to be
the folder above `image_root`. A prediction holds rectangles, points, masks (brush strokes, or
polygons with `mask_form="polygon"`) and, as choices, the classes whose score reaches
`tag_threshold`. Label Studio shows scores in [0, 1]; a task's own score is its certainty,
1 - doubt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from weakloc.errors import PredictionsError
from weakloc.files import open_whole, write_text
from weakloc.output.exporters.objects import mask_of_rle, outlines_of_rle
from weakloc.output.exporters.selection import Content, MaskForm, write_list, xml_attribute
from weakloc.output.settings import ExportOptions
from weakloc.structures import Box, Mask, Point, Prediction

LOCAL_FILES = "/data/local-files/?d="
POINT_WIDTH = 0.6  # percent of the image's width: how large Label Studio draws a point
VALUE_BITS = 8
COUNTER_BITS = (3, 4, 8, 16)
VALUES_PER_PIXEL = 4


def export_label_studio(content: Content, out: Path) -> Path:
    prefix = content.options.image_prefix
    if prefix is None:
        if content.image_root is None:
            raise PredictionsError(
                "Label Studio must be told where the images are, and their folder is not known",
                remedy="Say with --image-prefix what goes before the path of each image",
            )
        # Not resolve(): a link is known to Label Studio by its own name.
        folder = Path(os.path.abspath(content.image_root)).name  # noqa: PTH100
        prefix = f"{LOCAL_FILES}{quote(folder)}/"
    options, path = content.options, out / "tasks.json"
    write_text(out / "config.xml", labelling_config(content.class_names, masks=options.mask_form))
    with open_whole(path) as stream:
        write_list(stream, ([task(item, prefix, options)] for item in content.predictions))
        stream.write("\n")
    return path


def task(prediction: Prediction, image_prefix: str, options: ExportOptions) -> dict[str, Any]:
    """One image with its pre-annotation."""
    regions = results(prediction, options)
    return {
        "data": {"image": image_prefix + quote(prediction.image)},
        "predictions": [pre_annotation(regions, score=1.0 - prediction.doubt, options=options)],
    }


def pre_annotation(
    regions: list[dict[str, Any]], *, score: float, options: ExportOptions
) -> dict[str, Any]:
    """What Label Studio calls a prediction; it shows the score in its list of tasks."""
    return {"model_version": options.model_version, "score": score, "result": regions}


def results(prediction: Prediction, options: ExportOptions) -> list[dict[str, Any]]:
    """The regions of one image, numbered."""
    regions = [_rectangle(box, prediction) for box in prediction.boxes]
    regions += [_keypoint(point, prediction) for point in prediction.points]
    for mask in prediction.masks:
        regions += _MASK_REGIONS[options.mask_form](mask, prediction)
    shared = {
        "to_name": "image",
        "original_width": prediction.width,
        "original_height": prediction.height,
        "image_rotation": 0,
    }
    numbered = [
        {"id": f"weakloc-{number}", **region, **shared} for number, region in enumerate(regions)
    ]
    return numbered + _tags(prediction, options)


def _rectangle(box: Box, prediction: Prediction) -> dict[str, Any]:
    left, top, right, bottom = box.box
    value = {
        "x": 100.0 * left / prediction.width,
        "y": 100.0 * top / prediction.height,
        "width": 100.0 * (right - left) / prediction.width,
        "height": 100.0 * (bottom - top) / prediction.height,
        "rotation": 0,
        "rectanglelabels": [box.class_name],
    }
    return _region("rectanglelabels", "boxes", value, box.score)


def _keypoint(point: Point, prediction: Prediction) -> dict[str, Any]:
    value = {
        "x": 100.0 * point.x / prediction.width,
        "y": 100.0 * point.y / prediction.height,
        "width": POINT_WIDTH,
        "keypointlabels": [point.class_name],
    }
    return _region("keypointlabels", "points", value, point.score)


def _brush(mask: Mask, prediction: Prediction) -> list[dict[str, Any]]:
    packed = pack_brush(mask_of_rle(mask.rle, image=prediction.image))
    value = {"format": "rle", "rle": packed, "brushlabels": [mask.class_name]}
    return [_region("brushlabels", "masks", value, mask.score)]


def pack_brush(mask: NDArray[np.bool_]) -> list[int]:
    """The bytes that Label Studio expects under `rle`."""
    flat = mask.ravel()
    starts = np.concatenate(([0], np.flatnonzero(np.diff(flat)) + 1))
    runs = np.diff(np.append(starts, flat.size)) * VALUES_PER_PIXEL
    bits = [f"{flat.size * VALUES_PER_PIXEL:032b}", f"{VALUE_BITS - 1:05b}"]
    bits += [f"{count - 1:04b}" for count in COUNTER_BITS]
    for start, run in zip(starts.tolist(), runs.tolist(), strict=True):
        value, largest = 255 if flat[start] else 0, 1 << COUNTER_BITS[-1]
        for left in range(run, 0, -largest):  # in as many pieces as the largest counter asks for
            piece = min(left, largest)
            index = next(i for i, size in enumerate(COUNTER_BITS) if piece <= 1 << size)
            bits.append(f"1{index:02b}{piece - 1:0{COUNTER_BITS[index]}b}{value:08b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _polygons(mask: Mask, prediction: Prediction) -> list[dict[str, Any]]:
    """One region for each connected part; Label Studio has no polygons of several parts."""
    percent = np.array([100.0 / prediction.width, 100.0 / prediction.height])
    regions = []
    for outline in outlines_of_rle(mask.rle, image=prediction.image):
        value = {
            "points": (outline * percent).tolist(),
            "closed": True,
            "polygonlabels": [mask.class_name],
        }
        regions.append(_region("polygonlabels", "masks", value, mask.score))
    return regions


_MASK_REGIONS = {"rle": _brush, "polygon": _polygons}


def _region(kind: str, control: str, value: dict[str, Any], score: float) -> dict[str, Any]:
    return {"type": kind, "from_name": control, "value": value, "score": score}


def _tags(prediction: Prediction, options: ExportOptions) -> list[dict[str, Any]]:
    likely = [name for name, score in prediction.scores.items() if score >= options.tag_threshold]
    if not likely:
        return []
    return [
        {
            "id": "weakloc-tags",
            "type": "choices",
            "from_name": "tags",
            "to_name": "image",
            "value": {"choices": likely},
            "score": max(prediction.scores[name] for name in likely),
        }
    ]


def labelling_config(class_names: Sequence[str], *, masks: MaskForm) -> str:
    """The XML to paste under Settings > Labelling Interface > Code."""
    labels = "".join(f"    <Label value={xml_attribute(name)}/>\n" for name in class_names)
    choices = "".join(f"    <Choice value={xml_attribute(name)}/>\n" for name in class_names)
    mask_control = {"rle": "BrushLabels", "polygon": "PolygonLabels"}[masks]
    controls = [("RectangleLabels", "boxes"), ("KeyPointLabels", "points"), (mask_control, "masks")]
    lines = ['<View>\n  <Image name="image" value="$image" zoom="true"/>\n']
    for control, name in controls:
        lines.append(f'  <{control} name="{name}" toName="image">\n{labels}  </{control}>\n')
    lines.append(f'  <Choices name="tags" toName="image" choice="multiple">\n{choices}')
    return "".join([*lines, "  </Choices>\n</View>\n"])
