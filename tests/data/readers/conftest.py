"""Small data sets written out, and data sets as plain values to compare with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from weakloc.structures import DataSet, Sample

States = dict[str, dict[str, str]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, str | bytes | None]], Path]:
    """Writes files below a folder whose name has a space and an accent.

    The value is the content; None makes an image of 40 x 30 pixels.
    """

    def _write(files: dict[str, str | bytes | None]) -> Path:
        root = tmp_path / "my dätä"
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                Image.new("RGB", (40, 30), (200, 30, 90)).save(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return _write


@pytest.fixture
def states() -> Callable[[DataSet], States]:
    """Split -> image -> one sign for each class: + present, - absent, ? unknown."""
    return lambda data_set: {
        split: {sample.name: _signs(sample) for sample in samples}
        for split, samples in data_set.splits.items()
    }


def _signs(sample: Sample) -> str:
    return "".join("-?+"[state + 1] for state in sample.labels)


@pytest.fixture
def kinds() -> Callable[[DataSet], dict[str, int]]:
    return lambda data_set: dict(Counter(problem.kind for problem in data_set.problems))


@pytest.fixture
def places() -> Callable[[DataSet, str], list[str]]:
    """Where the problems of a kind are."""
    return lambda data_set, kind: [p.location for p in data_set.problems if p.kind == kind]
