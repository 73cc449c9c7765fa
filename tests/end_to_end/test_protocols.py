"""What the papers learned from and judged on, by the names of splits on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from weakloc.cli import run as weakloc

SMALL = ["--backbone", "tiny[width=8]", "--image-size", "64", "--epochs", "1", "--workers", "0"]


@pytest.fixture(scope="module")
def voc(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes with a trainval, as VOC has it."""
    root = Path(shutil.copytree(scenes, tmp_path_factory.mktemp("voc") / "VOC2007"))
    lists = root / "ImageSets/Main"
    both = (lists / "train.txt").read_text() + (lists / "val.txt").read_text()
    (lists / "trainval.txt").write_text(both)
    return root


def test_data_shows_trainval_and_counts_no_image_twice(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weakloc(["data", str(voc), "--check", "--json", "--quiet"]) == 0
    shown = json.loads(capsys.readouterr().out)
    counts = {name: split["images"] for name, split in shown["splits"].items()}
    assert counts == {"train": 32, "val": 8, "trainval": 40}
    assert shown["images"]["images"] == 40
    assert "image in two splits" not in shown["problem_counts"]


@pytest.mark.parametrize(
    ("flags", "num_learned", "watched"),
    [
        (("--train-split", "trainval", "--hold-out", "0"), 40, "nothing: --hold-out is 0"),
        (("--train-split", "train+val"), 36, "4 of 40 training images, drawn with seed 0"),
        ((), 32, "split 'val'"),
    ],
)
def test_val_is_learned_from_or_watched_but_never_both(
    voc: Path, tmp_path: Path, flags: tuple[str, ...], num_learned: int, watched: str
) -> None:
    out = tmp_path / "run"
    assert weakloc(["train", str(voc), "--out", str(out), *SMALL, *flags, "--quiet"]) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["labels"]["num_images"] == num_learned
    assert record["selection"]["watched"] == watched


def test_watching_what_is_learned_from_is_refused(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--train-split", "val", "--val-split", "trainval"]
    assert weakloc(["train", str(voc), "--out", str(tmp_path / "run"), *SMALL, *flags]) == 2
    assert "8 of 40 images of split 'trainval' would be learned from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
