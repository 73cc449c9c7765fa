"""The programs in `examples`, as they are, at sizes that take seconds."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

import weakloc
from tests.installed_packages import lay_out
from weakloc.cli import run as command_line
from weakloc.output.exporters import read_predictions

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["--backbone", "tiny[width=8]", "--image-size", "64", "--epochs", "1"]


@contextmanager
def example(name: str) -> Iterator[ModuleType]:
    """The program as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


def test_training_draws_scenes_and_prints_numbers_beside_trivial_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with example("01_train") as program:
        program.main(["--out", str(tmp_path), "--num-train", "24", *SMALL])
    printed = capsys.readouterr().out
    run = weakloc.load(tmp_path / "run")
    data = weakloc.read(tmp_path / "scenes")
    assert run.class_names == data.class_names
    assert [len(data.splits[name]) for name in ("train", "val")] == [24, 6]
    numbers = {line.split()[0]: float(line.split()[1]) for line in printed.splitlines()[1:]}
    assert {"classification_map", "point_map", "box_map_50", "mean_iou"} <= numbers.keys()
    assert all(0 <= value <= 1 for value in numbers.values())
    again = {each.name: each.value for each in weakloc.evaluate(run, data).metrics}
    assert numbers["classification_map"] == pytest.approx(again["classification_map"], abs=5e-4)


def test_predicting_places_every_tag_and_puts_the_most_doubtful_image_first(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((scenes / "JPEGImages").glob("val_*.jpg"))[:3]:
        shutil.copy(path, images)
    (images / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "found"
    tags = ["--tags", str(scenes / "tags.csv"), "--workers", "0"]
    with example("02_predict") as program:
        program.main([str(trained), str(images), "--out", str(out), *tags])
    printed = capsys.readouterr().out
    assert "broken.jpg cannot be read" in printed
    found = list(read_predictions(out / "predictions.jsonl"))
    assert [each.doubt for each in found] == sorted((each.doubt for each in found), reverse=True)
    said = weakloc.read(scenes)
    tagged = {
        Path(sample.name).name: {
            name for name, label in zip(said.class_names, sample.labels, strict=True) if label == 1
        }
        for sample in said.splits["val"]
    }
    assert len(found) == 3
    for each in found:
        assert {box.class_name for box in each.boxes} == tagged[each.image]
    coco = json.loads((out / "coco" / "annotations" / "instances_predicted.json").read_text())
    pairs = [(each["image_id"], each["category_id"]) for each in coco["annotations"]]
    assert len(set(pairs)) == len(pairs)  # the best box of each class
    with Image.open(out / "most_doubtful.png") as drawn:
        assert drawn.size[0] % found[0].width == 0


def test_a_method_of_ones_own_is_installed_trains_predicts_and_is_missed_by_name(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    run, out = tmp_path / "run", tmp_path / "predictions"
    images = str(scenes / "JPEGImages")
    with monkeypatch.context() as installed:
        site = lay_out(EXAMPLES / "03_your_own_method", tmp_path / "site")
        installed.syspath_prepend(str(site))
        flags = ["--method", "softmax_mil", "--set", "sharpness=6", "--workers", "0", "--quiet"]
        assert command_line(["train", str(scenes), "--out", str(run), *flags, *SMALL]) == 0
        assert command_line(["predict", str(run), images, "--out", str(out), "--quiet"]) == 0
        assert weakloc.load(run).run.method.sharpness == 6.0
    assert len(list(read_predictions(out / "predictions.jsonl"))) == 40
    kept = json.loads((run / "run.json").read_text())["method"]
    assert (kept["name"], kept["package"]) == ("softmax_mil", "weakloc-softmax-mil")
    capsys.readouterr()
    assert command_line(["predict", str(run), images, "--out", str(tmp_path / "more")]) == 2
    told = capsys.readouterr().err
    assert "'softmax_mil' among its methods comes from the package weakloc-softmax-mil" in told
    assert "pip install weakloc-softmax-mil" in told


def test_softmax_pooling_lies_between_the_mean_and_the_maximum(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "03_your_own_method"))
    pool = importlib.import_module("softmax_mil").SoftmaxPool
    maps = torch.tensor([[[[0.0, 1.0, 2.0]]]])
    weights = [math.exp(2 * cell) for cell in range(3)]
    expected = (weights[1] + 2 * weights[2]) / sum(weights)
    assert pool(2.0)(maps).item() == pytest.approx(expected, rel=1e-6)
    assert pool(0.0)(maps).item() == pytest.approx(1.0)  # the mean
    assert pool(1e3)(maps).item() == pytest.approx(2.0)  # the maximum
