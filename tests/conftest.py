"""What every test may use: seeded generators, and the optional material that may be absent."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest

# Some images forbid Python to keep what it compiled: then each of the forty processes that tests
# start would compile torch anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# One thread a test process, before torch is imported: the processes already fill the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_finish() -> None:
    """Modules and collected tests stay: no search for garbage, of which tests make much, looks."""
    gc.freeze()


def shared_file(relative: str) -> Path:
    """A file that only some machines have; the test is skipped, with the reason, elsewhere."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{relative} is not on this machine")
    return path


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
