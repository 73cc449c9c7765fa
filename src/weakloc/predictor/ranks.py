"""Which of several processes this is, under torchrun, SLURM's torchrun or alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed


@dataclass(frozen=True)
class Ranks:
    """This process is `rank` of `world_size`; `local_rank` is its number on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def wait_for_all(self) -> None:
        if self.world_size > 1:
            distributed.barrier()


@contextmanager
def joined_ranks(*, timeout_hours: float = 72.0) -> Iterator[Ranks]:
    """The ranks that torchrun names in the environment, able to wait for one another.

    The time limit bounds how far apart the first and the last rank may finish.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks()
        return
    rank = int(os.environ["RANK"])
    limit = timedelta(hours=timeout_hours)
    distributed.init_process_group("gloo", rank=rank, world_size=world_size, timeout=limit)
    try:
        yield Ranks(rank, world_size, int(os.environ.get("LOCAL_RANK", rank)))
    finally:
        distributed.destroy_process_group()


def own_device() -> torch.device:
    """The GPU of this process among those of its machine, or the processor where there is none."""
    num_devices = torch.cuda.device_count()
    if num_devices == 0:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % num_devices)
