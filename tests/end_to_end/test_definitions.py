"""`weakloc evaluate` on files whose numbers follow from the definitions by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.metrics.oracles import slow_average_precision
from weakloc.cli import run as weakloc
from weakloc.geometry import BoxLTRB, PointXY
from weakloc.metrics.uncertainty import draw_image
from weakloc.output.exporters.jsonl import write_predictions
from weakloc.structures import Box, Point, Prediction

SIZE = (90, 70)
BOX = (30.0, 25.0, 60.0, 45.0)
# Of labels [1, 0, 1, 1, 0] in the order of the ranking; COCO's reads 34 recalls at precision 1 and
# 67 at 3/4.
PUBLISHED = {
    "voc12": 0.833333,
    "voc07": 0.840909,
    "nonint": 0.805556,
    "coco": (34 + 67 * 0.75) / 101,
}
RANKED = ("classification_map", "point_map", "box_map_50")


def _coco(folder: Path, drawn: Sequence[BoxLTRB | None]) -> Path:
    """One image for each cat or None."""
    (folder / "val").mkdir(parents=True)
    annotations = []
    for number, box in enumerate(drawn):
        Image.new("RGB", SIZE).save(folder / "val" / f"{number}.png")
        if box is not None:
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            area, image_id = bbox[2] * bbox[3], {"image_id": number, "id": number + 1}
            kind = {"category_id": 1, "iscrowd": 0, "bbox": bbox, "area": area}
            annotations.append({**image_id, **kind})
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": SIZE[0], "height": SIZE[1]}
            for number in range(len(drawn))
        ],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": annotations,
    }
    (folder / "val" / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


def _predictions(
    path: Path,
    *,
    boxes: Sequence[BoxLTRB],
    points: Sequence[PointXY],
    scores: Sequence[float],
    names: str = "val/{}.png",
) -> Path:
    write_predictions(
        path,
        (
            Prediction(
                names.format(number),
                *SIZE,
                {"cat": score},
                points=(Point("cat", *point, score),),
                boxes=(Box("cat", box, score),),
            )
            for number, (box, point, score) in enumerate(zip(boxes, points, scores, strict=True))
        ),
    )
    return path


def _evaluated(tmp_path: Path, predictions: Path, data: Path, *flags: str) -> Mapping[str, float]:
    out = tmp_path / "metrics.json"
    arguments = ["evaluate", str(predictions), str(data), "--out", str(out), "--quiet"]
    assert weakloc([*arguments, "--resamples", "0", *flags]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    return {metric["name"]: metric["value"] for metric in metrics}


@pytest.fixture
def ranked(tmp_path: Path) -> tuple[Path, Path]:
    """Tags, points and boxes that all rank as [1, 0, 1, 1, 0] with three positives."""
    data = _coco(tmp_path / "data", [BOX, None, BOX, BOX, None])
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]
    middle = (BOX[0] + 1, BOX[1] + 1)
    file = tmp_path / "predictions.jsonl"
    return _predictions(file, boxes=[BOX] * 5, points=[middle] * 5, scores=scores), data


def test_every_definition_of_every_ranking_has_its_published_value(
    tmp_path: Path, ranked: tuple[Path, Path]
) -> None:
    values = _evaluated(tmp_path, *ranked, "--ap", "all")
    for name in RANKED:
        for definition, expected in PUBLISHED.items():
            number = name if definition == "voc12" else f"{name}_{definition}"
            assert values[number] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("definition", ["voc07", "nonint", "coco"])
def test_one_definition_is_printed_alone_under_its_name(
    definition: str, tmp_path: Path, ranked: tuple[Path, Path]
) -> None:
    values = _evaluated(tmp_path, *ranked, "--ap", definition)
    for name in RANKED:
        assert values[f"{name}_{definition}"] == pytest.approx(PUBLISHED[definition], abs=1e-6)
        assert name not in values


def test_a_file_is_measured_by_voc12_and_half_open_boxes(
    tmp_path: Path, ranked: tuple[Path, Path]
) -> None:
    values = _evaluated(tmp_path, *ranked)
    for name in RANKED:
        assert values[name] == pytest.approx(PUBLISHED["voc12"], abs=1e-6)
        assert not {f"{name}_{definition}" for definition in PUBLISHED} & set(values)
    assert not any("inclusive" in name for name in values)


def test_intervals_are_of_each_definition_in_every_resample(
    tmp_path: Path, ranked: tuple[Path, Path]
) -> None:
    out = tmp_path / "metrics.json"
    arguments = ["evaluate", *map(str, ranked), "--out", str(out), "--ap", "all", "--quiet"]
    assert weakloc([*arguments, "--resamples", "40"]) == 0
    metrics = {metric["name"]: metric for metric in json.loads(out.read_text())["metrics"]}
    draws = [draw_image(f"val/{number}.png", 40).weights[1:] for number in range(5)]
    labels, scores = [1, -1, 1, 1, -1], [0.9, 0.8, 0.7, 0.6, 0.5]
    for definition in PUBLISHED:
        values = []
        for resample in np.transpose(draws):
            # Copies of one image share a score: a group, at whose end precision is read.
            drawn = np.repeat(range(5), resample)
            again = [scores[i] for i in drawn], [labels[i] for i in drawn]
            num_positives = again[1].count(1)
            if num_positives:
                value = slow_average_precision(*again, num_positives, definition, grouped=True)
                values.append(value)
        number = "box_map_50" if definition == "voc12" else f"box_map_50_{definition}"
        expected = np.quantile(values, [0.025, 0.975])
        assert metrics[number]["interval"] == pytest.approx(expected, abs=1e-9)
        assert f"IoU >= 0.5, half-open boxes; {definition}" in metrics[number]["convention"]


def test_inclusive_edges_add_a_pixel_to_boxes_as_they_are_given(tmp_path: Path) -> None:
    """MET-02: inclusive overlaps of 0.5 and 1/7, where half-open ones are 4/9 and 8/73."""
    for name, drawn, hit in (("half", (0, 0, 4, 9), 1.0), ("seventh", (5, 5, 14, 14), 0.0)):
        data = _coco(tmp_path / name, [drawn])
        file = tmp_path / f"{name}.jsonl"
        _predictions(file, boxes=[(0, 0, 9, 9)], points=[(1, 1)], scores=[0.5])
        inclusive = _evaluated(tmp_path, file, data, "--box-edges", "inclusive")
        assert {inclusive["box_map_50_inclusive"], inclusive["corloc_inclusive"]} == {hit}
        assert "box_map_50" not in inclusive
        half_open = _evaluated(tmp_path, file, data, "--box-edges", "half-open")
        assert {half_open["box_map_50"], half_open["corloc"]} == {0.0}


def test_half_open_boxes_of_a_voc_folder_overlap_as_the_devkit_counts(tmp_path: Path) -> None:
    """xmin, xmax = 1, 5 are five pixels; against 1, 10 the devkit's overlap is 50 / 100."""
    data = tmp_path / "VOC2012"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (data / folder).mkdir(parents=True)
    Image.fromarray(np.zeros(SIZE[::-1], np.uint8)).save(data / "JPEGImages" / "one.jpg")
    (data / "ImageSets" / "Main" / "val.txt").write_text("one\n")
    sides = "<xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>10</ymax>"
    drawn = f"<object><name>cat</name><bndbox>{sides.format(5)}</bndbox></object>"
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    annotation = f"<annotation><filename>one.jpg</filename>{size}{drawn}</annotation>"
    (data / "Annotations" / "one.xml").write_text(annotation)
    for right, hit in ((10.0, 1.0), (11.0, 0.0)):
        file = tmp_path / "predictions.jsonl"
        box = (0.0, 0.0, right, 10.0)  # xmax is `right`
        name = "JPEGImages/one.jpg"
        _predictions(file, boxes=[box], points=[(1, 1)], scores=[0.5], names=name)
        assert _evaluated(tmp_path, file, data)["box_map_50"] == hit


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (0.5, {"point_map": 0.0, "point_map_18px": 1.0, "pointing_accuracy": 1.0}),
        (14.5, {"point_map": 0.0, "point_map_18px": 1.0, "pointing_accuracy": 1.0}),
        (15.5, {"point_map": 0.0, "point_map_18px": 1.0, "pointing_accuracy": 0.0}),
        (17.5, {"point_map": 0.0, "point_map_18px": 1.0, "pointing_accuracy": 0.0}),
        (18.5, {"point_map": 0.0, "point_map_18px": 0.0, "pointing_accuracy": 0.0}),
    ],
)
def test_points_beyond_each_side_of_a_box_count_up_to_the_tolerance(
    distance: float, expected: Mapping[str, float], tmp_path: Path
) -> None:
    """MET-07: to the left, above, to the right and below; without tolerance none counts."""
    left, top, right, bottom = BOX
    beyond = [
        *((left - distance, 35.0), (45.0, top - distance)),
        *((right + distance, 35.0), (45.0, bottom + distance)),
    ]
    data = _coco(tmp_path / "data", [BOX] * 4)
    file = tmp_path / "predictions.jsonl"
    _predictions(file, boxes=[BOX] * 4, points=beyond, scores=[0.5] * 4)
    values = _evaluated(tmp_path, file, data)
    assert {name: values[name] for name in expected} == expected
