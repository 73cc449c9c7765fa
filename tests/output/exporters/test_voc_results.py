"""Result files of Pascal VOC, read back and judged by the rules of its development kit."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.output.exporters.conftest import encoded
from weakloc.api.evaluation import evaluate
from weakloc.errors import PredictionsError
from weakloc.output.exporters import Content, export_all, export_format, write_predictions
from weakloc.output.settings import ExportOptions
from weakloc.settings import DataSettings, EvaluateSettings
from weakloc.structures import Box, Mask, Prediction

NAMES = ("cat", "dog", "person")
SIZE = (40, 30)
Corners = tuple[float, ...]  # 1-based, inclusive


def random_box(random: np.random.Generator) -> Corners:
    left, top = random.integers(1, 20), random.integers(1, 14)
    return left, top, left + random.integers(4, 18), top + random.integers(4, 15)


def write_truth(root: Path, random: np.random.Generator) -> list[str]:
    """Sixty annotated images; every fourth object is difficult."""
    ids = [f"2012_{number:06d}" for number in range(60)]
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for image_id in ids:
        objects = "".join(
            f"<object><name>{random.choice(NAMES)}</name><difficult>{random.integers(4) == 0:d}"
            "</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
            "</bndbox></object>".format(*random_box(random))
            for _ in range(random.integers(4))
        )
        (root / f"JPEGImages/{image_id}.jpg").touch()
        size = "<size><width>40</width><height>30</height></size>"
        xml = f"<annotation>{size}{objects}</annotation>"
        (root / f"Annotations/{image_id}.xml").write_text(xml)
    (root / "ImageSets/Main/val.txt").write_text("\n".join(ids))
    return ids


def truth_of(root: Path, image_id: str) -> list[tuple[str, bool, Corners]]:
    objects = ElementTree.parse(root / f"Annotations/{image_id}.xml").findall("object")
    corners = ("xmin", "ymin", "xmax", "ymax")
    return [
        (
            thing.findtext("name"),
            thing.findtext("difficult") == "1",
            tuple(float(thing.findtext(f"bndbox/{corner}")) for corner in corners),
        )
        for thing in objects
    ]


def predicted(root: Path, ids: list[str], random: np.random.Generator) -> list[Prediction]:
    """Some boxes are drawn ones moved a little, some are anywhere, some come twice."""
    predictions = []
    for image_id in ids:
        boxes = []
        for name, _, corners in truth_of(root, image_id):
            for _ in range(random.integers(3)):
                moved = np.add(corners, random.uniform(-2, 2, 4))
                left, top, right, bottom = (float(side) for side in moved)
                box = max(left - 1, 0.0), max(top - 1, 0.0), min(right, 40.0), min(bottom, 30.0)
                boxes.append(Box(name, box, float(random.random())))
        left, top, right, bottom = (float(side) for side in random_box(random))
        boxes.append(Box("dog", (left - 1, top - 1, right, bottom), float(random.random())))
        scores = {name: float(random.random()) for name in NAMES}
        image = f"JPEGImages/{image_id}.jpg"
        predictions.append(Prediction(image, *SIZE, scores, boxes=tuple(boxes)))
    return predictions


def area_under(hits: list[bool], num_positives: int) -> float:
    """Precision made falling, integrated over recall, as the kits since 2010 have it."""
    recall = [sum(hits[: n + 1]) / num_positives for n in range(len(hits))]
    precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    steps = [now - before for before, now in zip([0.0, *recall], recall, strict=False)]
    return sum(step * max(precision[n:]) for n, step in enumerate(steps))


def kit_classification(file: Path, root: Path, name: str) -> float:
    lines = [line.split() for line in file.read_text().splitlines()]
    hits, num_positives = [], 0
    for image_id, _ in sorted(lines, key=lambda line: -float(line[1])):
        named = [difficult for other, difficult, _ in truth_of(root, image_id) if other == name]
        if named and all(named):
            continue  # 0 in VOC's class files
        hits.append(bool(named))
        num_positives += bool(named)
    return area_under(hits, num_positives)


def kit_detection(file: Path, root: Path, name: str, ids: list[str]) -> float:
    truth = {i: [(d, box) for other, d, box in truth_of(root, i) if other == name] for i in ids}
    num_positives = sum(not difficult for drawn in truth.values() for difficult, _ in drawn)
    hits, taken = [], defaultdict(set)
    lines = [line.split() for line in file.read_text().splitlines()]
    for image_id, _, *written in sorted(lines, key=lambda line: -float(line[1])):
        one, best, best_overlap = [float(side) for side in written], None, -1.0
        for number, (_, box) in enumerate(truth[image_id]):
            width = min(one[2], box[2]) - max(one[0], box[0]) + 1
            height = min(one[3], box[3]) - max(one[1], box[1]) + 1
            if width > 0 and height > 0:
                areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (one, box)]
                overlap = width * height / (sum(areas) - width * height)
                if overlap > best_overlap:
                    best, best_overlap = number, overlap
        if best_overlap < 0.5:
            hits.append(False)
        elif not truth[image_id][best][0]:
            hits.append(best not in taken[image_id])
            taken[image_id].add(best)
    return area_under(hits, num_positives)


def test_the_kit_reads_the_same_precision_from_the_files_as_we_print(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    root = tmp_path / "VOC2012"
    ids = write_truth(root, random)
    file = tmp_path / "found" / "predictions.jsonl"
    write_predictions(file, iter(predicted(root, ids, random)))
    options = ExportOptions(voc_split="val")
    out = export_all(file, ["voc-results"], tmp_path, class_names=NAMES, options=options)
    folder = out["voc-results"] / "Main"
    assert folder == tmp_path / "voc-results/results/VOC2012/Main"
    assert {path.name for path in folder.iterdir()} == {
        f"{competition}_val_{name}.txt"
        for competition in ("comp1_cls", "comp3_det")
        for name in NAMES
    }
    ours = {}
    # The kit passes over difficult objects, but not over other boxes in images with no others.
    for metric, difficult in (("classification_map", "unknown"), ("box_map_50", "present")):
        reading = DataSettings(difficult=difficult)
        evaluated = evaluate(file, root, EvaluateSettings(resamples=0), reading=reading)
        ours[metric] = next(result.value for result in evaluated.metrics if result.name == metric)
    tags = [kit_classification(folder / f"comp1_cls_val_{n}.txt", root, n) for n in NAMES]
    boxes = [kit_detection(folder / f"comp3_det_val_{n}.txt", root, n, ids) for n in NAMES]
    assert ours["classification_map"] == pytest.approx(np.mean(tags), abs=1e-9)
    assert ours["box_map_50"] == pytest.approx(np.mean(boxes), abs=1e-9)
    assert 0.2 < np.mean(boxes) < 0.9


def test_a_pixel_of_the_first_row_and_column_is_1_1(tmp_path: Path) -> None:
    box = Box("cat", (0, 0, 1, 1), 0.25)
    prediction = Prediction("a/b.jpg", *SIZE, {"cat": 0.5}, boxes=(box,))
    options = ExportOptions(voc_challenge="VOC2007", voc_training="external")
    arguments = {"class_names": ("cat", "a/b"), "options": options}
    out = export_format("voc-results", Content([prediction], **arguments), tmp_path)
    assert out == tmp_path / "results" / "VOC2007"
    assert (out / "Main/comp4_det_test_cat.txt").read_text() == "b 0.25 1 1 1 1\n"
    assert (out / "Main/comp2_cls_test_cat.txt").read_text() == "b 0.5\n"
    assert (out / "Main/comp2_cls_test_a%2Fb.txt").read_text() == ""


def test_every_image_has_a_picture_with_the_palette_where_any_has_a_mask(tmp_path: Path) -> None:
    low, high = np.zeros((30, 40), dtype=bool), np.zeros((30, 40), dtype=bool)
    low[2:8, 3:12], high[5:11, 8:19] = True, True
    masks = (Mask("person", encoded(high), 0.9), Mask("cat", encoded(low), 0.3))
    first = Prediction("a.jpg", *SIZE, {})
    predictions = [first, replace(first, image="b.jpg", masks=masks), replace(first, image="c.png")]
    out = export_format(
        "voc-results", Content(predictions, class_names=("person", "cat")), tmp_path
    )
    folder = out / "Segmentation/comp5_test_cls"
    assert {path.name for path in folder.iterdir()} == {"a.png", "b.png", "c.png"}
    with Image.open(folder / "a.png") as picture:
        assert not np.asarray(picture).any()
    expected = np.where(high, 15, np.where(low, 8, 0))  # VOC's numbers, not those of the run
    with Image.open(folder / "b.png") as picture:
        assert np.array_equal(np.asarray(picture), expected)
        assert np.asarray(picture.convert("RGB"))[3, 4].tolist() == [64, 0, 0]
    without = export_format("voc-results", Content([first], class_names=("cat",)), tmp_path / "no")
    assert not (without / "Segmentation").exists()


@pytest.mark.parametrize(
    ("images", "flaw"), [(("x/a.jpg", "y/a.png"), "before it"), (("a 1.jpg",), "holds a blank")]
)
def test_ids_that_the_files_cannot_tell_apart_are_an_error(
    tmp_path: Path, images: tuple[str, ...], flaw: str
) -> None:
    predictions = [Prediction(image, *SIZE, {"cat": 0.5}) for image in images]
    with pytest.raises(PredictionsError, match=flaw):
        export_format("voc-results", Content(predictions, class_names=("cat",)), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_too_many_classes_are_an_error(tmp_path: Path) -> None:
    names = [str(number) for number in range(255)]
    with pytest.raises(PredictionsError, match="255 classes"):
        export_format("voc-results", Content([], class_names=names), tmp_path)
