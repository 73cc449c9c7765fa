"""`--also`: two runs of different input sizes as one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from weakloc.api.data_sets import read
from weakloc.api.fused_runs import load_fused
from weakloc.api.runs import load_folder
from weakloc.cli import run as weakloc
from weakloc.geometry import FloatArray
from weakloc.output.exporters.jsonl import read_predictions
from weakloc.predictor.score_fusion import LateClassifier, fit_late_classifier
from weakloc.settings import Look
from weakloc.training.plan import divide

FAST = ["--map-side", "32", "--workers", "0"]


@pytest.fixture(scope="module")
def runs(held_out: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sizes")
    shutil.copytree(held_out, folder / "96")
    small = ["--backbone", "tiny[width=8]", "--image-size", "64", "--epochs", "1"]
    small += ["--hold-out", "0.25"]
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
    answer = json.loads(capsys.readouterr().out)
    assert answer["fitted_on"] == "8 training images that were not learned from"
    reached = answer["classification_map"]
    assert list(reached) == [first, second, "mean of scores", "late classifier"]
    assert all(0 < value <= 1 for value in reached.values())

    fitted, source = predict("fitted", first, "--also", second)
    assert source == f"late classifier, fitted on the tags of {answer['fitted_on']}"
    assert np.abs(fitted - averaged).max() > 0.01
    assert predict("swapped", second, "--also", first)[1] == "mean of scores"
    assert load_fused((first, first)).late is None


def test_the_classifier_of_scores_is_fitted_on_no_image_that_a_run_learned_from(
    runs: list[str], trained: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tags that it is given are those of the images that training left out, in their order."""
    data_set, settings = read(scenes), load_folder(runs[0]).run.settings
    learned = {sample.name for sample in divide(data_set, settings).learned}
    left_out = [sample for sample in data_set.split("train") if sample.name not in learned]
    assert load_folder(runs[0]).run.labels.num_images == len(learned) == 24
    given = []

    def fit(logits: FloatArray, labels: NDArray[np.int8]) -> LateClassifier:
        given.append(labels)
        return fit_late_classifier(logits, labels)

    monkeypatch.setattr("weakloc.api.fused_runs.fit_late_classifier", fit)
    load_fused(runs).fitted(data_set, look=Look(workers=0, map_side=32))
    np.testing.assert_array_equal(given[-1], [sample.labels for sample in left_out])


def test_runs_that_learned_from_every_image_are_not_fitted(
    runs: list[str], trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = str(shutil.copytree(trained, tmp_path / "run"))
    assert weakloc(["calibrate", first, str(scenes), "--also", runs[1], *FAST]) == 2
    assert "--hold-out 0.1" in capsys.readouterr().err
    assert not (Path(first) / "fusion.npz").exists()


@pytest.mark.parametrize("flags", [["--boxes", "20"], ["--oracle"], ["--split", "val"]])
def test_what_cannot_act_on_several_runs_is_refused(
    runs: list[str], scenes: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert weakloc(["calibrate", runs[0], str(scenes), "--also", runs[1], *flags]) == 2
    assert "--also" in capsys.readouterr().err


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
