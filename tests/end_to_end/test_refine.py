"""`weakloc refine` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from weakloc.api.runs import load_folder
from weakloc.cli import run as weakloc
from weakloc.data.sources import ImageSource
from weakloc.files import ByName
from weakloc.settings import Look, Places
from weakloc.structures import ABSENT, PRESENT, BrokenImage
from weakloc.training.run_folder import CELLS_NAME

SMALL = ["--epochs", "1", "--images", "12", "--quiet"]


@pytest.fixture(scope="module")
def refined(trained: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("refined") / "mit Zellen"
    shutil.copytree(trained, run)
    record = json.loads((run / "run.json").read_text())
    thresholds = {"thresholds": [0.2] * len(record["class_names"])}
    (run / "run.json").write_text(json.dumps({**record, "thresholds": thresholds}))
    assert weakloc(["refine", str(run), str(scenes), *SMALL]) == 0
    return run


def predictions(run: Path, images: Path, out: Path, *more: str) -> list[dict[str, object]]:
    assert weakloc(["predict", str(run), str(images), "--out", str(out), "--quiet", *more]) == 0
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_a_refined_run_predicts_other_places_and_the_same_scores(
    refined: Path, trained: Path, scenes: Path, tmp_path: Path
) -> None:
    plain = predictions(trained, scenes, tmp_path / "plain", "--top", "1")
    cells = predictions(refined, scenes, tmp_path / "cells", "--top", "1")

    assert [each["scores"] for each in cells] == [each["scores"] for each in plain]
    assert [each["boxes"] for each in cells] != [each["boxes"] for each in plain]


def test_the_maps_of_the_method_stay_at_hand(
    refined: Path, trained: Path, scenes: Path, tmp_path: Path
) -> None:
    plain = predictions(trained, scenes, tmp_path / "plain", "--top", "1")
    again = predictions(refined, scenes, tmp_path / "x", "--top", "1", "--localiser", "score_map")

    assert again == plain


def test_thresholds_of_other_maps_are_forgotten(refined: Path) -> None:
    assert json.loads((refined / "run.json").read_text())["thresholds"] is None


def test_a_run_without_cells_says_what_would_do(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(trained), str(scenes), "--out", str(tmp_path / "out")]

    assert weakloc([*arguments, "--localiser", "cells"]) != 0

    assert "weakloc refine" in capsys.readouterr().err


def test_data_with_other_classes_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = ["--kind", "single", "--train", "4", "--val", "2", "--quiet"]
    assert weakloc(["scenes", str(tmp_path / "one"), *single]) == 0

    assert weakloc(["refine", str(trained), str(tmp_path / "one"), *SMALL]) != 0

    assert "classes" in capsys.readouterr().err


def test_objects_of_several_tags_are_told_apart(refined: Path, scenes: Path) -> None:
    """What two tags claim each for itself is divided between them and the background."""
    predictor = load_folder(refined).predictor(Look(), Places())
    path = sorted((scenes / "JPEGImages").iterdir())[0]

    def heat(*present: int) -> NDArray[np.float32]:
        labels = np.full(len(predictor.source.class_names), ABSENT, np.int8)
        labels[list(present)] = PRESENT
        tags = ByName({"a": labels})
        (located,) = predictor.predict_with_heat([ImageSource("a", str(path))], tags)
        assert not isinstance(located, BrokenImage)
        assert located.classes == present
        return located.heat.values

    claims = np.concatenate([heat(0), heat(1)]).astype(np.float64)
    odds = claims / (1 - claims)

    np.testing.assert_allclose(heat(0, 1), odds / (1 + odds.sum(axis=0)), atol=1e-4)


def test_a_pretrained_backbone_learns_its_cells_with_the_run(scenes: Path, tmp_path: Path) -> None:
    small = ["--frozen", "--image-size", "64", "--workers", "0", "--precision", "fp32", "--quiet"]

    def train(name: str, *more: str) -> Path:
        assert weakloc(["train", str(scenes), "--out", str(tmp_path / name), *small, *more]) == 0
        return tmp_path / name / CELLS_NAME

    cells = train("run", "--epochs", "1")
    learned = load_file(cells)
    assert not train("asked not to", "--epochs", "1", "--no-refine").exists()
    cells.unlink()  # as if it had been stopped before they were learned
    train("run", "--epochs", "1", "--resume")
    assert all(torch.equal(value, learned[name]) for name, value in load_file(cells).items())
    train("run", "--epochs", "2", "--resume")
    again = load_file(cells)  # the class maps, which have a say, are others
    assert not all(torch.equal(value, learned[name]) for name, value in again.items())
    assert load_folder(tmp_path / "run").run.cells is not None


def test_each_work_of_a_training_shows_its_own_progress(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--frozen", "--image-size", "64", "--epochs", "1", "--workers", "0"]
    assert weakloc(["train", str(scenes), "--out", str(tmp_path / "run"), *small]) == 0

    lines = capsys.readouterr().err.splitlines()
    for work in ("computing features", "learning what is object and what is background"):
        counts = [line for line in lines if line.startswith(f"{work}: ")]
        assert counts
        assert counts[-1].split()[-1] == counts[-1].split()[-3]  # all of all


def test_a_network_that_knows_no_images_learns_no_cells(trained: Path) -> None:
    assert not (trained / CELLS_NAME).exists()
