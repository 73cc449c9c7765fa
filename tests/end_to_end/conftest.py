"""Scenes and a tiny run trained on them, made once through the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from weakloc.cli import run as weakloc


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "drawn shapes"
    assert weakloc(["scenes", str(folder), "--train", "32", "--val", "8", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="session")
def few_images(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of them, for what looks at each image in many ways."""
    folder = tmp_path_factory.mktemp("few") / "JPEGImages"
    folder.mkdir()
    for path in sorted((scenes / "JPEGImages").iterdir())[:6]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: copy it first."""
    folder = tmp_path_factory.mktemp("runs") / "wildcat"
    small = ["--backbone", "tiny[width=8]", "--image-size", "96", "--epochs", "1"]
    machine = ["--workers", "0", "--devices", "1", "--precision", "fp32", "--quiet"]
    assert weakloc(["train", str(scenes), "--out", str(folder), *small, *machine]) == 0
    return folder


@pytest.fixture(scope="session")
def held_out(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same kind that did not learn from a quarter of its training images."""
    folder = tmp_path_factory.mktemp("runs") / "held-out"
    small = ["--backbone", "tiny[width=8]", "--image-size", "96", "--epochs", "1"]
    machine = ["--workers", "0", "--devices", "1", "--precision", "fp32", "--quiet"]
    own = ["--out", str(folder), "--hold-out", "0.25"]
    assert weakloc(["train", str(scenes), *own, *small, *machine]) == 0
    return folder
