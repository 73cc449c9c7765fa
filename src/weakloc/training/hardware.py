"""What the machine offers, turned into settings of the engine."""

from __future__ import annotations

import os

import torch

from weakloc.config import TrainSettings
from weakloc.errors import SettingError


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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = (cores or 1) // num_devices(settings)
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
