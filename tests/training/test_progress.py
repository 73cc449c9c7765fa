"""What a person sees of a training, and that quiet is quiet."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.training.small_data import method, settings
from weakloc.cli.terminal import Terminal
from weakloc.methods.beam import Beam
from weakloc.methods.max_mil import MaxMil
from weakloc.methods.method import Method
from weakloc.methods.wildcat import Wildcat
from weakloc.structures import DataSet
from weakloc.training.fit import fit


def test_without_a_terminal_each_epoch_is_one_line(
    data_set: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Terminal().display() as display:
        run = fit(data_set, method(), settings(), tmp_path, display=display)
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


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (MaxMil(), " (at one size)"),
        (Wildcat(map_scales=(1.0, 2.0)), " (at one size)"),
        (Wildcat(), ""),
        (Beam(), " (without the search)"),
    ],
)
def test_a_method_that_predicts_from_more_than_one_map_says_what_is_watched(
    other: Method, said: str, data_set: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Terminal().display() as display:
        run = fit(data_set, other, settings(epochs=1), tmp_path, display=display)
    assert f"  point AP {run.history[0].point_map:.3f}{said}  " in capfd.readouterr().err


def test_computing_features_is_shown_in_tenths(
    data_set: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Terminal().display() as display:
        fit(data_set, method(), settings(frozen=True, epochs=1), tmp_path, display=display)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "computing features: 4 of 31"
    assert "computing features: 31 of 31" in lines


def test_quiet_says_nothing_at_all(
    data_set: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Terminal(quiet=True).display() as display:
        fit(data_set, method(), settings(epochs=1), tmp_path, display=display)
    fit(data_set, method(), settings(epochs=2), tmp_path, resume=True)
    assert capfd.readouterr() == ("", "")


def test_a_bar_leaves_no_trace_of_itself_but_the_epochs(
    data_set: DataSet,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Terminal().display() as display:
        run = fit(data_set, method(), settings(epochs=1, frozen=True), tmp_path, display=display)
    shown = capfd.readouterr().err
    assert f"epoch 1/1  loss {run.history[0].loss:.4f}  mAP" in shown
    assert "images/s" in shown
    assert shown.rstrip("\n").endswith("\x1b[2K")  # the bar is taken away in the end
