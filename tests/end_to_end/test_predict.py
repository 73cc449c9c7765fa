"""`weakloc predict` with a trained run: killed and resumed, shared, exported, repeatable."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from weakloc.api.runs import load_folder
from weakloc.cli import run as weakloc
from weakloc.errors import PredictionsError
from weakloc.output.exporters.jsonl import prediction_line, read_predictions
from weakloc.predictor.score_fusion import shares_from_counts
from weakloc.structures import Prediction

FAST = ["--map-side", "32", "--quiet"]
PART_SIZE = 7
SETTING_UP = (
    "import sys, os, signal\n"
    "import weakloc.api.predictions as predicting\n"
    f"predicting.PART_SIZE = {PART_SIZE}\n"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 small images in two folders, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(3)
    for index in range(60):
        pixels = random.integers(0, 255, (5, 6, 3), dtype=np.uint8)
        path = folder / ("a b" if index % 2 else "ü") / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.NEAREST).save(path)
    (folder / "a b" / "31.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    assert weakloc(["predict", str(trained), str(photos), "--out", str(out), *FAST]) == 0
    return out


def lines(out: Path) -> bytes:
    return (out / "predictions.jsonl").read_bytes()


def subprocess_environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def test_every_image_is_predicted_once_in_order_or_listed_with_a_reason(
    uninterrupted: Path,
) -> None:
    images = [
        prediction.image for prediction in read_predictions(uninterrupted / "predictions.jsonl")
    ]
    order = [f"a b/{index:02}.png" for index in range(1, 60, 2)]
    order += [f"ü/{index:02}.png" for index in range(0, 60, 2)]
    assert images == [name for name in order if name != "a b/31.png"]
    (skipped,) = map(json.loads, (uninterrupted / "skipped.jsonl").read_text().splitlines())
    assert skipped["image"] == "a b/31.png"
    assert "0 bytes" in skipped["reason"]
    summary = json.loads((uninterrupted / "predictions.json").read_text())
    assert (summary["num_done"], summary["num_skipped"]) == (59, 1)
    assert not (uninterrupted / "parts").exists()


def test_a_killed_run_is_resumed_to_the_very_same_file(
    trained: Path,
    photos: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dying = SETTING_UP + (
        "from weakloc.cli import run\n"
        "say, said = predicting.prediction_line, []\n"
        "def dies(prediction):\n"
        "    said.append(prediction)\n"
        "    if len(said) == 33:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return say(prediction)\n"
        "predicting.prediction_line = dies\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    flags = ["predict", str(trained), str(photos), "--out", str(tmp_path), *FAST]
    killed = subprocess.run(
        [sys.executable, "-c", dying, *flags], env=subprocess_environment(), check=False
    )
    assert killed.returncode == -signal.SIGKILL
    # 4 whole parts are 28 images, one of them broken.
    assert len(list((tmp_path / "parts").glob("*.jsonl"))) == 4
    assert not (tmp_path / "predictions.jsonl").exists()

    monkeypatch.setattr("weakloc.api.predictions.PART_SIZE", PART_SIZE)
    repeated = []

    def counted(prediction: Prediction) -> str:
        repeated.append(prediction.image)
        return prediction_line(prediction)

    monkeypatch.setattr("weakloc.api.predictions.prediction_line", counted)
    assert weakloc([*flags, "--resume", "--top", "1"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert weakloc([*flags, "--resume"]) == 0
    assert lines(tmp_path) == lines(uninterrupted)
    skipped = [(out / "skipped.jsonl").read_bytes() for out in (tmp_path, uninterrupted)]
    assert skipped[0] == skipped[1]
    assert len(repeated) == 60 - 28


def interrupt(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends the command within the third part of 7 images."""
    said: list[str] = []

    def dies(prediction: Prediction) -> str:
        said.append(prediction.image)
        if len(said) == 17:
            raise PredictionsError("stopped")
        return prediction_line(prediction)

    monkeypatch.setattr("weakloc.api.predictions.PART_SIZE", PART_SIZE)
    with monkeypatch.context() as dying:
        dying.setattr("weakloc.api.predictions.prediction_line", dies)
        assert weakloc(flags) == 2


@pytest.fixture
def interrupted(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """A command with own copies of the run, the images and a table of tags, stopped half way."""
    run, images, table = tmp_path / "run", tmp_path / "images", tmp_path / "tags.csv"
    shutil.copytree(trained, run)
    shutil.copytree(photos, images)
    names = load_folder(run).class_names
    table.write_text(f"path,labels\na b/01.png,{names[0]}\na b/03.png,{names[1]}\n")
    flags = ["predict", str(run), str(images), "--tags", str(table)]
    flags += ["--out", str(tmp_path / "out"), *FAST]
    interrupt(flags, monkeypatch)
    assert len(list((tmp_path / "out" / "parts").glob("*.jsonl"))) == 2
    return flags


@pytest.mark.parametrize("changed", ["weights", "calibration"])
def test_parts_of_a_run_that_was_changed_at_its_place_are_refused(
    interrupted: list[str],
    changed: str,
    held_out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    if changed == "weights":
        shutil.copy(held_out / "model.safetensors", run)
    else:
        record = json.loads((run / "run.json").read_text())
        shares = [0.6] * len(record["class_names"])
        record["thresholds"] = {"thresholds": shares, "threshold_mode": "minmax", "method": "own"}
        (run / "run.json").write_text(json.dumps(record))
    assert weakloc([*interrupted, "--resume"]) == 2
    assert "another run" in capsys.readouterr().err
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


@pytest.mark.parametrize("changed", ["image", "tags"])
def test_what_was_changed_since_the_interruption_is_predicted_again_and_no_more(
    interrupted: list[str], changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if changed == "image":
        Image.new("RGB", (64, 24), "red").save(tmp_path / "images" / "a b" / "01.png")
    else:
        table = tmp_path / "tags.csv"
        _, first, second = (line.split(",") for line in table.read_text().splitlines())
        table.write_text(f"path,labels\n{first[0]},{second[1]}\n{second[0]},{second[1]}\n")
    repeated: list[str] = []

    def counted(prediction: Prediction) -> str:
        repeated.append(prediction.image)
        return prediction_line(prediction)

    with monkeypatch.context() as counting:
        counting.setattr("weakloc.api.predictions.prediction_line", counted)
        assert weakloc([*interrupted, "--resume"]) == 0
    assert "a b/01.png" in repeated
    assert len(repeated) == 59 - 7  # the part of the change and those that were not done
    resumed = lines(tmp_path / "out")
    assert weakloc(interrupted) == 0
    assert lines(tmp_path / "out") == resumed


def test_two_devices_give_the_same_file_and_whoever_kills_one_can_go_on(
    trained: Path,
    photos: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ["predict", str(trained), str(photos), "--out", str(tmp_path / "out"), *FAST]
    setting_up = SETTING_UP + "from weakloc.cli import run\nsys.exit(run(sys.argv[1:]))\n"
    command = [sys.executable, "-c", setting_up, *flags, "--devices", "2"]
    with subprocess.Popen(command, env=subprocess_environment(), stderr=subprocess.PIPE) as parent:
        while len(list((tmp_path / "out" / "parts").glob("*.key"))) < 2:
            assert parent.poll() is None
            time.sleep(0.01)
        children = psutil.Process(parent.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
        workers[0].kill()
        assert parent.stderr is not None
        said = parent.stderr.read().decode()
    assert parent.returncode == 1
    assert said.splitlines()[-1].endswith("the same command with --resume goes on")
    assert not any(worker.is_running() for worker in workers)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    monkeypatch.setattr("weakloc.api.predictions.PART_SIZE", PART_SIZE)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert weakloc([*flags, "--resume"]) == 0
    assert lines(tmp_path / "out") == lines(uninterrupted)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--engine", "ray"], 'Install it: pip install "weakloc[ray]"'),
        (["--address", "auto"], "--address is 'auto'. Say --engine ray, or leave it out"),
        (["--devices", "0"], "--devices is 0. Give 1 or more"),
    ],
)
def test_what_cannot_share_the_images_is_refused_before_any_is_predicted(
    trained: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    complaint: str,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    assert weakloc(["predict", str(trained), str(photos), "--out", str(out), *flags]) == 2
    assert complaint in capsys.readouterr().err
    assert not out.exists()


def test_predicting_twice_gives_the_same_bytes(
    trained: Path, photos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    flags = ["--workers", "0", "--out", str(tmp_path), *FAST]
    assert weakloc(["predict", str(trained), str(photos), *flags]) == 0
    assert lines(tmp_path) == lines(uninterrupted)


def test_tags_say_what_has_places_and_what_is_doubted(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    run = load_folder(trained)
    names = sorted(path.name for path in (scenes / "JPEGImages").iterdir())[:4]
    first, second = run.class_names[:2]
    table = tmp_path / "tags.csv"
    rows = [f"{names[0]},{first}", f"{names[1]},{first};{second}", f"{names[2]},"]
    table.write_text("path,labels\n" + "\n".join(rows) + "\n")
    images = tmp_path / "images"
    images.mkdir()
    for name in names:
        (images / name).symlink_to(scenes / "JPEGImages" / name)
    flags = ["--tags", str(table), "--out", str(tmp_path / "out"), "--workers", "0", *FAST]
    assert weakloc(["predict", str(trained), str(images), *flags]) == 0
    found = {p.image: p for p in read_predictions(tmp_path / "out" / "predictions.jsonl")}
    assert {box.class_name for box in found[names[0]].boxes} == {first}
    assert {box.class_name for box in found[names[1]].boxes} == {first, second}
    assert {point.class_name for point in found[names[1]].points} == {first, second}
    assert found[names[1]].extra["tags"] == [first, second]
    assert all(0 <= prediction.doubt <= 1 for prediction in found.values())


def test_a_tag_of_an_unknown_class_is_refused_with_its_line(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,labels\nü/00.png,unicorn\n")
    flags = ["--tags", str(table), "--out", str(tmp_path / "out"), *FAST]
    assert weakloc(["predict", str(trained), str(photos), *flags]) == 2
    assert "tags.csv, line 2: the run has no class 'unicorn'" in capsys.readouterr().err


def test_classes_that_were_tagged_together_raise_each_other(
    trained: Path, photos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Eq. 2 to 4 on the scores of the plain run, by the counts of its run.json."""
    flags = ["--rescoring", "0.5", "--out", str(tmp_path), *FAST]
    assert weakloc(["predict", str(trained), str(photos / "ü"), *flags]) == 0
    shares = shares_from_counts(np.array(load_folder(trained).run.labels.co_occurrence))
    assert shares.sum() > 0
    plain = {
        prediction.image: np.array(list(prediction.scores.values()))
        for prediction in read_predictions(uninterrupted / "predictions.jsonl")
    }
    for prediction in read_predictions(tmp_path / "predictions.jsonl"):
        scores = plain[f"ü/{prediction.image}"]
        expected = (scores + 0.5 * shares @ scores) / (1 + 0.5 * shares.sum(axis=1))
        found = np.array(list(prediction.scores.values()))
        np.testing.assert_allclose(found, expected, atol=2e-4)
    summary = json.loads((tmp_path / "predictions.json").read_text())
    assert summary["settings"]["rescoring"] == 0.5


def test_other_formats_pictures_and_heat_maps_lie_beside_the_predictions(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    flags = ["--format", "coco", "--format", "yolo", "--draw", "3", "--heat-maps", "--top", "1"]
    out = ["--out", str(tmp_path), *FAST]
    killed = tmp_path / "pictures" / "deep" / f".{32 * 'a'}.part.png"
    killed.parent.mkdir(parents=True)
    killed.touch()
    assert weakloc(["predict", str(trained), str(photos), *flags, *out]) == 0
    assert not killed.exists()
    found = list(read_predictions(tmp_path / "predictions.jsonl"))
    (document,) = (tmp_path / "coco").rglob("*.json")
    coco = json.loads(document.read_text())
    assert len(coco["annotations"]) == sum(len(p.boxes) for p in found)
    assert len(list((tmp_path / "yolo").rglob("*.txt"))) >= len(found)
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 3
    assert (tmp_path / "pictures.png").is_file()
    for prediction in found[:5]:
        folder = tmp_path / "heat_maps" / prediction.image
        assert {path.stem for path in folder.iterdir()} == {
            point.class_name for point in prediction.points
        }
        with Image.open(next(folder.iterdir())) as heat:
            assert heat.size == (prediction.width, prediction.height)


def test_a_format_that_is_none_is_refused_before_anything_is_done(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--format", "cocoo", "--out", str(tmp_path / "out"), *FAST]
    assert weakloc(["predict", str(trained), str(photos), *flags]) == 2
    assert "Did you mean 'coco'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_half_the_precision_gives_nearly_the_same_scores(
    trained: Path, photos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    flags = ["--precision", "bf16", "--out", str(tmp_path), *FAST]
    assert weakloc(["predict", str(trained), str(photos), *flags]) == 0
    pairs = zip(
        read_predictions(tmp_path / "predictions.jsonl"),
        read_predictions(uninterrupted / "predictions.jsonl"),
        strict=True,
    )
    for short, exact in pairs:
        for name, score in exact.scores.items():
            assert short.scores[name] == pytest.approx(score, abs=0.03)


def test_a_folder_without_images_leaves_nothing_behind(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "found"
    assert weakloc(["predict", str(trained), str(tmp_path / "empty"), "--out", str(out)]) == 2
    assert not out.exists()
