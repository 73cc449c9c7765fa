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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from weakloc.errors import PredictionsError
from weakloc.files import open_whole, write_text
from weakloc.geometry import PointXY, Size, box_to_xywh
from weakloc.output.exporters.objects import outlines_of
from weakloc.output.exporters.selection import Content, MaskForm, write_list, xml_attribute
from weakloc.output.settings import ExportOptions
from weakloc.rle import decode_mask
from weakloc.structures import Box, Mask, Point, Prediction

LOCAL_FILES = "/data/local-files/?d="
POINT_WIDTH = 0.6  # percent of the image's width: how large Label Studio draws a point
VALUE_BITS = 8
COUNTER_BITS = (3, 4, 8, 16)
VALUES_PER_PIXEL = 4


def export_label_studio(content: Content, out: Path) -> Path:
    options, path = content.options, out / "tasks.json"
    prefix = image_prefix(options, content.image_root)
    write_text(out / "config.xml", labelling_config(content.class_names, masks=options.mask_form))
    with open_whole(path) as stream:
        write_list(stream, ([task(item, prefix, options)] for item in content.predictions))
        stream.write("\n")
    return path


def image_prefix(options: ExportOptions, image_root: Path | None) -> str:
    """What goes before the path of an image in a task."""
    if options.image_prefix is not None:
        return options.image_prefix
    if image_root is None:
        raise PredictionsError(
            "Label Studio must be told where the images are, and their folder is not known",
            remedy="Say with --image-prefix what goes before the path of each image",
        )
    # Not resolve(): a link is known to Label Studio by its own name.
    return f"{LOCAL_FILES}{quote(Path(os.path.abspath(image_root)).name)}/"  # noqa: PTH100


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
    regions = _regions(prediction, options.mask_form)
    shared = {
        "to_name": "image",
        "original_width": prediction.width,
        "original_height": prediction.height,
        "image_rotation": 0,
    }
    numbered = [
        {"id": f"weakloc-{number}", **region, **shared} for number, region in enumerate(regions)
    ]
    likely = {n: score for n, score in prediction.scores.items() if score >= options.tag_threshold}
    if likely:
        tags = {"id": "weakloc-tags", "type": "choices", "from_name": "tags", "to_name": "image"}
        numbered.append(tags | {"value": {"choices": [*likely]}, "score": max(likely.values())})
    return numbered


def _regions(prediction: Prediction, form: MaskForm) -> Iterator[dict[str, Any]]:
    """One for each connected part of a polygon: Label Studio has none of several parts."""
    size = prediction.width, prediction.height
    for box in prediction.boxes:
        left, top, width, height = box_to_xywh(box.box)
        (x, y), (across, down) = _percent((left, top), size), _percent((width, height), size)
        value: dict[str, Any] = {"x": x, "y": y, "width": across, "height": down, "rotation": 0}
        yield _region("rectanglelabels", "boxes", value, box)
    for point in prediction.points:
        x, y = _percent((point.x, point.y), size)
        yield _region("keypointlabels", "points", {"x": x, "y": y, "width": POINT_WIDTH}, point)
    for mask in prediction.masks:
        pixels = decode_mask(mask.rle)
        if form == "rle":
            value = {"format": "rle", "rle": pack_brush(pixels)}
            yield _region("brushlabels", "masks", value, mask)
            continue
        for outline in outlines_of(pixels):
            corners = (outline * _percent((1.0, 1.0), size)).tolist()
            yield _region("polygonlabels", "masks", {"points": corners, "closed": True}, mask)


def _percent(point: PointXY, image_size: Size) -> PointXY:
    return 100.0 * point[0] / image_size[0], 100.0 * point[1] / image_size[1]


def _region(
    kind: str, control: str, value: dict[str, Any], marked: Box | Point | Mask
) -> dict[str, Any]:
    value = {**value, kind: [marked.class_name]}
    return {"type": kind, "from_name": control, "value": value, "score": marked.score}


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
