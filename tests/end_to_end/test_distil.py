"""`weakloc distil` as a user meets it."""

from __future__ import annotations

import errno
import json
import shutil
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from weakloc.api.runs import load_folder
from weakloc.api.training import Comparison
from weakloc.cli import run as weakloc
from weakloc.settings import Look
from weakloc.training.run_folder import DETECTOR_NAME

SMALL = ["--epochs", "1", "--quiet"]


@pytest.fixture(scope="module")
def refined(trained: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("refined") / "run"
    shutil.copytree(trained, run)
    assert weakloc(["refine", str(run), str(scenes), "--images", "12", *SMALL]) == 0
    return run


@pytest.fixture(scope="module")
def distilled(refined: Path, scenes: Path) -> Path:
    out = refined.parent / "mit Rahmen ü"
    drawn = ["--boxes", "6", "--folds", "0"]
    assert weakloc(["distil", str(refined), str(scenes), *drawn, "--out", str(out), *SMALL]) == 0
    return out


def some_of(scenes: Path, folder: Path, count: int = 3) -> Path:
    """A few images."""
    images = folder / "images"
    images.mkdir()
    for path in sorted((scenes / "JPEGImages").iterdir())[:count]:
        shutil.copyfile(path, images / path.name)
    return images


def predictions(run: Path, images: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    arguments = ["predict", str(run), str(images), "--out", str(out), "--top", "1", "--quiet"]
    assert weakloc([*arguments, *more]) == 0
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_an_exported_detector_says_what_the_run_says(
    distilled: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, file = some_of(scenes, tmp_path), tmp_path / "a.onnx"
    assert weakloc(["export", str(distilled), "--out", str(file)]) == 0
    assert "places from its detector" in capsys.readouterr().out
    flags = ["--flip", "--masks", "threshold"]
    of_run = predictions(distilled, images, tmp_path / "run", *flags)
    of_file = predictions(file, images, tmp_path / "file", *flags)

    for own, other in zip(of_run, of_file, strict=True):
        for key in ("points", "boxes"):
            assert len(own[key]) == len(other[key]) > 0
            for place, twin in zip(own[key], other[key], strict=True):
                assert place.pop("class") == twin.pop("class")
                numbers, same = np.hstack([*place.values()]), np.hstack([*twin.values()])
                assert numbers == pytest.approx(same, abs=0.05)
        assert [mask["class"] for mask in own["masks"]] == [
            mask["class"] for mask in other["masks"]
        ]
    assert weakloc(["predict", str(file), str(images), "--out", "x", "--localiser", "cells"]) == 2
    assert "The file knows detector alone" in capsys.readouterr().err


def test_a_detector_says_other_boxes_and_the_same_scores(
    distilled: Path, refined: Path, scenes: Path, tmp_path: Path
) -> None:
    images = some_of(scenes, tmp_path)
    cells = predictions(refined, images, tmp_path / "cells")
    boxes = predictions(distilled, images, tmp_path / "boxes")
    mirrored = predictions(distilled, images, tmp_path / "mirrored", "--flip", "--points", "2")

    assert [line["scores"] for line in boxes] == [line["scores"] for line in cells]
    assert [line["boxes"] for line in boxes] != [line["boxes"] for line in cells]
    for line in [*boxes, *mirrored]:
        assert line["boxes"]
        for box in line["boxes"]:
            left, top, right, bottom = box["box"]
            assert 0 <= left < right <= line["width"]
            assert 0 <= top < bottom <= line["height"]
            assert 0 < box["score"] <= 1
    for line in boxes:  # a point is the middle of its class's best box
        left, top, right, bottom = line["boxes"][0]["box"]
        x, y = line["points"][0]["x"], line["points"][0]["y"]
        assert (x, y) == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.02)


def test_what_was_cut_short_is_done_by_the_same_command(
    refined: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakloc.api.training._detector", lambda *_: (None, []))
    drawn = ["--boxes", "6", "--folds", "0", "--out", str(tmp_path)]
    command = ["distil", str(refined), str(scenes), *drawn, *SMALL]
    with monkeypatch.context() as full:
        disk = OSError(errno.ENOSPC, "No space left on device")
        full.setattr("weakloc.training.run_folder.write_record", Mock(side_effect=disk))
        assert weakloc(command) == 1
    assert (tmp_path / "model.safetensors").exists()
    assert [weakloc(command), weakloc(command)] == [0, 2]  # now a run is there


def test_cells_stay_at_hand(distilled: Path, refined: Path, scenes: Path, tmp_path: Path) -> None:
    images = some_of(scenes, tmp_path)
    cells = predictions(refined, images, tmp_path / "cells")
    again = predictions(distilled, images, tmp_path / "again", "--localiser", "cells")

    assert again == cells


def test_drawn_boxes_are_counted_and_the_run_stays(distilled: Path, refined: Path) -> None:
    record = json.loads((distilled / "run.json").read_text())

    assert 0 < record["hidden_supervision"] <= 6
    assert load_folder(distilled).facts.num_boxes_used == record["hidden_supervision"]
    assert json.loads((refined / "run.json").read_text())["hidden_supervision"] == 0
    assert not (refined / DETECTOR_NAME).exists()


def test_a_detector_that_is_worse_where_it_can_be_told_is_not_kept(
    refined: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = some_of(scenes, tmp_path, 9)
    placed = predictions(refined, images, tmp_path / "placed")
    drawn = [  # the run's own boxes, accepted: it is known to fit them
        {
            "image": f"JPEGImages/{line['image']}",
            "width": line["width"],
            "height": line["height"],
            "decisions": [
                {"class": box["class"], "verdict": "accepted", "boxes": [box["box"]]}
                for box in line["boxes"][:1]
            ],
        }
        for line in placed
    ]
    names = json.loads((refined / "run.json").read_text())["class_names"]
    review, out = tmp_path / "review.json", tmp_path / "out"
    review.write_text(
        json.dumps({"schema": "weakloc.review/1", "class_names": names, "images": drawn})
    )

    arguments = [str(refined), str(scenes), "--labels", str(review), "--boxes", "9"]
    assert weakloc(["distil", *arguments, "--out", str(out), "--epochs", "1", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["comparison"]["run"] == pytest.approx(0.75, abs=0.001)
    assert told["comparison"]["detector"] + told["comparison"]["error"] < told["comparison"]["run"]
    assert not (out / DETECTOR_NAME).exists()
    assert json.loads((out / "run.json").read_text())["hidden_supervision"] == 9
    assert predictions(out, images, tmp_path / "again") == placed


@pytest.mark.parametrize(
    ("detector", "run", "told", "kept"),
    [
        (0.8, 1.0, 0.75, "Learned"),  # people accepted the run's boxes
        (0.7, 1.0, 0.75, "Looked at"),
        (0.7, 0.9, 0.9, "Looked at"),  # people drew, and nearly what the run says
    ],
)
def test_a_box_of_the_run_that_was_accepted_is_known_to_fit_and_no_more(
    refined: Path,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    detector: float,
    run: float,
    told: float,
    kept: str,
) -> None:
    overlaps = cycle([detector, run])  # of each part in turn
    monkeypatch.setattr("weakloc.api.training._detector", lambda *_: (None, []))
    monkeypatch.setattr(
        "weakloc.api.training._overlaps", lambda _, judged: [next(overlaps)] * len(judged)
    )
    drawn = ["--boxes", "20", "--out", str(tmp_path / "out")]
    assert weakloc(["distil", str(refined), str(scenes), *drawn]) == 0
    said = capsys.readouterr().out
    assert f"{detector:.2f} of a detector, {told:.2f} of the run as it was" in said
    assert kept in said


def test_images_that_cannot_be_read_end_no_comparison(
    refined: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(scenes, data)
    names = sorted(path.name for path in (data / "JPEGImages").iterdir())[:3]
    for name in names[:2]:
        (data / "JPEGImages" / name).write_bytes(b"no image")
    tags = json.loads((refined / "run.json").read_text())["class_names"]
    decisions = [{"class": tags[0], "verdict": "accepted", "boxes": [[4, 4, 40, 30]]}]
    drawn = [
        {"image": f"JPEGImages/{name}", "width": 96, "height": 96, "decisions": decisions}
        for name in names
    ]
    review = tmp_path / "review.json"
    review.write_text(
        json.dumps({"schema": "weakloc.review/1", "class_names": tags, "images": drawn})
    )

    arguments = [str(refined), str(data), "--labels", str(review), "--boxes", "3"]
    assert weakloc(["distil", *arguments, "--out", str(out), "--epochs", "1", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["comparison"] is None
    assert (out / DETECTOR_NAME).exists()


def test_a_comparison_needs_more_than_its_error() -> None:
    assert Comparison(detector=0.3, run=0.5, error=0.1).is_worse
    assert "draw more" in Comparison(detector=0.3, run=0.5, error=0.1).in_words()
    assert not Comparison(detector=0.3, run=0.5, error=0.3).is_worse
    assert "draw more" not in Comparison(detector=0.3, run=0.5, error=0.3).in_words()


def test_a_run_teaches_itself(
    refined: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own"

    assert weakloc(["distil", str(refined), str(scenes), "--out", str(out), "--epochs", "1"]) == 0

    assert "boxes of its own" in capsys.readouterr().out
    assert json.loads((out / "run.json").read_text())["hidden_supervision"] == 0
    assert load_folder(out).predictor(Look()).look.localiser == "detector"


def test_what_cannot_be_is_refused(
    trained: Path,
    refined: Path,
    distilled: Path,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    new = ["--out", str(tmp_path / "new")]
    for arguments, complaint in (
        (["distil", str(trained), str(scenes), *new], "weakloc refine"),
        (["distil", str(refined), str(scenes), "--out", str(distilled)], "is there already"),
        (
            ["distil", str(refined), str(scenes), "--boxes", "5", "--split", "val", *new],
            "kept to judge",
        ),
        (
            ["distil", str(refined), str(scenes), "--boxes", "5", "--boxes-per-class", "5", *new],
            "Give one of them",
        ),
        (["distil", str(refined), str(scenes), "--boxes", "-1", *new], "-1. Give 5 to 50"),
        (["distil", str(refined), str(scenes), "--folds", "1", *new], "Give 0, or 2 or more"),
        (["calibrate", str(distilled), str(scenes), "--boxes", "20"], "no threshold cuts"),
        (["predict", str(refined), str(scenes), "--localiser", "detector", *new], "weakloc distil"),
    ):
        assert weakloc(arguments) == 2, arguments
        assert complaint in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
