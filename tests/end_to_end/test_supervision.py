"""Predictions as the package supervision's detections, and its detections as drawn boxes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import weakloc
from weakloc.cli import run as command
from weakloc.rle import encode_mask
from weakloc.structures import Box, Mask, Prediction

sv = pytest.importorskip("supervision", reason="supervision is not installed")

WIDTH, HEIGHT = 90, 61
SCORES = {"cat": 0.9, "a dog": 0.2, "cow": 0.7}


@pytest.fixture
def prediction() -> Prediction:
    """A box with its mask, a box without, and a mask without a box."""
    cat = np.zeros((HEIGHT, WIDTH), dtype=bool)
    cat[10:30, 5:40] = True
    stray = np.zeros_like(cat)
    stray[50:60, 70:80] = True
    masks = (Mask("cat", encode_mask(cat), 0.9), Mask("a dog", encode_mask(stray), 0.2))
    boxes = (Box("cow", (50.5, 5.0, 80.0, 40.0), 0.7), Box("cat", (5.0, 10.0, 41.0, 30.0), 0.8))
    return Prediction("a b/1.png", WIDTH, HEIGHT, SCORES, boxes=boxes, masks=masks)


def test_detections_are_the_objects(prediction: Prediction) -> None:
    detections = prediction.to_supervision()
    assert detections.xyxy.tolist() == [[50.5, 5, 80, 40], [5, 10, 41, 30], [70, 50, 80, 60]]
    assert detections.confidence.tolist() == [0.7, 0.8, 0.2]
    assert detections.class_id.tolist() == [2, 0, 1]
    assert detections.data["class_name"].tolist() == ["cow", "cat", "a dog"]
    assert detections.mask.sum(axis=(1, 2)).tolist() == [0, 20 * 35, 10 * 10]
    assert detections.mask[1, 10:30, 5:40].all()
    cats = detections[detections.data["class_name"] == "cat"]
    assert sv.Detections.merge([cats, detections]).class_id.tolist() == [0, 2, 0, 1]


def test_nothing_and_no_masks_are_detections_too() -> None:
    nothing = Prediction("1.png", WIDTH, HEIGHT, SCORES).to_supervision()
    boxes = (Box("cow", (1, 2, 3, 4), 0.5),)
    plain = Prediction("1.png", WIDTH, HEIGHT, SCORES, boxes=boxes).to_supervision()
    assert nothing.is_empty()
    assert nothing.mask is plain.mask is None
    assert len(sv.Detections.merge([nothing, plain])) == 1


def test_that_the_package_is_missing_is_said(
    prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(weakloc.WeaklocError, match='pip install "supervision"'):
        prediction.to_supervision()


@pytest.mark.parametrize(
    ("annotator", "drawn", "bare"),
    [
        ("BoxAnnotator", [(20, 50), (30, 5)], [(20, 60), (20, 20)]),  # (row, column)
        ("MaskAnnotator", [(20, 20), (55, 75)], [(20, 60), (5, 5)]),
        ("PolygonAnnotator", [(20, 5), (55, 70)], [(20, 60), (20, 20)]),
        ("ColorAnnotator", [(20, 60), (20, 20)], [(45, 45)]),
        ("LabelAnnotator", [(5, 52)], [(58, 30)]),
    ],
)
def test_annotators_draw_what_was_found_where_it_is(
    prediction: Prediction,
    annotator: str,
    drawn: list[tuple[int, int]],
    bare: list[tuple[int, int]],
) -> None:
    scene = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    picture = getattr(sv, annotator)().annotate(scene.copy(), prediction.to_supervision())
    for row, column in drawn:
        assert (picture[row - 1 : row + 2, column - 1 : column + 2] != 255).any(), (row, column)
    for row, column in bare:
        assert (picture[row, column] == 255).all(), (row, column)


def test_what_a_run_finds_can_be_corrected_and_is_drawn_boxes_then(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    run, images = tmp_path / "run", scenes / "JPEGImages"
    shutil.copytree(trained, run)
    loaded, paths = weakloc.load(run), sorted(images.iterdir())[:6]
    predictions = loaded.predict(paths, places=weakloc.Places(top=1))
    drawn = {item.image: item.to_supervision() for item in predictions}  # absolute paths
    for detections in drawn.values():
        detections.xyxy[:, :2] += 1.0
    file = tmp_path / "drawn.json"
    data_set = weakloc.from_supervision(drawn, images, file, class_names=loaded.class_names)
    for sample, detections in zip(data_set.samples(), drawn.values(), strict=True):
        with Image.open(sample.path) as image:
            width, height = image.size
        boxes = np.array([box.box for box in sample.drawn.boxes])
        assert sample.name in {path.name for path in paths}
        assert [box.class_index for box in sample.drawn.boxes] == detections.class_id.tolist()
        assert np.allclose(boxes, np.minimum(detections.xyxy, (width, height, width, height)))
    given = ["--labels", str(file), "--boxes", "4", "--quiet"]
    assert command(["calibrate", str(run), str(images), *given]) == 0
    assert json.loads((run / "run.json").read_text())["thresholds"]["num_boxes_used"] > 0


def test_a_detection_data_set_gives_drawn_boxes_by_the_names_of_its_classes(tmp_path: Path) -> None:
    photographs = tmp_path / "my phötos"
    photographs.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(photographs / "1.png")
    path = str(photographs / "1.png")
    of_image = sv.Detections(
        xyxy=np.array([[1.5, 2, 30, 40], [3, 4, 50, 60]]), class_id=np.array([0, 1])
    )
    theirs = sv.DetectionDataset(["cow", "cat"], [path], {path: of_image})
    names, out = ("cat", "a dog", "cow"), tmp_path / "drawn.json"
    data_set = weakloc.from_supervision(theirs.annotations, photographs, out, class_names=names)
    (sample,) = data_set.samples()
    assert sample.name == "1.png"
    assert data_set.class_names == names
    assert sample.labels.tolist() == [1, 0, 1]
    boxes = [(box.class_index, box.box) for box in sample.drawn.boxes]
    assert boxes == [(2, (1.5, 2, 30, 40)), (0, (3, 4, 50, 60))]
    numbered = weakloc.from_supervision({"1.png": of_image}, photographs, out, class_names=names)
    assert [box.class_index for sample in numbered.samples() for box in sample.drawn.boxes] == [
        0,
        1,
    ]
    with pytest.raises(weakloc.WeaklocError, match="there is no class 'cow'"):
        weakloc.from_supervision(theirs.annotations, photographs, out, class_names=("cat",))
