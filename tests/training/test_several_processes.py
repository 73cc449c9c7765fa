"""Two processes train the same weights as one that sees both their batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.training.small_data import make_data_set, method, settings
from weakloc.methods.method import Optimisation
from weakloc.structures import DataSet
from weakloc.training.fit import fit, is_first_process
from weakloc.training.run_folder import load_run

Weights = dict[str, NDArray[np.float32]]

# Layer norms: batch norms would see other batches. 40 images are 5 steps of 8.
BACKBONE = "convnext_atto"
SIDE = 64
ROOT = Path(__file__).parents[2]
PLAIN = Optimisation(kind="sgd", learning_rate=0.01, epochs=1, batch_size=4)


def train_small(data_set: DataSet, out: Path, *, batch_size: int, devices: int) -> None:
    chosen = settings(
        backbone=BACKBONE,
        weights="none",
        image_size=SIDE,
        batch_size=batch_size,
        devices=devices,
        epochs=1,
    )
    fit(data_set, method(optimisation=PLAIN), chosen, out)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path) -> None:
    data_set = make_data_set(tmp_path / "data", num_train=40, num_val=1)
    train_small(data_set, tmp_path / "one", batch_size=8, devices=1)
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning:weakloc", __file__, str(tmp_path)],
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "OMP_NUM_THREADS": "1"},
    )
    train_small(data_set, tmp_path / "control", batch_size=4, devices=1)
    one, two, control = (
        load_file(tmp_path / name / "model.safetensors") for name in ("one", "two", "control")
    )
    assert largest_difference(one, two) < 1e-5
    assert largest_difference(one, control) > 1e-3  # weights do move in five steps
    # One watched image: the second process has none.
    records = [load_run(tmp_path / name).history[0] for name in ("one", "two")]
    assert records[0].classification_map == records[1].classification_map
    assert records[0].loss == pytest.approx(records[1].loss, rel=1e-6)


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({}, True),
        ({"SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),  # as the engine starts them
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        # srun started torchrun on two machines, which numbers them as it likes.
        ({"SLURM_PROCID": "1", "RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"SLURM_PROCID": "0", "RANK": "2", "LOCAL_RANK": "0"}, False),
    ],
)
def test_one_process_of_all_is_the_first(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], *, is_first: bool
) -> None:
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is is_first


def largest_difference(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    images = make_data_set(folder / "data again", num_train=40, num_val=1)
    train_small(images, folder / "two", batch_size=4, devices=2)
