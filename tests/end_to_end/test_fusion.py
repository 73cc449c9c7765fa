"""`--also`: two runs of different input sizes as one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from weakloc.api.fused_runs import FusedRuns
from weakloc.api.runs import load_folder
from weakloc.cli import run as weakloc
from weakloc.output.exporters.jsonl import read_predictions

FAST = ["--map-side", "32", "--workers", "0"]


@pytest.fixture(scope="module")
def runs(trained: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sizes")
    shutil.copytree(trained, folder / "96")
    small = ["--backbone", "tiny[width=8]", "--image-size", "64", "--epochs", "1", "--seed", "1"]
    machine = ["--workers", "0", "--devices", "1", "--precision", "fp32", "--quiet"]
    assert weakloc(["train", str(scenes), "--out", str(folder / "64"), *small, *machine]) == 0
    return [str(folder / "96"), str(folder / "64")]


def scores(out: Path) -> np.ndarray:
    found = read_predictions(out / "predictions.jsonl")
    return np.array([list(prediction.scores.values()) for prediction in found])


def test_scores_are_averaged_until_a_classifier_is_fitted_for_these_very_runs(
    runs: list[str], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((scenes / "JPEGImages").iterdir())[:5]:
        (images / path.name).symlink_to(path)

    def predict(name: str, *flags: str) -> tuple[np.ndarray, str]:
        out = tmp_path / name
        command = ["predict", *flags[:1], str(images), *flags[1:], "--out", str(out), *FAST]
        assert weakloc([*command, "--quiet"]) == 0
        summary = json.loads((out / "predictions.json").read_text())
        return scores(out), summary.get("scores_from", "")

    alone = [predict(f"alone{index}", run)[0] for index, run in enumerate(runs)]
    logits = np.mean([np.log(each / (1 - each)) for each in alone], axis=0)
    averaged, source = predict("averaged", first, "--also", second)
    assert source == "mean of scores"
    np.testing.assert_allclose(averaged, 1 / (1 + np.exp(-logits)), atol=1e-3)

    capsys.readouterr()
    calibrate = ["calibrate", first, str(scenes), "--also", second, "--json", *FAST]
    assert weakloc(calibrate) == 0
    reached = json.loads(capsys.readouterr().out)["classification_map"]
    assert list(reached) == [first, second, "mean of scores", "late classifier"]
    assert all(0 < value <= 1 for value in reached.values())

    fitted, source = predict("fitted", first, "--also", second)
    assert source == "late classifier"
    assert np.abs(fitted - averaged).max() > 0.01
    assert predict("swapped", second, "--also", first)[1] == "mean of scores"
    fused = FusedRuns(tuple(load_folder(path) for path in (first, first)))
    assert fused.late_classifier() is None


def test_runs_of_other_classes_are_refused(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    record = json.loads((other / "run.json").read_text())
    record["class_names"] = record["class_names"][::-1]
    (other / "run.json").write_text(json.dumps(record))
    command = ["predict", runs[0], str(tmp_path), "--also", str(other), "--out", str(tmp_path)]
    assert weakloc(command) == 2
    assert "classes differ" in capsys.readouterr().err
