"""COCO files, read by pycocotools and supervision."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.output.exporters.conftest import CLASS_NAMES, encoded
from weakloc.errors import PredictionsError
from weakloc.output.exporters import EXPORTERS, Content, ExportOptions, export_format
from weakloc.rle import decode_mask
from weakloc.structures import Box, Mask, Prediction, objects_of

# pycocotools 2.0 still has NumPy 1's way of making arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def export(
    name: str, predictions: list[Prediction], out: Path, options: ExportOptions | None = None
) -> Path:
    return export_format(
        name,
        Content(
            iter(predictions),
            class_names=CLASS_NAMES,
            options=options or ExportOptions(image_prefix=""),
        ),
        out,
    )


def load(path: Path) -> COCO:
    with redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("masks", ["rle", "polygon"])
def test_pycocotools_reads_the_boxes_scores_and_masks_that_were_predicted(
    tmp_path: Path, predictions: list[Prediction], masks: str
) -> None:
    path = export("coco", predictions, tmp_path, ExportOptions(mask_form=masks))  # type: ignore[arg-type]
    coco = load(path)
    names = {number: entry["name"] for number, entry in coco.cats.items()}
    assert tuple(names[number] for number in sorted(names)) == CLASS_NAMES
    num_masks = 0
    for number, prediction in enumerate(predictions, start=1):
        image = coco.imgs[number]
        assert (image["file_name"], image["width"], image["height"]) == (
            prediction.image,
            prediction.width,
            prediction.height,
        )
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert len(annotations) == len(prediction.boxes)
        paired = {mask.score: mask for mask in prediction.masks}  # scores differ in the fixture
        for box, annotation in zip(prediction.boxes, annotations, strict=True):
            assert names[annotation["category_id"]] == box.class_name
            assert annotation["score"] == box.score
            left, top, width, height = annotation["bbox"]
            assert (left, top, left + width, top + height) == pytest.approx(box.box, abs=1e-9)
            if box.score in paired:
                wanted = decode_mask(paired[box.score].rle)
                assert (coco.annToMask(annotation).astype(bool) == wanted).all()
                assert annotation["area"] == wanted.sum()
                num_masks += 1
            else:
                assert annotation["segmentation"] == []
    assert num_masks == sum(len(prediction.masks) for prediction in predictions) > 5


def test_the_results_are_evaluated_as_perfect_against_the_instances(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    truth = load(export("coco", predictions, tmp_path))
    results = export("coco-results", predictions, tmp_path)
    with redirect_stdout(io.StringIO()):
        found = truth.loadRes(str(results))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_results_keep_every_mask(tmp_path: Path, predictions: list[Prediction]) -> None:
    results = json.loads(export("coco-results", predictions, tmp_path).read_text("utf-8"))
    written = [item["segmentation"] for item in results if "segmentation" in item]
    assert written == [mask.rle for prediction in predictions for mask in prediction.masks]


@pytest.mark.parametrize("masks", ["rle", "polygon"])
def test_supervision_reads_the_same_boxes(
    tmp_path: Path, predictions: list[Prediction], image_root: Path, masks: str
) -> None:
    import supervision

    path = export("coco", predictions, tmp_path, ExportOptions(mask_form=masks))  # type: ignore[arg-type]
    data_set = supervision.DetectionDataset.from_coco(str(image_root), str(path))
    assert tuple(data_set.classes) == CLASS_NAMES
    by_image = {
        str(Path(image).relative_to(image_root)): found
        for image, found in data_set.annotations.items()
    }
    for prediction in predictions:
        found = by_image[prediction.image]
        wanted = [box.box for box in prediction.boxes]
        assert np.reshape(found.xyxy, (-1, 4)) == pytest.approx(np.reshape(wanted, (-1, 4)))
        classes = [data_set.classes[index] for index in found.class_id]
        assert classes == [box.class_name for box in prediction.boxes]


def test_a_mask_without_a_box_is_an_object_and_one_far_from_its_box_as_well() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 6:16] = True
    far = Box("dog", (20.0, 10.0, 29.0, 19.0), 0.5)
    other_class = Box("cat", (6.0, 4.0, 16.0, 9.0), 0.4)
    prediction = Prediction(
        "a.jpg", 30, 20, {}, boxes=(far, other_class), masks=(Mask("dog", encoded(mask), 0.7),)
    )
    things = objects_of(prediction)
    assert [(thing.box, thing.score) for thing in things] == [
        (far.box, 0.5),
        (other_class.box, 0.4),
        ((6.0, 4.0, 16.0, 9.0), 0.7),
    ]
    near = Box("dog", (5.5, 4.0, 16.0, 10.0), 0.9)
    (thing,) = objects_of(replace(prediction, boxes=(near,)))
    assert (thing.box, thing.score, thing.rle) == (near.box, 0.9, prediction.masks[0].rle)
    nothing = Mask("dog", encoded(np.zeros((20, 30), dtype=bool)), 0.7)
    assert objects_of(replace(prediction, boxes=(), masks=(nothing,))) == []


def test_no_predictions_make_an_empty_but_valid_file(tmp_path: Path) -> None:
    document = json.loads(export("coco", [], tmp_path).read_text("utf-8"))
    assert (document["images"], document["annotations"]) == ([], [])
    assert json.loads(export("coco-results", [], tmp_path).read_text("utf-8")) == []


def test_a_failure_half_way_leaves_no_file(tmp_path: Path, predictions: list[Prediction]) -> None:
    bad = replace(predictions[2], boxes=(Box("no such class", (0, 0, 1, 1), 1.0),))
    for name in EXPORTERS:
        if name == "parquet" and find_spec("pyarrow") is None:
            continue
        with pytest.raises(PredictionsError, match="no such class"):
            export(name, [bad, *predictions], tmp_path / name)
        left = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert [path.name for path in left if path.name != "config.xml"] == []
