"""YOLO labels, read by plain code and by supervision."""

from __future__ import annotations

import glob
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.output.exporters.conftest import CLASS_NAMES
from tests.output.exporters.oracles import fill_outline
from weakloc.errors import PredictionsError
from weakloc.output.exporters import Content, ExportOptions, export_format
from weakloc.rle import decode_mask
from weakloc.structures import Prediction


def export(
    name: str, predictions: list[Prediction], out: Path, image_root: Path | None = None
) -> Path:
    return export_format(
        name,
        Content(
            iter(predictions),
            class_names=CLASS_NAMES,
            image_root=image_root,
            options=ExportOptions(val_share=0),
        ),
        out,
    )


def label_lines(out: Path, prediction: Prediction) -> list[list[str]]:
    (path,) = (out / "labels").glob(f"*/{glob.escape(prediction.image.rpartition('.')[0])}.txt")
    return [line.split(" ") for line in path.read_text().splitlines()]


def test_boxes_are_shares_of_the_image(tmp_path: Path, predictions: list[Prediction]) -> None:
    description = yaml.safe_load(export("yolo", predictions, tmp_path).read_text("utf-8"))
    assert description["names"] == dict(enumerate(CLASS_NAMES))
    for prediction in predictions:
        lines = label_lines(tmp_path, prediction)
        assert len(lines) == len(prediction.boxes)
        for line, box in zip(lines, prediction.boxes, strict=True):
            assert CLASS_NAMES[int(line[0])] == box.class_name
            x, y, width, height = (float(share) for share in line[1:])
            assert (x - width / 2) * prediction.width == pytest.approx(box.box[0], abs=1e-5)
            assert (y - height / 2) * prediction.height == pytest.approx(box.box[1], abs=1e-5)
            assert (x + width / 2) * prediction.width == pytest.approx(box.box[2], abs=1e-5)
            assert (y + height / 2) * prediction.height == pytest.approx(box.box[3], abs=1e-5)


def test_polygons_filled_again_are_the_masks(tmp_path: Path, predictions: list[Prediction]) -> None:
    export("yolo-segmentation", predictions, tmp_path)
    for prediction in predictions:
        size = (prediction.width, prediction.height)
        masks = {mask.score: mask for mask in prediction.masks}
        for line, box in zip(label_lines(tmp_path, prediction), prediction.boxes, strict=True):
            corners = np.array([float(share) for share in line[1:]]).reshape(-1, 2) * size
            if box.score in masks:
                filled = fill_outline(np.rint(corners), size=size)
                assert np.abs(corners - np.rint(corners)).max() < 1e-5
                assert (filled == decode_mask(masks[box.score].rle)).all()
            else:
                assert corners[0] == pytest.approx(box.box[:2], abs=1e-5)
                assert corners[2] == pytest.approx(box.box[2:], abs=1e-5)


def test_supervision_reads_the_boxes_through_the_links_to_the_images(
    tmp_path: Path, predictions: list[Prediction], image_root: Path
) -> None:
    import supervision

    flat = [prediction for prediction in predictions if "/" not in prediction.image]
    path = export("yolo", flat, tmp_path / "yolo", image_root)
    assert (tmp_path / "yolo/images/train/plain.jpg").is_file()
    data_set = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "yolo/images/train"), str(tmp_path / "yolo/labels/train"), str(path)
    )
    assert tuple(data_set.classes) == CLASS_NAMES
    by_name = {Path(image).name: found for image, found in data_set.annotations.items()}
    for prediction in flat:
        found = by_name.get(prediction.image)
        if found is None:
            continue  # supervision looks at JPEG and PNG only
        wanted = np.reshape([box.box for box in prediction.boxes], (-1, 4))
        assert found.xyxy == pytest.approx(wanted, abs=1e-3)
        assert [CLASS_NAMES[i] for i in found.class_id] == [b.class_name for b in prediction.boxes]
    assert "plain.jpg" in by_name


def test_an_image_without_objects_has_an_empty_file(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    export("yolo", predictions, tmp_path)
    assert (tmp_path / "labels/train/empty.txt").read_text() == ""


@pytest.mark.parametrize("name", ["yolo", "voc", "labelme"])
def test_images_that_would_share_a_file_are_an_error(tmp_path: Path, name: str) -> None:
    pair = [Prediction("a/b.jpg", 9, 5, {}), Prediction("a/b.png", 9, 5, {})]
    with pytest.raises(PredictionsError, match=r"'a/b.png' would share a file"):
        export(name, pair, tmp_path)


@pytest.mark.parametrize("image", ["../up.jpg", "/etc/passwd.jpg", "a/../../b.jpg", "c:\\d.jpg"])
@pytest.mark.parametrize("name", ["yolo", "voc", "voc-segmentation", "labelme"])
def test_no_file_is_written_outside_of_the_folder(tmp_path: Path, name: str, image: str) -> None:
    with pytest.raises(PredictionsError, match="leads out"):
        export(name, [Prediction(image, 9, 5, {})], tmp_path / "out")
