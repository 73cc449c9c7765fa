"""`weakloc export`, then predictions from the file alone."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import weakloc as public
from weakloc.api.runs import load_folder
from weakloc.cli import run as weakloc
from weakloc.output.exporters import read_predictions
from weakloc.structures import Prediction

FAST = ["--workers", "0", "--map-side", "48", "--quiet"]


@pytest.fixture(scope="module")
def tuned(trained: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with thresholds of its own for each class, and a weight of co-occurring classes."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "run"))
    flags = ["--boxes-per-class", "8", "--map-side", "48", "--workers", "0", "--quiet"]
    assert weakloc(["calibrate", str(folder), str(scenes), *flags]) == 0
    record = json.loads((folder / "run.json").read_text())
    record["rescoring"] = {"alpha": 0.5, "by": "the test", "mean_average_precision": 0.0}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def exported(tuned: Path) -> Path:
    path = tuned.parent / "model.onnx"
    assert weakloc(["export", str(tuned), "--out", str(path), "--quiet"]) == 0
    return path


def predictions(what: Path, images: Path, out: Path, *flags: str) -> list[Prediction]:
    assert weakloc(["predict", str(what), str(images), "--out", str(out), *FAST, *flags]) == 0
    return list(read_predictions(out / "predictions.jsonl"))


def are_close(first: Any, second: Any) -> bool:
    """Equal but for 1e-3 in numbers; scores and pixels alike."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            are_close(value, second[key]) for key, value in first.items()
        )
    if isinstance(first, list):
        return len(first) == len(second) and all(map(are_close, first, second))
    if isinstance(first, float):
        return math.isclose(first, second, rel_tol=1e-3, abs_tol=1e-3)
    return bool(first == second)


@pytest.mark.parametrize(
    "flags",
    [(), ("--scales", "0.7", "--scales", "1.3", "--flip", "--tile", "100", "--min-score", "0.2")],
    ids=["as the method says", "every way to look"],
)
def test_the_file_predicts_what_the_run_predicts(
    tuned: Path,
    exported: Path,
    scenes: Path,
    few_images: Path,
    tmp_path: Path,
    flags: tuple[str, ...],
) -> None:
    images = few_images if flags else scenes / "JPEGImages"
    flags = (*flags, "--top", "2")
    of_run = predictions(tuned, images, tmp_path / "run", *flags)
    of_file = predictions(exported, images, tmp_path / "file", *flags)
    assert len(of_run) == (6 if images == few_images else 40)
    texts = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("run", "file")]
    lines = [[json.loads(line) for line in text.splitlines()] for text in texts]
    for key in ("image", "scores", "tags", "disagreements"):
        assert are_close(*([line.get(key) for line in of_one] for of_one in lines)), key
    # A cell that lies on the very threshold may fall to either side of it.
    assert sum(not are_close(*pair) for pair in zip(*lines, strict=True)) <= 1
    assert all(prediction.boxes for prediction in of_file)
    summaries = [
        json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("run", "file")
    ]
    for key in ("thresholds", "thresholds_from", "classes"):
        assert summaries[0][key] == summaries[1][key]
    for key in ("scales", "map_scales", "threshold_mode", "rescoring", "fuse", "normalise"):
        assert summaries[0]["settings"][key] == summaries[1]["settings"][key]


def test_the_file_is_measured_as_the_run_is(
    tuned: Path, exported: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--workers", "0", "--map-side", "48", "--resamples", "20", "--json"]
    answers = []
    for what in (tuned, exported):
        assert weakloc(["evaluate", str(what), str(scenes), *flags]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    of_run, of_file = answers
    assert of_file["evaluated"] == str(exported)
    assert of_file["thresholds_from"] == of_run["thresholds_from"] != "a fixed value"
    for own, other in zip(of_run["metrics"], of_file["metrics"], strict=True):
        assert own["name"] == other["name"]
        assert own["hidden_supervision"] == other["hidden_supervision"]
        assert own["value"] == pytest.approx(other["value"], abs=0.02), own["name"]


def test_drawn_boxes_behind_the_run_are_said_of_the_file(tuned: Path, exported: Path) -> None:
    of_run, of_file = load_folder(tuned), public.load(exported)
    assert of_file.facts.num_boxes_used == of_run.facts.num_boxes_used == 52
    assert of_file.facts.hidden_supervision == of_run.facts.hidden_supervision == 0
    assert of_file.facts.supervision == of_run.facts.supervision


def test_the_file_predicts_in_python_as_the_run_does(
    tuned: Path, exported: Path, scenes: Path
) -> None:
    look, places = public.Look(map_side=48, workers=0), public.Places(top=1)
    pairs = zip(
        *(
            public.load(what).predict(
                scenes / "JPEGImages", tags=scenes / "tags.csv", look=look, places=places
            )
            for what in (tuned, exported)
        ),
        strict=True,
    )
    num_boxes = 0
    for own, other in pairs:
        assert own.image == other.image
        assert own.scores == pytest.approx(other.scores, abs=1e-4)
        assert own.extra["tags"] == other.extra["tags"]
        assert [each.class_name for each in own.points] == [x.class_name for x in other.points]
        num_boxes += len(other.boxes)
    assert num_boxes >= 40


def test_the_file_takes_any_batch_and_size_and_names_them(tuned: Path, exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported)
    network = load_folder(tuned).run.network
    num_classes = len(load_folder(tuned).class_names)
    shapes = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "images": ["batch", 3, "height", "width"],
        "scores": ["batch", num_classes],
        "maps": ["batch", num_classes, "rows", "columns"],
    }
    for batch, height, width in ((1, 8, 8), (2, 31, 77), (5, 130, 24)):
        images = torch.randn(batch, 3, height, width)
        scores, maps = session.run(["scores", "maps"], {"images": images.numpy()})
        with torch.inference_mode():
            expected = network(images)
        np.testing.assert_allclose(scores, expected.scores.numpy(), atol=1e-4)
        np.testing.assert_allclose(maps, expected.maps.numpy(), atol=1e-4)


def test_the_file_says_its_opset_and_nothing_of_the_machine_it_was_made_on(exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model)
    assert [(each.domain, each.version) for each in model.opset_import if not each.domain] == [
        ("", 18)
    ]
    content = exported.read_bytes()
    for folder in (Path(__file__).parents[2], exported.parent, Path(torch.__file__).parent):
        assert str(folder).encode() not in content


def test_what_was_written_is_said(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weakloc(["export", str(tuned), "--out", str(tmp_path / "model.pt")]) == 2
    assert "ends in .onnx" in capsys.readouterr().err
    assert weakloc(["export", str(tuned), "--out", str(tmp_path / "a b.onnx"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["opset"] == 18
    assert answer["fixed_size"] is None
    sizes = {(each["batch"], each["width"], each["height"]) for each in answer["parity"]}
    assert len(sizes) == 3
    assert all(each["difference"] <= 1e-4 for each in answer["parity"])
    assert [each.name for each in tmp_path.iterdir()] == ["a b.onnx"]
