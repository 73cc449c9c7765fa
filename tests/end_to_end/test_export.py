"""Other formats of predictions, filtered on the command line: while predicting, or afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from weakloc.cli import run as weakloc
from weakloc.output.exporters import read_predictions

FILTERS = [
    *("--score-threshold", "0.2", "--best-per-class", "2", "--best-per-image", "3"),
    *("--tagged-only", "--tag-threshold", "0.3"),
    *("--mask-form", "polygon", "--model-version", "run 7", "--image-prefix", "s3://it/"),
]
FORMATS = ["--format", "coco", "--format", "label-studio", "--format", "jsonl"]


@pytest.fixture(scope="module")
def found(trained: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of the scenes by their tags, with the filtered formats beside them."""
    out = tmp_path_factory.mktemp("found")
    flags = ["--tags", str(scenes / "tags.csv"), "--masks", "threshold", "--points", "3"]
    small = ["--workers", "0", "--map-side", "48", "--quiet"]
    images = str(scenes / "JPEGImages")
    written = ["--out", str(out), *flags, *FORMATS, *FILTERS]
    assert weakloc(["predict", str(trained), images, *written, *small]) == 0
    return out


def test_results_for_voc_are_named_as_asked(found: Path, tmp_path: Path) -> None:
    named = ["--voc-challenge", "VOC2007", "--voc-split", "val", "--voc-training", "external"]
    written = ["--format", "voc-results", "--out", str(tmp_path), "--quiet", *named]
    assert weakloc(["export", str(found), *written]) == 0
    predictions = list(read_predictions(found / "predictions.jsonl"))
    stems = [Path(prediction.image).stem for prediction in predictions]
    results = tmp_path / "voc-results/results/VOC2007"
    for name in predictions[0].scores:
        lines = (results / f"Main/comp2_cls_val_{name}.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines] == stems
    num_boxes = [len(path.read_text().splitlines()) for path in results.glob("Main/comp4_det_*")]
    assert sum(num_boxes) == sum(len(prediction.boxes) for prediction in predictions)
    pictures = (results / "Segmentation/comp6_val_cls").glob("*.png")
    assert sorted(picture.stem for picture in pictures) == sorted(stems)


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def filtered(places: Sequence[Any], tags: Sequence[str]) -> tuple[Any, ...]:
    """The flags of FILTERS, slowly."""
    kept: list[Any] = []
    for place in sorted(places, key=lambda each: -each.score):
        same = [each for each in kept if each.class_name == place.class_name]
        if place.class_name in tags and place.score >= 0.2 and len(same) < 2 and len(kept) < 3:
            kept.append(place)
    return tuple(place for place in places if any(place is each for each in kept))


def test_the_flags_say_what_goes_into_other_formats_only(found: Path) -> None:
    everything = list(read_predictions(found / "predictions.jsonl"))
    chosen = list(read_predictions(found / "jsonl" / "predictions.jsonl"))
    num_left_out = 0
    for whole, part in zip(everything, chosen, strict=True):
        for kind in ("points", "boxes", "masks"):
            expected = filtered(getattr(whole, kind), whole.extra["tags"])
            assert getattr(part, kind) == expected
            num_left_out += len(getattr(whole, kind)) - len(expected)
        assert part.scores == whole.scores
    assert num_left_out > 20
    coco = json.loads((found / "coco" / "annotations" / "instances_predicted.json").read_text())
    assert len(coco["annotations"]) >= sum(len(each.boxes) for each in chosen) > 0
    assert {type(each["segmentation"]) for each in coco["annotations"]} == {list}
    for task, part in zip(
        json.loads((found / "label-studio" / "tasks.json").read_text()), chosen, strict=True
    ):
        assert task["data"]["image"] == f"s3://it/{part.image}"
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "run 7"
        said = [each for each in prediction["result"] if each["type"] == "choices"]
        likely = [name for name, score in part.scores.items() if score >= 0.3]
        assert [each["value"]["choices"] for each in said] == ([likely] if likely else [])


@pytest.mark.parametrize("name", ["", "predictions.jsonl"])
def test_predictions_are_exported_again_without_predicting(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "again"
    flags = ["--out", str(out), *FORMATS, *FILTERS, "--json"]
    assert weakloc(["export", str(found / name), *flags]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["coco"] == str(out / "coco" / "annotations" / "instances_predicted.json")
    again = files_below(out)
    assert len(again) == 4
    assert again == {path: found.joinpath(path).read_bytes() for path in again}


def test_yolo_finds_the_images_that_were_predicted(
    found: Path, scenes: Path, tmp_path: Path
) -> None:
    flags = ["--out", str(tmp_path), "--format", "yolo", "--quiet"]
    assert weakloc(["export", str(found), *flags]) == 0
    images = {path.name: path.resolve() for path in (tmp_path / "yolo" / "images").rglob("*.*")}
    lines = (found / "predictions.jsonl").read_text("utf-8").splitlines()
    predicted = [json.loads(line)["image"] for line in lines]
    assert images == {name: (scenes / "JPEGImages" / name).resolve() for name in predicted}
    assert all(path.is_file() for path in images.values())


def test_predictions_of_others_bring_their_classes_along(tmp_path: Path) -> None:
    """Without a predictions.json the classes are those that have scores, in their order."""
    prediction = {"schema": "weakloc.predictions/1", "image": "a.jpg", "width": 9, "height": 5}
    prediction["scores"] = {"dog": 0.9, "cat": 0.1}
    prediction["boxes"] = [{"class": "cat", "box": [0, 0, 3, 2], "score": 0.5}]
    (tmp_path / "own.jsonl").write_text(json.dumps(prediction))
    flags = ["--out", str(tmp_path / "out"), "--format", "coco", "--quiet"]
    assert weakloc(["export", str(tmp_path / "own.jsonl"), *flags]) == 0
    (file,) = (tmp_path / "out").rglob("*.json")
    coco = json.loads(file.read_text())
    assert [each["name"] for each in coco["categories"]] == ["dog", "cat"]
    assert [each["category_id"] for each in coco["annotations"]] == [2]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "these are predictions, and no --format is given"),
        (("--best-per-class", "1"), "--best-per-class would do nothing, as no --format is given"),
        (("--format", "cocoo"), "Did you mean 'coco'?"),
        (("--format", "coco", "--best-per-class", "0"), "--best-per-class is 0"),
        (("--format", "coco", "--tag-threshold", "2"), "--tag-threshold is 2"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    found: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    said: str,
) -> None:
    assert weakloc(["export", str(found), "--out", str(tmp_path / "out"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--format", "coco", "--tagged-only"), "Give a table with --tags"),
        (("--score-threshold", "0.5"), "--score-threshold would do nothing"),
    ],
)
def test_filters_without_what_they_need_are_refused_before_predicting(
    trained: Path,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    said: str,
) -> None:
    images, out = str(scenes / "JPEGImages"), tmp_path / "out"
    assert weakloc(["predict", str(trained), images, "--out", str(out), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
