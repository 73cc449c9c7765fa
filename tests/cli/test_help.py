"""The help of every command: short by itself, whole where it is asked for."""

from __future__ import annotations

import re

import pytest

from weakloc.cli import COMMANDS, app
from weakloc.cli import run as weakloc

NAMES = [command.__name__ for command in COMMANDS]


def options_in_help(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert weakloc([command, flag]) == 0
    names = re.findall(r"^\W*(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    return [name for name in names if not name.startswith("--no-")]


@pytest.mark.parametrize("command", NAMES)
def test_help_shows_at_most_twenty_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 < len(options_in_help(command, "--help", capsys)) <= 20


@pytest.mark.parametrize("command", NAMES)
def test_all_help_shows_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = app[command].assemble_argument_collection()
    options = {argument.name for argument in arguments if argument.show}
    shown = set(options_in_help(command, "--help-all", capsys))
    assert shown == {name for name in options if name.startswith("--")}
    assert set(options_in_help(command, "--help", capsys)) <= shown
