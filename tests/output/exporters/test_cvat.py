"""CVAT for images 1.1, read by plain code."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.output.exporters.conftest import CLASS_NAMES
from tests.output.exporters.oracles import fill_outline
from weakloc.output.exporters import Content, ExportOptions, export_format
from weakloc.rle import decode_mask
from weakloc.structures import Prediction


def export(predictions: list[Prediction], out: Path, options: ExportOptions) -> ElementTree.Element:
    path = export_format(
        "cvat", Content(iter(predictions), class_names=CLASS_NAMES, options=options), out
    )
    return ElementTree.parse(path).getroot()


def drawn_mask(shape: ElementTree.Element, size: tuple[int, int]) -> np.ndarray:
    """A `<mask>`: runs row by row within its box, the first of pixels that are not set."""
    left, top, width, height = (int(shape.get(k)) for k in ("left", "top", "width", "height"))
    flat: list[bool] = []
    for number, run in enumerate(shape.get("rle").split(",")):
        flat += [number % 2 == 1] * int(run)
    whole = np.zeros((size[1], size[0]), dtype=bool)
    whole[top : top + height, left : left + width] = np.reshape(flat, (height, width))
    return whole


def corners_of(shape: ElementTree.Element) -> np.ndarray:
    pairs = [pair.split(",") for pair in shape.get("points").split(";")]
    return np.array(pairs, dtype=float)


@pytest.mark.parametrize("masks", ["rle", "polygon"])
def test_annotations_come_back_as_the_predictions(
    tmp_path: Path, predictions: list[Prediction], masks: str
) -> None:
    root = export(predictions, tmp_path, ExportOptions(mask_form=masks))  # type: ignore[arg-type]
    assert root.findtext("version") == "1.1"
    assert tuple(item.text for item in root.iterfind("meta/task/labels/label/name")) == CLASS_NAMES
    images = root.findall("image")
    for number, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        size = (prediction.width, prediction.height)
        assert (image.get("id"), image.get("name")) == (str(number), prediction.image)
        assert (image.get("width"), image.get("height")) == tuple(map(str, size))
        boxes = image.findall("box")
        for shape, box in zip(boxes, prediction.boxes, strict=True):
            found = [float(shape.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")]
            assert found == pytest.approx(box.box, abs=0.0051)
            assert shape.get("label") == box.class_name
            assert float(shape.findtext("attribute")) == pytest.approx(box.score, abs=5.1e-5)
        drawn = [np.zeros((size[1], size[0]), dtype=bool) for _ in boxes]
        for shape in image.findall("mask"):
            drawn[int(shape.get("group_id")) - 1] |= drawn_mask(shape, size)
        for shape in image.findall("polygon"):
            drawn[int(shape.get("group_id")) - 1] |= fill_outline(corners_of(shape), size=size)
        by_score = {mask.score: mask for mask in prediction.masks}
        for pixels, box in zip(drawn, prediction.boxes, strict=True):
            wanted = by_score.get(box.score)
            assert (pixels == (decode_mask(wanted.rle) if wanted else False)).all()
        for shape, point in zip(image.findall("points"), prediction.points, strict=True):
            assert corners_of(shape)[0] == pytest.approx((point.x, point.y), abs=0.0051)
        tags = [tag.get("label") for tag in image.findall("tag")]
        assert tags == [name for name, score in prediction.scores.items() if score >= 0.5]
