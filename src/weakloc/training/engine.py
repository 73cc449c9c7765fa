"""The Lightning Trainer as this project uses it: no output, files or signals of its own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from weakloc.config import TrainSettings
from weakloc.training import hardware
from weakloc.training.batches import ResumableEpochs
from weakloc.training.interruption import restored_signals
from weakloc.training.keeper import WholeCheckpoints
from weakloc.training.module import LocalizationModule
from weakloc.training.saving import CHECKPOINT_NAME

# What Lightning says of choices that are meant.
_EXPECTED_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # inside Lightning, with torch >= 2.9
    r"Found \d+ module\(s\) in eval mode",  # a frozen backbone
    r"Starting from v1.9.0, `tensorboardX`",
    r"You defined a `validation_step` but have no `val_dataloader`",  # too few images
    r".*You are using a CUDA device .* that has Tensor Cores",
)


def make_trainer(
    settings: TrainSettings,
    folder: Path,
    *,
    epochs: int,
    max_steps: int | None,
    callbacks: Sequence[Callback],
    watches: bool,
) -> Trainer:
    plugins: list[object] = [WholeCheckpoints()]
    if SLURMEnvironment.detect():
        # The job's signal saves through the keeper; resubmitting is left to the user.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    with silenced():
        return Trainer(
            accelerator=hardware.accelerator(),
            devices=hardware.num_devices(settings),
            num_nodes=settings.nodes,
            strategy=hardware.strategy(settings),
            precision="bf16-mixed" if hardware.uses_bf16(settings) else "32-true",
            max_epochs=epochs,
            max_steps=max_steps or -1,
            accumulate_grad_batches=settings.accumulate,
            limit_val_batches=1.0 if watches else 0.0,
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


def fit(
    trainer: Trainer,
    module: LocalizationModule,
    learned: ResumableEpochs,
    watched: ResumableEpochs | None,
    *,
    checkpoint: Path | None,
) -> None:
    """Trains to the end, from the checkpoint where there is one."""
    state = torch.random.get_rng_state()
    try:
        with restored_signals(), silenced():
            trainer.fit(module, learned, watched, ckpt_path=checkpoint, weights_only=True)
    finally:
        torch.random.set_rng_state(state)


@contextmanager
def silenced() -> Iterator[None]:
    """Lightning's notes below a warning, and its warnings about what is meant, are not shown."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def checkpoint_in(folder: Path) -> Path | None:
    path = folder / CHECKPOINT_NAME
    return path if path.is_file() else None
