"""What every test may use: seeded generators, and the optional material that may be absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[2] / "shared"


def shared_file(relative: str) -> Path:
    """A file that only some machines have; the test is skipped, with the reason, elsewhere."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{relative} is not on this machine")
    return path


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
