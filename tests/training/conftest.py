"""The small data set, made once."""

from __future__ import annotations

import pytest

from tests.training.small_data import make_data_set, method, settings
from weakloc.structures import DataSet
from weakloc.training.fit import fit
from weakloc.training.run_folder import Run


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return make_data_set(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def run(data_set: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of three epochs; not to be changed."""
    return fit(data_set, method(), settings(), tmp_path_factory.mktemp("run") / "run")
