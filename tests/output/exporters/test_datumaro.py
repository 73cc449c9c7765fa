"""COCO, VOC, YOLO and CVAT files, read by Datumaro where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.output.exporters.conftest import CLASS_NAMES, encoded
from weakloc.output.exporters import Content, ExportOptions, export_format
from weakloc.rle import decode_mask
from weakloc.structures import Box, Mask, Prediction

datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
pytestmark = pytest.mark.filterwarnings("default")


def load(
    format_name: str,
    path: Path,
    exporter: str,
    predictions: list[Prediction],
    *,
    class_names: tuple[str, ...] = CLASS_NAMES,
    options: ExportOptions,
) -> dict[str, Any]:
    export_format(
        exporter, Content(iter(predictions), class_names=class_names, options=options), path
    )
    data_set = datumaro.Dataset.import_from(str(path), format_name)
    labels = data_set.categories()[datumaro.AnnotationType.label]
    return {
        item.id: [
            (annotation.type.name, labels[annotation.label].name, annotation)
            for annotation in item.annotations
            if annotation.label is not None
        ]
        for item in data_set
    }


def stem(prediction: Prediction) -> str:
    return str(Path(prediction.image).with_suffix(""))


def corners(annotation: Any) -> list[float]:
    left, top, width, height = annotation.get_bbox()
    return [left, top, left + width, top + height]


def test_coco(tmp_path: Path, predictions: list[Prediction], image_root: Path) -> None:
    (tmp_path / "images").symlink_to(image_root)
    items = load("coco_instances", tmp_path, "coco", predictions, options=ExportOptions())
    for prediction in predictions:
        found = {
            (kind, annotation.attributes["score"]): (name, annotation)
            for kind, name, annotation in items[stem(prediction)]
        }
        masks = {mask.score: mask for mask in prediction.masks}
        for box in prediction.boxes:
            name, annotation = found["bbox", box.score]
            assert name == box.class_name
            assert corners(annotation) == pytest.approx(box.box, abs=0.02)
            assert (("mask", box.score) in found) == (box.score in masks)
        for score, mask in masks.items():
            name, annotation = found["mask", score]
            assert name == mask.class_name
            assert (annotation.image == decode_mask(mask.rle)).all()


@pytest.mark.parametrize("masks", ["rle", "polygon"])
def test_cvat(tmp_path: Path, predictions: list[Prediction], image_root: Path, masks: str) -> None:
    options = ExportOptions(mask_form=masks)  # type: ignore[arg-type]
    (tmp_path / "images").symlink_to(image_root)
    items = load("cvat", tmp_path, "cvat", predictions, options=options)
    for prediction in predictions:
        found = items[stem(prediction)]
        boxes = [(name, shape) for kind, name, shape in found if kind == "bbox"]
        for (name, shape), box in zip(boxes, prediction.boxes, strict=True):
            assert name == box.class_name
            assert corners(shape) == pytest.approx(box.box, abs=0.0101)
        points = [(name, shape.points) for kind, name, shape in found if kind == "points"]
        for (name, place), point in zip(points, prediction.points, strict=True):
            assert name == point.class_name
            assert place == pytest.approx((point.x, point.y), abs=0.0051)
        kinds = {kind for kind, _, _ in found if kind in ("mask", "polygon")}
        assert kinds <= {"mask" if masks == "rle" else "polygon"}


def test_yolo(tmp_path: Path) -> None:
    boxes = (Box("dog", (3.25, 4.0, 31.5, 19.75), 0.5), Box("a b é", (0.0, 0.0, 60.0, 7.0), 0.4))
    prediction = Prediction("one image.jpg", 60, 40, {}, boxes=boxes)
    (tmp_path / "images" / "train").mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "images/train/one image.jpg")
    items = load(
        "yolo",
        tmp_path,
        "yolo",
        [prediction],
        class_names=("dog", "a b é"),
        options=ExportOptions(),
    )
    (found,) = items.values()
    assert [name for _, name, _ in found] == ["dog", "a b é"]
    for (_, _, shape), box in zip(found, boxes, strict=True):
        assert corners(shape) == pytest.approx(box.box, abs=0.02)


def test_voc(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    mask = random.random((40, 60)) < 0.6
    box = Box("dog", (3.0, 4.0, 31.0, 20.0), 0.5)
    prediction = Prediction(
        "cats/one.jpg", 60, 40, {}, boxes=(box,), masks=(Mask("a b é", encoded(mask), 0.7),)
    )
    for exporter in ("voc", "voc-segmentation"):
        items = load(
            "voc_segmentation" if exporter.endswith("segmentation") else "voc_detection",
            tmp_path / exporter,
            exporter,
            [prediction],
            class_names=("dog", "a b é"),
            options=ExportOptions(),
        )
        found = items["cats/one"]
        shapes = {(kind, name): shape for kind, name, shape in found}
        if exporter == "voc":
            # Datumaro takes VOC's numbers as they are: 1-based, the last pixel counted in.
            assert corners(shapes["bbox", "dog"]) == [4, 5, 31, 20]
        else:
            assert (shapes["mask", "a b é"].image == mask).all()
