"""What training tools make of the exports, asked of the tools themselves where they are installed.

None of them is a dependency: `pip install ultralytics rfdetr` in an environment apart runs these.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path

import pytest

from tests.output.exporters.test_splits import CLASSES, export, photographs, pictured
from weakloc.structures import Prediction

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ("images/a b/{}.jpg", "ä ö/{} [1].jpg", "x/{}.jpg")


@pytest.fixture
def predictions() -> list[Prediction]:
    return [
        pictured(NAMES[i % 3].format(i), *([CLASSES[i % 3]] if i % 10 else []), size=(140, 90))
        for i in range(40)
    ]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is not that of the export."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


@pytest.mark.parametrize("name", ["yolo", "yolo-segmentation"])
def test_ultralytics_loads_both_splits_with_every_box(
    elsewhere: Path, predictions: list[Prediction], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ultralytics", reason="ultralytics is not installed")
    from ultralytics.data import YOLODataset, utils

    monkeypatch.setattr(utils, "check_font", lambda _: None)  # would be downloaded
    root = photographs(elsewhere / "my phötos", predictions)
    path = export(predictions, elsewhere / "labelled [2]" / name, name, image_root=root)
    description = utils.check_det_dataset(os.path.relpath(path), autodownload=False)
    assert description["names"] == dict(enumerate(CLASSES))
    numbers = set[str]()
    for split, count in (("train", 36), ("val", 4)):
        data = YOLODataset(
            description[split], data=description, imgsz=64, augment=False, task="detect"
        )
        assert len(data) == count
        for label in data.labels:
            number = Path(label["im_file"]).stem.partition(" ")[0]
            numbers.add(number)
            assert label["cls"].ravel().tolist() == ([int(number) % 3] if int(number) % 10 else [])
            for x, y, width, height in label["bboxes"]:
                sides = (x * 140, y * 90, width * 140, height * 90)
                assert sides == pytest.approx((14, 10.5, 20, 15), abs=1e-3)
        assert data[0]["img"].shape[0] == 3
    assert len(numbers) == 40


def test_rf_detr_loads_both_splits_with_every_box(
    elsewhere: Path, predictions: list[Prediction]
) -> None:
    pytest.importorskip("rfdetr", reason="rfdetr is not installed")
    from rfdetr.datasets import build_roboflow

    root = photographs(elsewhere / "my phötos", predictions)
    out = export(predictions, elsewhere / "labelled", "coco-splits", image_root=root)
    given = Namespace(
        dataset_dir=str(out), square_resize_div_64=True, segmentation_head=False,
        multi_scale=False, expanded_scales=False, patch_size=16, num_windows=2,
    )  # fmt: skip
    num_boxes = 0
    for split, count in (("train", 36), ("val", 4)):
        data = build_roboflow(split, given, 64)
        assert len(data) == count
        num_boxes += len(data.coco.anns)
        for index in range(count):
            image, target = data[index]  # crops of the training images lose boxes
            assert image.shape[0] == 3
            assert set(target["labels"].tolist()) <= {0, 1, 2}
    assert num_boxes == 36


def test_pycocotools_loads_each_split_and_the_images_lie_beside_it(
    elsewhere: Path, predictions: list[Prediction], capsys: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO

    root = photographs(elsewhere / "my phötos", predictions)
    out = export(predictions, elsewhere / "labelled", "coco-splits", image_root=root)
    names = []
    for split in ("train", "valid"):
        file = out / split / "_annotations.coco.json"
        coco = COCO(str(file))
        assert [record["name"] for record in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        for record in coco.loadImgs(coco.getImgIds()):
            assert (file.parent / record["file_name"]).is_file()
            for annotation in coco.loadAnns(coco.getAnnIds(record["id"])):
                assert annotation["bbox"] == [4, 3, 20, 15]
        names += [record["file_name"] for record in json.loads(file.read_text())["images"]]
    assert sorted(names) == sorted(prediction.image for prediction in predictions)
