"""The batches of a plan: images from the loaders, or cached features under --frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeAlias

import psutil
import torch

from weakloc.data.loaders import Batch, Cache, SampleLoader, evaluation_loader, training_loader
from weakloc.data.sampling import EpochBatches, EveryImageOnce, repetition_weights
from weakloc.errors import DataError
from weakloc.structures import BrokenImage, Sample
from weakloc.training.features import (
    Extraction,
    FeatureBatches,
    FeatureCache,
    FeatureView,
    one_writer,
)
from weakloc.training.plan import TrainingPlan
from weakloc.work import Progress

# (epoch, first batch) -> the batches from there to the end of the epoch
EpochSource: TypeAlias = Callable[[int, int], Iterable[Batch]]
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Process:
    """Which of the processes that train together this one is."""

    rank: int
    world_size: int


@dataclass(frozen=True)
class Inputs:
    """`broken` gives the images that could not be read so far."""

    learned: ResumableEpochs
    watched: ResumableEpochs | None
    broken: Callable[[], list[BrokenImage]]


def image_inputs(plan: TrainingPlan, process: Process) -> Inputs:
    cache, on_gpu = _cache_kind(plan), plan.hardware.accelerator == "gpu"
    learned = training_loader(
        plan.division.learned,
        plan.preprocessing,
        plan.augmentation,
        batch_size=min(plan.optimisation.batch_size, len(plan.division.learned)),
        seed=plan.settings.seed,
        workers=plan.hardware.num_workers,
        balance=plan.header.method.balance,
        rank=process.rank,
        world_size=process.world_size,
        cache=cache,
        pin_memory=on_gpu,
    )
    if not plan.division.watched:
        return Inputs(_epochs_of(learned), None, lambda: learned.broken)
    watched = evaluation_loader(
        plan.division.watched,
        plan.preprocessing,
        batch_size=plan.optimisation.batch_size,
        workers=plan.hardware.num_workers,
        rank=process.rank,
        world_size=process.world_size,
        cache=cache,
        pin_memory=on_gpu,
    )
    return Inputs(
        _epochs_of(learned), _epochs_of(watched), lambda: [*learned.broken, *watched.broken]
    )


def _cache_kind(plan: TrainingPlan) -> Cache:
    """Memory where the decoded images fit and a random crop is not taken from the original."""
    if plan.settings.cache != "auto":
        return plan.settings.cache
    size = plan.preprocessing.fixed_size
    if size is None or plan.augmentation.crop is not None:
        return "none"
    num_images = len(plan.division.learned) + len(plan.division.watched)
    needed = 3 * size[0] * size[1] * num_images
    return "memory" if needed <= _MEMORY_SHARE * psutil.virtual_memory().available else "none"


def _epochs_of(loader: SampleLoader) -> ResumableEpochs:
    def epoch(number: int, first_batch: int) -> Iterator[Batch]:
        loader.set_epoch(number, first_step=first_batch)
        return iter(loader)

    return ResumableEpochs(epoch, len(loader))


def feature_inputs(
    plan: TrainingPlan,
    folder: Path,
    process: Process,
    on_progress: Progress,
) -> Inputs:
    cache, broken = _filled_cache(plan, folder, on_progress)
    learned = [sample for sample in plan.division.learned if cache.holds(sample)]
    watched = [sample for sample in plan.division.watched if cache.holds(sample)]
    if not learned:
        raise DataError("no training image can be read", remedy="Look at them with 'weakloc data'")
    batches = EpochBatches(
        len(learned),
        batch_size=min(plan.optimisation.batch_size, len(learned)),
        seed=plan.settings.seed,
        weights=repetition_weights(learned) if plan.header.method.balance else None,
        rank=process.rank,
        world_size=process.world_size,
    )
    epochs = _feature_epochs(plan, cache, learned, batches)
    if not watched:
        return Inputs(epochs, None, lambda: broken)
    once = EveryImageOnce(
        len(watched),
        batch_size=plan.optimisation.batch_size,
        rank=process.rank,
        world_size=process.world_size,
    )
    return Inputs(epochs, _feature_epochs(plan, cache, watched, once), lambda: broken)


def _filled_cache(
    plan: TrainingPlan, folder: Path, on_progress: Progress
) -> tuple[FeatureCache, list[BrokenImage]]:
    """Of several processes one computes the features while the others wait."""
    settings = plan.settings
    extraction = Extraction(
        folder=Path(settings.feature_cache) if settings.feature_cache else folder / "features",
        preprocessing=plan.preprocessing,
        batch_size=plan.optimisation.batch_size,
        workers=plan.hardware.num_workers,
        device=torch.device("cuda" if plan.hardware.accelerator == "gpu" else "cpu"),
        in_bf16=plan.hardware.in_bf16,
    )
    sides = (False, True) if settings.feature_flip else (False,)
    scales = dict.fromkeys((1.0, *settings.feature_scales))  # watched images are seen at scale 1
    views = [FeatureView(scale, mirrored) for scale, mirrored in product(scales, sides)]
    backbone = plan.network.backbone.to(extraction.device)
    with one_writer(extraction.folder):
        cache = FeatureCache(backbone, extraction, views)
        samples = [*plan.division.learned, *plan.division.watched]
        return cache, cache.fill(samples, on_progress)


def _feature_epochs(
    plan: TrainingPlan,
    cache: FeatureCache,
    samples: Sequence[Sample],
    order: EpochBatches | EveryImageOnce,
) -> ResumableEpochs:
    batches = FeatureBatches(
        cache,
        samples,
        order,
        seed=plan.settings.seed,
        scales=plan.settings.feature_scales,
        # Straight to what autocast would make of them.
        dtype=torch.bfloat16 if plan.hardware.in_bf16 else torch.float32,
    )
    return ResumableEpochs(batches.epoch, len(order))


class Carried:
    """One batch, closed to the engine, which would otherwise look into every field of it."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Carried:
        return Carried(self.batch.to(device, non_blocking=non_blocking))


class ResumableEpochs:
    """What the engine takes as its data loader; its position is saved with the weights.

    Nothing is read before the first batch is asked for, so that the position can still be set
    after the engine has made its iterator.
    """

    def __init__(self, source: EpochSource, num_batches: int) -> None:
        self.epoch = 0
        self._first_batch = 0
        self._delivered = 0
        self._source = source
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Carried]:
        first, self._first_batch = self._first_batch, 0
        self._delivered = first
        for batch in self._source(self.epoch, first):
            self._delivered += 1
            yield Carried(batch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self._delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        finished, self._first_batch = divmod(state["batch"], self._num_batches)
        self.epoch = state["epoch"] + finished
