"""What a person sees of a training, and that quiet is quiet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.training.small_data import method, settings
from weakloc.structures import DataSet
from weakloc.training.fit import train


def test_without_a_terminal_each_epoch_is_one_line(
    data_set: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train(data_set, method(), settings(), tmp_path, progress="auto")
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    expected = [
        rf"epoch {each.epoch}/3  loss {each.loss:.4f}  mAP {each.classification_map:.3f}  "
        rf"point AP {each.point_map:.3f}  \d+\.\d s"
        for each in run.history
    ]
    assert len(lines) == 3
    assert all(re.fullmatch(*pair) for pair in zip(expected, lines, strict=True))


def test_computing_features_is_shown_in_tenths(
    data_set: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(data_set, method(), settings(frozen=True, epochs=1), tmp_path, progress="lines")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "computing features: 0 of 31"
    assert "computing features: 31 of 31" in lines


def test_quiet_says_nothing_at_all(
    data_set: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(data_set, method(), settings(epochs=1), tmp_path, progress="quiet")
    train(data_set, method(), settings(epochs=2), tmp_path, resume=True, progress="quiet")
    assert capfd.readouterr() == ("", "")


def test_a_bar_leaves_no_trace_of_itself_but_the_epochs(
    data_set: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(data_set, method(), settings(epochs=1), tmp_path, progress="bar")
    assert "epoch 1/1" in capfd.readouterr().err
