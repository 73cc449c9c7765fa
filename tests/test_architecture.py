"""The rules of ARCHITECTURE.md and CONTRIBUTING.md that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "weakloc"
MODULES = sorted(SOURCE.rglob("*.py"))
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "tools"}
PUBLIC_NAMES = {
    *("DataSettings", "Look", "Places", "RefineSettings", "TrainSettings"),
    *("EvaluateSettings", "ReportSettings"),
    *("CalibrateSettings", "Cut", "calibrate", "export", "predict_to_folder", "report"),
    *("Prediction", "ExportedNetwork", "TrainedRun", "WeaklocError"),
    *("check", "demo", "evaluate", "load", "localize", "read", "refine", "scenes", "train"),
}


def _name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_have_at_most_600_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_functions_have_at_most_50_lines(path: Path) -> None:
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 50
    }
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_say_what_they_are_and_are_named_by_their_subject(path: Path) -> None:
    assert path.stem.strip("_") not in VAGUE_NAMES
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_package_imports_its_own_init(path: Path) -> None:
    if path.name in {"__init__.py", "__main__.py"}:
        return
    packages = {
        ".".join(("weakloc", *folder.relative_to(SOURCE).parts)): folder
        for folder in path.parents
        if folder.is_relative_to(SOURCE) and folder != SOURCE
    }
    from_init = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in packages
        for alias in node.names
        if not (packages[node.module] / f"{alias.name}.py").is_file()
    ]
    assert not from_init


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_nothing_prints_or_exits_below_the_command_line(path: Path) -> None:
    if path.name == "cli.py" or path.parent.name == "cli":
        return
    called = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert not called & {"print", "sys.exit", "exit", "quit"}


def test_the_public_names_are_these() -> None:
    import weakloc

    assert set(weakloc.__all__) == PUBLIC_NAMES
    assert all(getattr(weakloc, name) for name in weakloc.__all__)


def test_importing_weakloc_is_quick_and_loads_no_torch() -> None:
    code = (
        "import time; start = time.perf_counter(); import weakloc, sys;"
        "print(time.perf_counter() - start, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    # The best of three: a busy machine says nothing about the package.
    answers = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert min(float(answer[0]) for answer in answers) < 0.3
    assert all(answer[1:] == ["False", "False"] for answer in answers)


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['weakloc', '--help'];"
        "import weakloc.cli\n"
        "try: weakloc.cli.main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "demo" in answer.stdout
