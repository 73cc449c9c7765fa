"""A data set, a method and settings in; a trained run in its folder out."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from weakloc.errors import FailureError, RunError
from weakloc.methods.method import Method
from weakloc.settings import TrainSettings
from weakloc.structures import DataSet
from weakloc.training.checkpointing import (
    Checkpointing,
    WholeCheckpoints,
    check_same_start,
    restored_signals,
)
from weakloc.training.inputs import Process, feature_inputs, image_inputs
from weakloc.training.module import LocalizationModule
from weakloc.training.plan import TrainingPlan, make_plan
from weakloc.training.run_folder import (
    CHECKPOINT_NAME,
    MODEL_NAME,
    RECORD_NAME,
    EpochRecord,
    Run,
    RunWriter,
    load_run,
    read_record,
)
from weakloc.work import NO_DISPLAY, Display


def fit(
    data_set: DataSet,
    method: Method,
    settings: TrainSettings,
    out: Path,
    *,
    resume: bool = False,
    display: Display = NO_DISPLAY,
) -> Run:
    """Trains into the folder `out`, or continues what was begun there."""
    if is_first_process():
        _check_folder(out, resume=resume)
    plan = make_plan(data_set, method, settings)
    if is_first_process():
        _make_folder(out)  # only now, so that a mistake leaves nothing behind
    checkpoint = out / CHECKPOINT_NAME
    if checkpoint.is_file():
        check_same_start(checkpoint, plan.start)
        if is_complete(out, plan):
            return load_run(out)
    writer = RunWriter(out, plan.header)
    checkpointing = Checkpointing(out, plan, writer.publish)
    trainer = make_trainer(plan, out, [checkpointing, Shown(display, checkpointing)])
    process = Process(trainer.global_rank, trainer.world_size)
    if settings.frozen:
        inputs = feature_inputs(plan, out, process, partial(display.count, "computing features"))
    else:
        inputs = image_inputs(plan, process)
    module = LocalizationModule(plan, inputs)
    with quiet_engine():
        trainer.fit(
            module,
            inputs.learned,
            inputs.watched,
            ckpt_path=checkpoint if checkpoint.is_file() else None,
            weights_only=True,
        )
    if is_first_process():
        history, kept = checkpointing.history, checkpointing.kept_epoch()
        weights = plan.network.state_dict() if kept == history[-1].epoch else None
        writer.publish(weights, history, kept, broken=inputs.broken(), is_finished=True)
    return load_run(out)


def is_first_process() -> bool:
    """False in the further processes that torchrun, SLURM or the engine itself has started."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def _check_folder(out: Path, *, resume: bool) -> None:
    """Refuses to overwrite a run."""
    begun = [name for name in (CHECKPOINT_NAME, RECORD_NAME) if (out / name).exists()]
    if begun and not resume:
        raise RunError(
            f"there is a run here already ({begun[0]})",
            where=str(out),
            remedy="Continue it with --resume, or give another --out",
        )
    if begun == [RECORD_NAME]:
        raise RunError(
            f"{CHECKPOINT_NAME} is missing, so this run cannot be continued",
            where=str(out),
            remedy="Train anew into another --out; this run still predicts",
        )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FailureError(
            f"the folder cannot be made ({error.strerror})",
            where=str(out),
            remedy="Give another --out",
        ) from error
    for leftover in out.glob(".*.part*"):  # of a killed process
        leftover.unlink(missing_ok=True)


def is_complete(out: Path, plan: TrainingPlan) -> bool:
    """Whether the run in this folder was trained to the end of the plan."""
    if not (out / RECORD_NAME).is_file() or not (out / MODEL_NAME).is_file():
        return False
    record = read_record(out)
    epochs = record["method"]["settings"]["optimisation"]["epochs"]
    return bool(record["finished"]) and bool(epochs == plan.optimisation.epochs)


def make_trainer(plan: TrainingPlan, folder: Path, callbacks: Sequence[Callback]) -> Trainer:
    """Lightning's Trainer without any output, file or signal of its own."""
    plugins: list[object] = [WholeCheckpoints()]
    if SLURMEnvironment.detect():
        # The job's signal saves through our checkpoints; resubmitting is left to the user.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    with quiet_engine():
        return Trainer(
            accelerator=plan.hardware.accelerator,
            devices=plan.hardware.num_devices,
            num_nodes=plan.settings.nodes,
            strategy=plan.hardware.strategy,
            precision="bf16-mixed" if plan.hardware.in_bf16 else "32-true",
            max_epochs=plan.optimisation.epochs,
            max_steps=plan.optimisation.max_steps or -1,
            accumulate_grad_batches=plan.settings.accumulate,
            limit_val_batches=1.0 if plan.division.watched else 0.0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            callbacks=list(callbacks),
            plugins=plugins,  # type: ignore[arg-type]
            logger=[TensorBoardLogger(folder, name="", version="tensorboard")],
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )


# What Lightning says of choices that are meant.
_EXPECTED_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # inside Lightning, with torch >= 2.9
    r"Found \d+ module\(s\) in eval mode",  # a frozen backbone
    r"Starting from v1.9.0, `tensorboardX`",
    r"You defined a `validation_step` but have no `val_dataloader`",  # too few images
    r".*You are using a CUDA device .* that has Tensor Cores",
)


@contextmanager
def quiet_engine() -> Iterator[None]:
    """Without Lightning's notes below a warning and its warnings about what is meant.

    Signals and PyTorch's random numbers are afterwards what they were before.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(), restored_signals(), torch.random.fork_rng(devices=()):
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Shown(Callback):
    """Shows batches and epochs of the first process."""

    def __init__(self, display: Display, checkpointing: Checkpointing) -> None:
        self._display = display
        self._checkpointing = checkpointing
        self._images, self._began = 0, time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self._images, self._began = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs
        assert isinstance(pl_module, LocalizationModule)
        self._images += len(batch.batch) * trainer.world_size
        if not trainer.is_global_zero:
            return
        history = self._checkpointing.history
        precision = history[-1].classification_map if history else None
        rate = self._images / max(time.monotonic() - self._began, 1e-9)
        epochs, per_epoch = trainer.max_epochs or 0, int(trainer.num_training_batches)
        self._display.step(
            f"epoch {trainer.current_epoch + 1}/{epochs}  loss {pl_module.guard.latest:.4f}  "
            f"mAP {'-' if precision is None else f'{precision:.3f}'}  {rate:.0f} images/s",
            trainer.current_epoch * per_epoch + batch_idx + 1,
            epochs * per_epoch,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the checkpointing's, which puts the numbers of the epoch together."""
        del pl_module
        if trainer.is_global_zero:
            record = self._checkpointing.history[-1]
            self._display.say(_line_of(record, trainer.max_epochs))


def _line_of(record: EpochRecord, epochs: int | None) -> str:
    numbers = [f"loss {record.loss:.4f}"]
    for name, value in (("mAP", record.classification_map), ("point AP", record.point_map)):
        if value is not None:
            numbers.append(f"{name} {value:.3f}")
    numbers.append(f"{record.seconds:.1f} s")
    return f"epoch {record.epoch}/{epochs}  " + "  ".join(numbers)
