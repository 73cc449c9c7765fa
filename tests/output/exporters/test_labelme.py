"""LabelMe files, read by plain code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.output.exporters.conftest import CLASS_NAMES
from tests.output.exporters.oracles import fill_outline
from weakloc.output.exporters import Content, ExportOptions, export_format
from weakloc.rle import decode_mask
from weakloc.structures import Prediction


def test_shapes_come_back_as_the_predictions(tmp_path: Path, predictions: list[Prediction]) -> None:
    out = export_format(
        "labelme",
        Content(
            iter(predictions), class_names=CLASS_NAMES, options=ExportOptions(tag_threshold=0.3)
        ),
        tmp_path,
    )
    for prediction in predictions:
        path = out / Path(prediction.image).with_suffix(".json")
        document = json.loads(path.read_text("utf-8"))
        assert document["imagePath"] == Path(prediction.image).name
        assert document["imageData"] is None
        assert (document["imageWidth"], document["imageHeight"]) == (
            prediction.width,
            prediction.height,
        )
        assert document["flags"] == {n: score >= 0.3 for n, score in prediction.scores.items()}
        shapes = document["shapes"]
        boxes = [shape for shape in shapes if shape["shape_type"] == "rectangle"]
        assert [
            (shape["label"], tuple(np.ravel(shape["points"]).tolist()), shape["score"])
            for shape in boxes
        ] == [(box.class_name, box.box, box.score) for box in prediction.boxes]
        points = [shape for shape in shapes if shape["shape_type"] == "point"]
        assert [(shape["label"], *shape["points"][0]) for shape in points] == [
            (point.class_name, point.x, point.y) for point in prediction.points
        ]
        for number, mask in enumerate(prediction.masks, start=1):
            drawn = np.zeros((prediction.height, prediction.width), dtype=bool)
            for shape in shapes:
                if shape["group_id"] == number:
                    corners = np.array(shape["points"])
                    drawn |= fill_outline(corners, size=(prediction.width, prediction.height))
            assert (drawn == decode_mask(mask.rle)).all()
