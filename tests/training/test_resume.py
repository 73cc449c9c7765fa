"""A run that was stopped anywhere ends with the weights of one that was not."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import heap
from pathlib import Path

import pytest
import torch

from tests.training.small_data import method, settings
from weakloc.errors import OutputError, RunError, TrainingError
from weakloc.methods.max_mil import MaxMil
from weakloc.methods.method import Method, Optimisation
from weakloc.settings import TrainSettings
from weakloc.structures import DataSet
from weakloc.training.fit import Interruption, fit
from weakloc.training.module import LocalizationModule
from weakloc.training.run_folder import Run, load_run


class KilledError(Exception):
    """Stands for a process that is gone."""


@pytest.fixture(scope="module")
def whole_weights(run: Run) -> bytes:
    return weights_of(run.path)


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def at_step(
    monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int, act: Callable[[], None], *, step: str
) -> None:
    """Calls `act` before one training or validation step."""
    original = getattr(LocalizationModule, step)

    def acting(module: LocalizationModule, carried: object, batch_idx: int) -> object:
        if (module.current_epoch, batch_idx) == (epoch, batch):
            act()
        return original(module, carried, batch_idx)

    monkeypatch.setattr(LocalizationModule, step, acting)


def saving_always(**changes: object) -> TrainSettings:
    return settings(checkpoint_minutes=1e-9, **changes)


def train_until_killed(
    data_set: DataSet,
    chosen: TrainSettings,
    out: Path,
    *,
    epoch: int,
    batch: int,
    step: str = "training_step",
    how: Method | None = None,
) -> None:
    def die() -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, epoch, batch, die, step=step)
        with pytest.raises(KilledError):
            fit(data_set, how or method(), chosen, out)


# 22 images in batches of 4 are 6 batches; 9 watched images are 3.
@pytest.mark.parametrize(
    ("epoch", "batch", "step"),
    [
        (0, 1, "training_step"),
        (0, 2, "validation_step"),
        (1, 0, "training_step"),
        (1, 4, "training_step"),
        (1, 5, "training_step"),
        (2, 0, "validation_step"),
        (2, 3, "training_step"),
    ],
)
def test_a_run_killed_at_any_step_ends_with_the_same_weights(
    data_set: DataSet,
    run: Run,
    whole_weights: bytes,
    tmp_path: Path,
    epoch: int,
    batch: int,
    step: str,
) -> None:
    train_until_killed(data_set, saving_always(), tmp_path, epoch=epoch, batch=batch, step=step)
    resumed = fit(data_set, method(), saving_always(), tmp_path, resume=True)
    assert weights_of(tmp_path) == whole_weights
    assert [record.loss for record in resumed.history] == [each.loss for each in run.history]
    maps = [(each.classification_map, each.point_map) for each in run.history]
    assert [(each.classification_map, each.point_map) for each in resumed.history] == maps


def test_dropout_jitter_and_blends_repeat_after_a_restart_within_an_epoch(
    data_set: DataSet, tmp_path: Path
) -> None:
    jittered = MaxMil(hidden=8, dropout=0.5, optimisation=method().optimisation)
    one = settings(checkpoint_minutes=1e-9, accumulate=2, epochs=2, mixup=0.5)
    fit(data_set, jittered, one, tmp_path / "whole")
    train_until_killed(data_set, one, tmp_path / "parts", epoch=1, batch=3, how=jittered)
    fit(data_set, jittered, one, tmp_path / "parts", resume=True)
    assert weights_of(tmp_path / "parts") == weights_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_a_signal_saves_and_says_how_to_continue(
    data_set: DataSet, whole_weights: bytes, tmp_path: Path, name: str, step: str
) -> None:
    handler = signal.getsignal(getattr(signal, name))
    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 1, 2, lambda: os.kill(os.getpid(), getattr(signal, name)), step=step)
        with pytest.raises(TrainingError, match=rf"stopped by {name}.*--resume"):
            fit(data_set, method(), settings(), tmp_path)
    assert signal.getsignal(getattr(signal, name)) is handler
    fit(data_set, method(), settings(), tmp_path, resume=True)
    assert weights_of(tmp_path) == whole_weights


def test_while_training_no_handler_of_the_engine_is_left(data_set: DataSet, tmp_path: Path) -> None:
    """Lightning's own waits for other processes inside of the handler, for ever."""
    handlers: list[object] = []

    def look() -> None:
        handlers.extend(signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT))

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 0, 0, look, step="training_step")
        fit(data_set, method(), settings(epochs=1), tmp_path)
    assert [getattr(handler, "__func__", handler) for handler in handlers] == [
        Interruption.receive,
        Interruption.receive,
    ]


def test_a_second_signal_stops_at_once(data_set: DataSet, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # never over

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 0, 2, twice, step="training_step")
        with pytest.raises(TrainingError, match="at once"):
            fit(data_set, method(), settings(), tmp_path)


SCRIPT = """
import sys, torch
from pathlib import Path
from tests.training.small_data import make_data_set, method, settings
from weakloc.methods.method import Method
from weakloc.methods.method import Optimisation
from weakloc.training.fit import fit
constant = Optimisation(kind="sgd", learning_rate=0.05, epochs=3, batch_size=4)
torch.set_num_threads(int(sys.argv[3]))
data_set = make_data_set(Path(sys.argv[1]))
endless = settings(checkpoint_minutes=1e-9, epochs=10**6)
fit(data_set, method(optimisation=constant), endless, Path(sys.argv[2]))
"""
CONSTANT = Optimisation(kind="sgd", learning_rate=0.05, epochs=3, batch_size=4)


def test_a_process_killed_with_signal_9_is_continued(data_set: DataSet, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(data_set.root), str(out), str(torch.get_num_threads())],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(lambda: (out / "run.json").exists() or process.poll() is not None)
        time.sleep(0.07)  # into the next epoch
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()
    finally:
        process.kill()
    epochs = len(load_run(out).history) + 2
    same = method(optimisation=CONSTANT)
    resumed = fit(data_set, same, settings(epochs=epochs), out, resume=True)
    assert not list(out.glob(".*.part*"))
    fit(data_set, same, settings(epochs=epochs), tmp_path / "whole")
    assert weights_of(resumed.path) == weights_of(tmp_path / "whole")


def wait_for(condition: Callable[[], bool], *, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """As on a full disk: writing further fails.

    What processes share lies in files too: room for it is made before.
    """
    heap.BufferWrapper(2**21)  # given back at once, and kept for the next that asks
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_full_disk_is_said_and_the_last_good_checkpoint_stays(
    data_set: DataSet, whole_weights: bytes, tmp_path: Path, share: float
) -> None:
    train_until_killed(data_set, settings(), tmp_path, epoch=2, batch=0)
    good = (tmp_path / "last.ckpt").read_bytes()
    limit = int(share * len(good))
    with files_of_at_most(limit), pytest.raises(OutputError, match=r"cannot be written.*Free"):
        fit(data_set, method(), saving_always(), tmp_path, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == good
    assert not list(tmp_path.glob(".*.part*"))
    fit(data_set, method(), settings(), tmp_path, resume=True)
    assert weights_of(tmp_path) == whole_weights


def test_a_loss_that_is_not_a_number_stops_with_the_images_and_keeps_the_checkpoint(
    data_set: DataSet, tmp_path: Path
) -> None:
    train_until_killed(data_set, settings(), tmp_path, epoch=1, batch=0)
    good = (tmp_path / "last.ckpt").read_bytes()

    def spoil() -> None:
        original = LocalizationModule._output

        def spoiled(module: LocalizationModule, inputs: torch.Tensor) -> object:
            return original(module, inputs * float("nan"))

        patched.setattr(LocalizationModule, "_output", spoiled)

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 1, 2, spoil, step="training_step")
        with pytest.raises(TrainingError, match=r"loss became nan at .*train\d+\.png.*--learning"):
            fit(data_set, method(), saving_always(), tmp_path, resume=True)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (tmp_path / "last.ckpt").read_bytes() != good  # two batches further
    assert all(value.isfinite().all() for value in content["state_dict"].values())


def test_other_settings_or_data_are_refused_and_more_epochs_are_not(
    data_set: DataSet, tmp_path: Path
) -> None:
    fit(data_set, method(), settings(epochs=1), tmp_path)
    with pytest.raises(RunError, match=r"started with method.optimisation.*'batch_size': 4"):
        fit(data_set, method(), settings(epochs=1, batch_size=5), tmp_path, resume=True)
    with pytest.raises(RunError, match=r"alpha = 0\.7, now it is 0\.5"):
        fit(data_set, method(alpha=0.5), settings(epochs=1), tmp_path, resume=True)
    fewer = DataSet(
        data_set.root,
        "folders",
        data_set.class_names,
        {"train": data_set.splits["train"][1:], "val": data_set.splits["val"]},
    )
    with pytest.raises(RunError, match=r"training images = '22, \w+', now it is '21, "):
        fit(fewer, method(), settings(epochs=1), tmp_path, resume=True)
    assert len(fit(data_set, method(), settings(epochs=2), tmp_path, resume=True).history) == 2


def test_going_on_with_another_number_of_threads_is_said(data_set: DataSet, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    fit(data_set, method(), settings(epochs=1), tmp_path)
    torch.set_num_threads(before + 1)
    try:
        run = fit(data_set, method(), settings(epochs=2), tmp_path, resume=True)
    finally:
        torch.set_num_threads(before)
    expected = f"trained with {before} and {before + 1} threads in turn"
    (tmp_path / "cells.safetensors").write_text("of two epochs")
    again = fit(data_set, method(), settings(epochs=3), tmp_path, resume=True)
    assert any(note.startswith("cells.safetensors, learned of") for note in again.notes)
    assert not (tmp_path / "cells.safetensors").exists()
    for resumed in (run, again):
        assert any(note.startswith(expected) for note in resumed.notes)


def test_a_finished_run_is_not_trained_again_and_an_existing_one_not_overwritten(
    data_set: DataSet, run: Run
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir() if path.is_file()}
    again = fit(data_set, method(), settings(), run.path, resume=True)
    assert again.history == run.history
    after = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir() if path.is_file()}
    assert after == before
    with pytest.raises(RunError, match=r"already.*--resume"):
        fit(data_set, method(), settings(), run.path)


def test_resume_in_an_empty_folder_starts(data_set: DataSet, tmp_path: Path) -> None:
    started = fit(data_set, method(), settings(epochs=1), tmp_path / "new", resume=True)
    assert len(started.history) == 1


def test_a_checkpoint_of_something_else_is_refused(data_set: DataSet, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(RunError, match="not a checkpoint of weakloc"):
        fit(data_set, method(), settings(), tmp_path, resume=True)
    (tmp_path / "last.ckpt").write_bytes(b"cut short")
    with pytest.raises(RunError, match="cannot be read"):
        fit(data_set, method(), settings(), tmp_path, resume=True)


def test_checkpoints_hold_no_code(run: Run) -> None:
    content = torch.load(run.path / "last.ckpt", weights_only=True)
    assert content["epoch"] == 2


def test_what_an_epoch_took_is_not_counted_again_after_a_stop_behind_it(run: Run) -> None:
    checkpoint = torch.load(run.path / "last.ckpt", weights_only=True)
    assert 0 <= checkpoint["weakloc"]["seconds"] < run.history[-1].seconds / 2
