"""The Lightning Trainer as this project uses it: no output, files or signals of its own."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from weakloc.errors import SettingError
from weakloc.settings import TrainSettings
from weakloc.training.checkpointing import WholeCheckpoints, restored_signals
from weakloc.training.module import LocalizationModule, ResumableEpochs
from weakloc.training.run_folder import CHECKPOINT_NAME
from weakloc.work import num_cores


def accelerator() -> str:
    return "gpu" if torch.cuda.is_available() else "cpu"


def num_devices(settings: TrainSettings) -> int:
    """Devices on this machine: as asked, else all GPUs, else one process."""
    available = torch.cuda.device_count() if accelerator() == "gpu" else None
    if settings.devices is None:
        return available or 1
    if available is not None and settings.devices > available:
        raise SettingError(
            f"--devices is {settings.devices} but there are {available}",
            remedy=f"Give --devices {available} or fewer",
        )
    return settings.devices


def strategy(settings: TrainSettings) -> str:
    """The engine's name of the strategy; one process needs none."""
    if settings.strategy == "fsdp" and accelerator() == "cpu":
        raise SettingError("--strategy is 'fsdp' but there is no GPU", remedy="Use --strategy ddp")
    if num_devices(settings) * settings.nodes == 1:
        return "auto"
    return "ddp" if settings.strategy == "auto" else settings.strategy


def num_workers(settings: TrainSettings) -> int:
    """Reading processes for each device; a small machine without a GPU computes with all cores."""
    if settings.workers is not None:
        return settings.workers
    share = num_cores() // num_devices(settings)
    return min(share - 1, 12) if accelerator() == "gpu" else min(share // 4, 4)


def is_first_process() -> bool:
    """False in the further processes that torchrun, SLURM or the engine itself has started."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def computes_in_bf16() -> bool:
    """Whether bfloat16 arithmetic is in the hardware rather than emulated."""
    if accelerator() == "gpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):  # torch >= 2.9
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())


def uses_bf16(settings: TrainSettings) -> bool:
    return settings.precision == "bf16" or (settings.precision == "auto" and computes_in_bf16())


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
            accelerator=accelerator(),
            devices=num_devices(settings),
            num_nodes=settings.nodes,
            strategy=strategy(settings),
            precision="bf16-mixed" if uses_bf16(settings) else "32-true",
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
