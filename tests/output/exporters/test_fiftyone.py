"""FiftyOne's dataset folder, read by plain code; tests/test_fiftyone.py has FiftyOne itself."""

from __future__ import annotations

import base64
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.output.exporters.conftest import CLASS_NAMES
from weakloc.output.exporters import Content, export_format
from weakloc.output.exporters.fiftyone import fields_of
from weakloc.rle import decode_mask
from weakloc.structures import Disagreement, Prediction, objects_of


def test_samples_come_back_as_the_predictions(
    tmp_path: Path, predictions: list[Prediction], image_root: Path
) -> None:
    predictions[0] = replace(predictions[0], extra={"split": "val"})
    out = export_format("fiftyone", Content(predictions, CLASS_NAMES, image_root), tmp_path)
    assert json.loads((out / "metadata.json").read_text())["info"]["classes"] == list(CLASS_NAMES)
    samples = json.loads((out / "samples.json").read_text())["samples"]
    assert [sample["tags"] for sample in samples] == [["val"]] + [[]] * (len(predictions) - 1)
    for sample, prediction in zip(samples, predictions, strict=True):
        width, height = prediction.width, prediction.height
        assert (out / sample["filepath"]).samefile(image_root / prediction.image)
        assert sample["metadata"]["width"] == width
        boxes = sample["boxes"]["detections"]
        for box, item in zip(boxes, objects_of(prediction), strict=True):
            left, top, across, down = np.multiply(box["bounding_box"], [width, height] * 2)
            assert (left, top, left + across, top + down) == pytest.approx(item.box)
            assert (box["label"], box["confidence"]) == (item.class_name, item.score)
            assert ("mask" in box) == (item.rle is not None)
            if item.rle is not None:
                packed = base64.b64decode(box["mask"]["$binary"]["base64"])
                pixels = np.load(io.BytesIO(zlib.decompress(packed)))
                x, y = int(item.box[0]), int(item.box[1])
                rows, columns = pixels.shape
                assert (pixels == decode_mask(item.rle)[y : y + rows, x : x + columns]).all()
                assert 0 <= columns - across < 2
                assert 0 <= rows - down < 2
        points = [
            (point["label"], point["points"][0][0] * width, point["points"][0][1] * height)
            for point in sample["points"]["keypoints"]
        ]
        assert points == [
            (p.class_name, pytest.approx(p.x), pytest.approx(p.y)) for p in prediction.points
        ]
        classes = {c["label"]: c["confidence"] for c in sample["classes"]["classifications"]}
        assert classes == {n: score for n, score in prediction.scores.items() if score >= 0.5}
        assert sample["doubt"] == prediction.doubt


@pytest.mark.parametrize(
    ("kinds", "number"),
    [([], 0), ([("missing", 0.02)], 0.98), ([("unexpected", 0.95), ("missing", 0.01)], 0.99)],
)
def test_the_number_of_a_disagreement_is_that_of_the_surest(
    kinds: list[tuple[str, float]], number: float
) -> None:
    contradicted = tuple(Disagreement("cat", kind, score) for kind, score in kinds)
    fields = fields_of(Prediction("1.png", 9, 5, {"cat": 0.5}, disagreements=contradicted), 0.5)
    assert fields["disagreement"] == pytest.approx(number)
    tags = fields["disagreements"]["classifications"]
    assert [(tag["kind"], tag["confidence"]) for tag in tags] == kinds
