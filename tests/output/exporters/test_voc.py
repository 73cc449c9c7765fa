"""Pascal VOC files, read by plain code, by supervision and by our own reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.output.exporters.conftest import CLASS_NAMES, encoded
from weakloc.data.readers import read_data_set
from weakloc.errors import PredictionsError
from weakloc.geometry import BoxLTRB
from weakloc.output.exporters import Content, export_format
from weakloc.rle import decode_mask
from weakloc.settings import ReaderOptions
from weakloc.structures import Box, Mask, Prediction


def export(
    name: str, predictions: list[Prediction], out: Path, class_names: tuple[str, ...] = CLASS_NAMES
) -> Path:
    return export_format(name, Content(iter(predictions), class_names=class_names), out)


def rounded(box: BoxLTRB) -> list[int]:
    return [round(side) for side in box]


def test_the_xml_holds_the_boxes_to_the_pixel(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    folder = export("voc", predictions, tmp_path)
    for prediction in predictions:
        root = ElementTree.parse(folder / Path(prediction.image).with_suffix(".xml")).getroot()
        path = Path(prediction.image)
        assert root.findtext("filename") == path.name
        assert root.findtext("folder") == ("" if path.parent == Path() else str(path.parent))
        assert int(root.findtext("size/width")) == prediction.width
        things = root.findall("object")
        assert [thing.findtext("name") for thing in things] == [
            box.class_name for box in prediction.boxes
        ]
        for thing, box in zip(things, prediction.boxes, strict=True):
            corners = [
                int(thing.findtext(f"bndbox/{corner}"))
                for corner in ("xmin", "ymin", "xmax", "ymax")
            ]
            left, top, right, bottom = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
            assert [left, top, right, bottom] == rounded(box.box)
            assert float(thing.findtext("score")) == box.score
    listed = (tmp_path / "ImageSets/Main/predicted.txt").read_text().splitlines()
    assert listed == [str(Path(prediction.image).with_suffix("")) for prediction in predictions]


def test_a_box_thinner_than_a_pixel_is_a_pixel_wide(tmp_path: Path) -> None:
    thin = Box("dog", (3.2, 4.0, 3.3, 9.0), 0.5)
    export("voc", [Prediction("a.jpg", 20, 10, {}, boxes=(thin,))], tmp_path)
    bounds = ElementTree.parse(tmp_path / "Annotations/a.xml").find("object/bndbox")
    assert [int(side.text) for side in bounds] == [4, 5, 4, 9]


def test_masks_hold_classes_and_objects_and_the_better_lies_above(tmp_path: Path) -> None:
    low, high = np.zeros((12, 20), dtype=bool), np.zeros((12, 20), dtype=bool)
    low[2:8, 3:12] = True
    high[5:11, 8:19] = True
    masks = (Mask("b", encoded(high), 0.9), Mask("a", encoded(low), 0.3))
    prediction = Prediction("x/y.jpg", 20, 12, {}, masks=masks)
    export("voc-segmentation", [prediction], tmp_path, ("a", "b"))
    classes = np.asarray(Image.open(tmp_path / "SegmentationClass/x/y.png"))
    instances = np.asarray(Image.open(tmp_path / "SegmentationObject/x/y.png"))
    assert (classes == np.where(high, 2, np.where(low, 1, 0))).all()
    assert (instances == np.where(high, 1, np.where(low, 2, 0))).all()
    colors = np.asarray(Image.open(tmp_path / "SegmentationClass/x/y.png").convert("RGB"))
    assert colors[3, 4].tolist() == [128, 0, 0]
    assert colors[9, 9].tolist() == [0, 128, 0]
    assert (tmp_path / "labelmap.txt").read_text().splitlines()[2:] == [
        "a:128,0,0::",
        "b:0,128,0::",
    ]


def test_predictions_without_masks_make_no_masks(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    without = [replace(prediction, masks=()) for prediction in predictions]
    with pytest.raises(PredictionsError, match="no masks among"):
        export("voc-segmentation", without, tmp_path)


def test_our_own_reader_finds_boxes_and_masks_again(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    mask = random.random((14, 22)) < 0.5
    mask[2, 3] = mask[12, 20] = True
    prediction = Prediction(
        "photo one.jpg",
        22,
        14,
        {},
        boxes=(Box("b c", (3.0, 2.0, 21.0, 13.0), 0.8), Box("a", (0.4, 0.6, 5.2, 7.4), 0.2)),
        masks=(Mask("b c", encoded(mask), 0.8),),
    )
    for name in ("voc", "voc-segmentation"):
        export(name, [prediction], tmp_path, ("a", "b c"))
    (tmp_path / "JPEGImages").mkdir()
    Image.new("RGB", (22, 14)).save(tmp_path / "JPEGImages/photo one.jpg")
    data_set = read_data_set(tmp_path, layout="voc", options=ReaderOptions())
    assert data_set.class_names == ("a", "b c")
    (sample,) = data_set.splits["predicted"]
    assert [(data_set.class_names[box.class_index], box.box) for box in sample.truth.boxes] == [
        ("b c", (3.0, 2.0, 21.0, 13.0)),
        ("a", (0.0, 1.0, 5.0, 7.0)),
    ]
    values = np.asarray(Image.open(sample.truth.segmentation_path))
    assert ((values == 2) == decode_mask(prediction.masks[0].rle)).all()


def test_supervision_reads_the_boxes(
    tmp_path: Path, predictions: list[Prediction], image_root: Path
) -> None:
    import supervision

    flat = [prediction for prediction in predictions if prediction.image == "plain.jpg"]
    folder = export("voc", flat, tmp_path)
    data_set = supervision.DetectionDataset.from_pascal_voc(str(image_root), str(folder))
    found = data_set.annotations[str(image_root / "plain.jpg")]
    assert [data_set.classes[i] for i in found.class_id] == [b.class_name for b in flat[0].boxes]
    # supervision keeps xmax and ymax as they are and takes one from xmin and ymin
    assert found.xyxy.tolist() == [rounded(box.box) for box in flat[0].boxes]


def test_names_that_xml_cannot_hold_are_an_error(tmp_path: Path) -> None:
    box = Box("a\x07b", (0, 0, 2, 2), 0.5)
    with pytest.raises(PredictionsError, match=r"U\+0007"):
        export("voc", [Prediction("a.jpg", 9, 5, {}, boxes=(box,))], tmp_path, ("a\x07b",))


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\x1b[31m.jpg"])
def test_a_name_of_several_lines_is_in_no_list(tmp_path: Path, name: str) -> None:
    mask = Mask("dog", {"size": [9, 9], "counts": "ia0"}, 0.5)
    for exporter in ("voc", "voc-segmentation"):
        with pytest.raises(PredictionsError, match=r"[Rr]ename"):
            export(exporter, [Prediction(name, 9, 9, {}, masks=(mask,))], tmp_path)


def test_a_class_of_several_lines_is_one_line_of_the_label_map(tmp_path: Path) -> None:
    export("voc", [], tmp_path, class_names=("cat\ndog:0,0,0::", "\x1b[31mred"))
    lines = (tmp_path / "labelmap.txt").read_text("utf-8").splitlines()
    assert [line.rsplit(":", 3)[0] for line in lines[2:]] == [
        "cat\\u000adog:0,0,0::",
        "\\u001b[31mred",
    ]
