"""`weakloc calibrate` on a run that was trained on scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weakloc.api.data_sets import read
from weakloc.api.runs import load_folder
from weakloc.cli import run as weakloc
from weakloc.data.sources import ImageSource
from weakloc.metrics.average_precision import tag_mean_average_precision
from weakloc.settings import Look, Places
from weakloc.training.plan import divide

FAST = ["--workers", "0", "--map-side", "48"]


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def calibrate(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str], *flags: str
) -> dict[str, Any]:
    assert weakloc(["calibrate", str(folder), str(scenes), "--json", *FAST, *flags]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def record(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return stored


def test_drawn_boxes_give_thresholds_that_predictions_use_and_name(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = calibrate(folder, scenes, capsys, "--boxes-per-class", "8")
    found = answer["thresholds"]
    assert found == record(folder)["thresholds"]
    assert not found["is_oracle"]
    assert found["split"] == "train"
    assert len(set(found["thresholds"])) > 1  # of each class its own
    image = str(next((scenes / "JPEGImages").iterdir()))
    out = tmp_path / "out"
    assert weakloc(["predict", str(folder), image, "--out", str(out), "--quiet"]) == 0
    summary = json.loads((out / "predictions.json").read_text())
    assert list(summary["thresholds"].values()) == found["thresholds"]
    assert f"{found['num_boxes_used']} drawn boxes" in summary["thresholds_from"]


def test_boxes_of_each_class_are_counted_truly_and_few_of_a_class_share_a_threshold(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", str(folder), str(scenes), *FAST]
    few = calibrate(folder, scenes, capsys, "--boxes-per-class", "2")["thresholds"]
    assert all(basis["num_boxes"] <= 2 and not basis["is_own"] for basis in few["basis"])
    assert sum(basis["num_boxes"] for basis in few["basis"]) == few["num_boxes_used"]
    assert len(set(few["thresholds"])) == 1
    assert weakloc([*command, "--boxes-per-class", "2"]) == 0
    said = capsys.readouterr().out
    assert "took the threshold of all" in said
    assert all(name in said for name in record(folder)["class_names"])
    many = calibrate(folder, scenes, capsys, "--boxes-per-class", "30")["thresholds"]
    assert any(basis["is_own"] for basis in many["basis"])
    assert record(folder)["thresholds"]["basis"] == many["basis"]


def test_without_a_box_to_look_at_it_says_what_to_give(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = record(folder)
    assert weakloc(["calibrate", str(folder), str(scenes), *FAST]) == 2
    assert "--boxes 20" in capsys.readouterr().err
    assert record(folder) == before


def test_thresholds_of_other_maps_are_refused(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    look = ["--localiser", "beam_search"]
    found = calibrate(folder, scenes, capsys, "--boxes", "9", *look)["thresholds"]
    assert found["maps"] == "beam_search"
    image = str(next((scenes / "JPEGImages").iterdir()))
    predict = ["predict", str(folder), image, "--quiet", "--out"]
    out = str(tmp_path / "out")
    for others in ([], ["--localiser", "score_map"]):
        assert weakloc([*predict, out, *others]) != 0
        assert "were tuned for beam_search, not for score_map" in capsys.readouterr().err
    assert weakloc([*predict, str(tmp_path / "own"), "--threshold", "0.4"]) == 0
    assert weakloc([*predict, out, *look]) == 0
    summary = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(summary["thresholds"].values()) == found["thresholds"]


def test_thresholds_of_maps_that_are_made_no_more_are_refused_until_calibrated_again(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calibrate(folder, scenes, capsys, "--boxes", "9")
    earlier = record(folder)
    earlier["thresholds"]["maps"] = "score_map x objectness distance of stride 8"
    (folder / "run.json").write_text(json.dumps(earlier))
    image = str(next((scenes / "JPEGImages").iterdir()))
    predict = ["predict", str(folder), image, "--quiet", "--out"]
    assert weakloc([*predict, str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "were tuned for score_map x objectness distance of stride 8, not for score_map" in said
    assert "Run 'weakloc calibrate' again" in said
    assert weakloc([*predict, str(tmp_path / "own"), "--threshold", "0.4"]) == 0
    calibrate(folder, scenes, capsys, "--boxes", "9")
    assert weakloc([*predict, str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("tuning", "flag"),
    [
        (["--boxes", "12"], ["--min-area", "0.2"]),
        (["--boxes", "12"], ["--max-area", "0.05"]),
        (["--oracle"], ["--min-share", "0.5"]),
    ],
)
def test_what_gets_no_box_in_prediction_gets_none_in_calibration(
    folder: Path,
    scenes: Path,
    capsys: pytest.CaptureFixture[str],
    tuning: list[str],
    flag: list[str],
) -> None:
    """By the same rule as in prediction, so the thresholds are others."""
    first, second = (
        calibrate(folder, scenes, capsys, *tuning, "--granularity", "global", *more)
        for more in ([], flag)
    )
    name = "oracle" if "--oracle" in tuning else "thresholds"
    assert first[name]["thresholds"] != second[name]["thresholds"]


@pytest.mark.parametrize("flag", ["--points", "--masks", "--top", "--sure"])
def test_what_cannot_act_in_calibration_is_no_flag_of_it(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert weakloc(["calibrate", str(folder), str(scenes), flag, "1"]) == 2
    assert flag in capsys.readouterr().err


def test_calibrating_twice_gives_the_same(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = calibrate(folder, scenes, capsys, "--boxes", "9")
    assert calibrate(folder, scenes, capsys, "--boxes", "9") == first
    assert calibrate(folder, scenes, capsys, "--boxes", "9", "--seed", "1") != first


def test_a_few_drawn_boxes_are_counted_and_leave_an_interval(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--boxes", "12", "--granularity", "global")
    found = calibrate(folder, scenes, capsys, *flags)["thresholds"]
    assert 1 <= found["num_boxes_used"] <= 12
    assert all(
        low <= threshold <= high
        for threshold, (low, high) in zip(found["thresholds"], found["intervals"], strict=True)
    )
    assert 0 <= found["leave_one_out"] <= 1
    assert record(folder)["thresholds"] == found


@pytest.mark.parametrize("split", ["val", "train+val"])
def test_boxes_of_the_images_kept_to_judge_are_not_touched(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    before = record(folder)
    flags = [*FAST, "--boxes", "5", "--split", split]
    assert weakloc(["calibrate", str(folder), str(scenes), *flags]) == 2
    assert "--oracle" in capsys.readouterr().err
    assert record(folder) == before


def test_the_oracle_is_printed_as_one_and_not_kept(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = record(folder)
    assert weakloc(["calibrate", str(folder), str(scenes), *FAST, "--oracle"]) == 0
    assert "ORACLE" in capsys.readouterr().out
    assert record(folder) == before


def test_the_weight_of_co_occurring_classes_is_the_best_on_images_not_learned_from(
    held_out: Path, scenes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """s(i) + alpha * sum_j p(i|j) s(j), p(i|j) = N_ij / N_j, by the tags of those images alone."""
    folder = Path(shutil.copytree(held_out, tmp_path / "run"))
    answer = calibrate(folder, scenes, capsys, "--choose-rescoring")
    assert "thresholds" not in answer
    stored = record(folder)
    assert stored["thresholds"] is None
    assert stored["rescoring"]["alpha"] == answer["rescoring"]["alpha"]
    assert "tags only" in stored["rescoring"]["by"]
    assert "8 training images that were not learned from" in stored["rescoring"]["by"]

    data_set, trained = read(scenes), load_folder(held_out)
    learned = {sample.name for sample in divide(data_set, trained.run.settings).learned}
    left_out = [sample for sample in data_set.split("train") if sample.name not in learned]
    assert len(learned) == stored["labels"]["num_images"] == 24
    predictor = trained.predictor(Look(workers=0, map_side=48), Places(rescoring=0.0))
    seen = list(predictor.see(ImageSource(sample.name, sample.path) for sample in left_out))
    scores = np.array([list(image.probabilities) for image in seen])
    labels = np.array([sample.labels for sample in left_out])
    together = np.array(stored["labels"]["co_occurrence"], dtype=float)
    reached = {}
    for alpha in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        rescored = scores.copy()
        for i, j in np.ndindex(together.shape):
            if i != j and together[j, j] > 0:
                rescored[:, i] += alpha * together[i, j] / together[j, j] * scores[:, j]
        reached[alpha] = tag_mean_average_precision(rescored, labels)
    assert stored["rescoring"]["alpha"] == max(reached, key=lambda alpha: reached[alpha])
    best = max(reached.values())
    assert stored["rescoring"]["mean_average_precision"] == pytest.approx(best, abs=1e-6)


def test_no_weight_is_chosen_where_every_image_was_learned_from(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not on images that the network knows by heart, and not on those that judge it."""
    before = record(folder)
    assert weakloc(["calibrate", str(folder), str(scenes), *FAST, "--choose-rescoring"]) == 2
    assert "--hold-out 0.1" in capsys.readouterr().err
    # As runs were recorded while nothing was held out beside a validation split.
    earlier = {**before, "settings": {**before["settings"], "hold_out": 0.1}}
    (folder / "run.json").write_text(json.dumps(earlier))
    assert weakloc(["calibrate", str(folder), str(scenes), *FAST, "--choose-rescoring"]) == 2
    assert "it learned from 32 images" in capsys.readouterr().err
    assert record(folder) == earlier


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--boxes", "5", "--split", "test"], "split 'test'"),
        (["--boxes", "-1"], "--boxes is -1"),
        (["--boxes", "5", "--boxes-per-class", "2"], "--boxes-per-class is 2"),
    ],
)
def test_what_cannot_work_is_said(
    folder: Path, scenes: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert weakloc(["calibrate", str(folder), str(scenes), *flags]) == 2
    assert said in capsys.readouterr().err
