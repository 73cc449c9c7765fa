"""The numbers of every epoch in the hands of other loggers: the real ones, without a server."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.training.small_data import method, settings
from weakloc.errors import MissingPackageError
from weakloc.structures import DataSet
from weakloc.training.fit import fit


def test_csv_holds_every_epoch_as_the_run_does(data_set: DataSet, tmp_path: Path) -> None:
    run = fit(data_set, method(), settings(logger="csv"), tmp_path)

    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["seconds"]]
    assert [float(row["loss"]) for row in rows] == [record.loss for record in run.history]
    assert "seed: " in (tmp_path / "csv" / "hparams.yaml").read_text()


def test_mlflow_holds_every_epoch(data_set: DataSet, tmp_path: Path, monkeypatch: Any) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    run = fit(data_set, method(), settings(logger="mlflow"), tmp_path / "my run")

    client = mlflow.MlflowClient(f"file:{tmp_path / 'my run' / 'mlruns'}")
    experiment = client.get_experiment_by_name("weakloc")
    (kept,) = client.search_runs([experiment.experiment_id])
    losses = [metric.value for metric in client.get_metric_history(kept.info.run_id, "loss")]
    assert losses[-len(run.history) :] == [record.loss for record in run.history]
    assert kept.data.params["seed"] == "0"
    assert kept.info.run_name == "my run"


def test_weights_and_biases_holds_every_epoch(
    data_set: DataSet, tmp_path: Path, monkeypatch: Any
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    run = fit(data_set, method(), settings(logger="wandb"), tmp_path / "run")

    assert wandb.run.summary["loss"] == run.history[-1].loss
    assert wandb.run.config["seed"] == 0
    wandb.finish()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize(("name", "package"), [("mlflow", "mlflow-skinny"), ("wandb", "wandb")])
def test_a_logger_that_is_not_there_is_named_with_what_brings_it(
    data_set: DataSet, tmp_path: Path, name: str, package: str
) -> None:
    if find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(MissingPackageError, match=f'pip install "{package}"'):
        fit(data_set, method(), settings(logger=name), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
