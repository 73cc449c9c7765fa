"""What installed packages add is found by name, imported late, and told clearly when it fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from weakloc.data.readers import READERS
from weakloc.errors import ExtensionError
from weakloc.extensions import BUILT_IN, Choices, names_of, package_of
from weakloc.methods import METHODS
from weakloc.model.backbones import BACKBONES
from weakloc.output.exporters import EXPORTERS

Install = Callable[..., None]
OWN = {"one": 1, "two": 2}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package with a module and entry points of the group `weakloc.metrics` on the path."""

    def put(name: str, source: str, *, group: str = "metrics", **entries: str) -> None:
        folder = tmp_path / name
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{key} = {name}:{value}" for key, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[weakloc.{group}]", *lines, ""]))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return put


def test_what_is_listed_without_importing_is_what_there_is() -> None:
    assert set(BUILT_IN["methods"]) == set(METHODS)
    assert set(BUILT_IN["readers"]) == set(READERS)
    assert set(BUILT_IN["exporters"]) == set(EXPORTERS)
    assert set(BUILT_IN["backbones"]) == set(BACKBONES)


def test_an_added_name_stands_after_the_built_in_ones_and_is_imported_late(install) -> None:
    install("late", "three = 3\n", three="three")
    choices = Choices("metrics", OWN)
    assert list(choices) == ["one", "two", "three"]
    assert len(choices) == 3
    assert "three" in choices
    assert choices["one"] == 1
    assert package_of("metrics", "three") == "late"
    assert package_of("metrics", "one") is None
    assert "late" not in sys.modules
    assert choices["three"] == 3
    assert dict(choices) == {**OWN, "three": 3}
    assert "four" not in choices
    with pytest.raises(KeyError):
        choices["four"]


def test_a_package_that_cannot_be_imported_is_named_and_harms_nothing_else(install) -> None:
    install("broken", "import surely_not_there\n", three="three")
    choices = Choices("metrics", OWN)
    assert choices["two"] == 2
    with pytest.raises(ExtensionError) as caught:
        choices["three"]
    assert str(caught.value) == (
        "broken:three: 'three' of the package broken cannot be imported "
        "(ModuleNotFoundError: No module named 'surely_not_there'). Mend or uninstall that package"
    )


def test_a_name_that_weakloc_has_already_is_refused_with_the_package(install) -> None:
    install("greedy", "one = 7\n", one="one")
    with pytest.raises(ExtensionError, match="'one': weakloc and greedy have the same name"):
        Choices("metrics", OWN)["one"]
    assert Choices("metrics", OWN)["two"] == 2


def test_two_packages_with_one_name_are_both_named(install) -> None:
    install("first", "x = 1\n", three="x")
    install("second", "x = 2\n", three="x")
    with pytest.raises(ExtensionError, match=r"(first and second|second and first) have the same"):
        Choices("metrics", OWN)["three"]


def test_names_for_the_help_import_neither_torch_nor_the_package(install, tmp_path: Path) -> None:
    install("helped", "raise RuntimeError\n", group="methods", mine="x")
    assert names_of("methods") == (*BUILT_IN["methods"], "mine")
    code = (
        "import sys; from weakloc.extensions import names_of; print(*names_of('methods'));"
        "assert not {'torch', 'numpy', 'helped'} & set(sys.modules)"
    )
    path = ":".join([str(tmp_path / "helped"), *sys.path])
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path},
        check=False,
    )
    assert answer.stdout.split() == [*BUILT_IN["methods"], "mine"], answer.stderr
