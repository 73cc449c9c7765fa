"""The habit of kills begins with what there is."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from tests.kills.__main__ import MODULES, main


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_is_imported_beforehand_exists(module: str) -> None:
    assert find_spec(module) is not None


def test_an_unknown_command_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tests.kills", "export,exprot"])
    with pytest.raises(SystemExit):
        main()
    assert "'exprot' is not one of" in capsys.readouterr().err
