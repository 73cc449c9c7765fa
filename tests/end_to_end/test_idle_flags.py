"""No command takes a setting of how images are seen, or of what is said of them, and ignores it."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from weakloc.api.fused_runs import predictor_of
from weakloc.cli import app
from weakloc.cli import run as weakloc
from weakloc.data.sources import find_images
from weakloc.settings import EvaluateSettings, Look, Places, ReportSettings

# Makers, checks and copies of settings, which read all of them and use none.
COPIERS = ("dataclasses.py", "<string>", "weakloc/settings.py", "weakloc/methods/settings.py")
SEVERAL_VIEWS = ("--scales", "0.5", "--scales", "1", "--tile", "48")
SEVERAL_PLACES = ("--points", "2", "--masks", "threshold")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of all settings that anything reads from now on."""
    names: set[str] = set()

    def reading(settings: Any, name: str) -> Any:
        if not sys._getframe(1).f_code.co_filename.endswith(COPIERS):
            names.add(name)
        return object.__getattribute__(settings, name)

    for kind in (Look, Places, EvaluateSettings, ReportSettings):
        monkeypatch.setattr(kind, "__getattribute__", reading)
    return names


def accepted(command: str) -> set[str]:
    settings = {item.name for kind in (Look, Places) for item in fields(kind)}
    settings |= {item.name for kind in (EvaluateSettings, ReportSettings) for item in fields(kind)}
    arguments = app[command].assemble_argument_collection()
    flags = {argument.name for argument in arguments if argument.show}
    return {name for name in settings if "--" + name.replace("_", "-") in flags}


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("evaluate", ()),
        ("predict", ("--tags", "{scenes}/tags.csv")),
        ("report", ("--tags", "{scenes}/tags.csv", "--data", "{scenes}")),
    ],
)
def test_every_flag_is_read(
    command: str,
    own: tuple[str, ...],
    trained: Path,
    scenes: Path,
    few_images: Path,
    tmp_path: Path,
    reads: set[str],
) -> None:
    source = scenes if command == "evaluate" else few_images
    flags = [flag.format(scenes=scenes) for flag in (*own, *SEVERAL_VIEWS, *SEVERAL_PLACES)]
    out = str(tmp_path / "out")
    assert weakloc([command, str(trained), str(source), "--out", out, "--quiet", *flags]) == 0
    others = {"run"} if command == "report" else {"tags"}  # heat of predictions; own option
    assert accepted(command) - reads - others == set()


def test_every_flag_of_a_server_is_read(trained: Path, few_images: Path, reads: set[str]) -> None:
    look = Look(scales=(0.5, 1.0), tile=48)
    places = Places(top=2, points=2, masks="threshold")
    predictor, _ = predictor_of(str(trained), (), look, places)
    assert list(predictor.predict(find_images(str(few_images))))
    assert accepted("serve") - reads == set()


@pytest.mark.parametrize("command", ["evaluate", "serve"])
def test_certainty_about_tags_is_no_flag_where_no_tags_are_given(
    command: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weakloc([command, str(trained), "data", "--sure", "0.8"]) == 2
    assert "--sure" in capsys.readouterr().err
