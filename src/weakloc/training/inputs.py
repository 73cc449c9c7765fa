"""The batches of a plan: images from the loaders, or cached features under --frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import psutil
import torch

from weakloc.data.loaders import Batch, Cache, SampleLoader, evaluation_loader, training_loader
from weakloc.data.sampling import EpochBatches, EveryImageOnce, repetition_weights
from weakloc.errors import DataError
from weakloc.settings import TrainSettings
from weakloc.structures import BrokenImage, Sample
from weakloc.training import engine
from weakloc.training.features import Extraction, FeatureBatches, FeatureCache, Look, fill_alone
from weakloc.training.module import ResumableEpochs
from weakloc.training.plan import Plan
from weakloc.work import Progress

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


def image_inputs(plan: Plan, settings: TrainSettings, process: Process) -> Inputs:
    workers = engine.num_workers(settings)
    pinned = engine.accelerator() == "gpu"
    learned = training_loader(
        plan.division.learned,
        plan.preprocessing,
        plan.augmentation,
        batch_size=batch_size_for(plan),
        seed=settings.seed,
        workers=workers,
        balance=plan.header.method.balance,
        rank=process.rank,
        world_size=process.world_size,
        cache=_cache_kind(plan, settings),
        pin_memory=pinned,
    )
    watched = _watched_loader(plan, settings, process, workers)
    loaders = [loader for loader in (learned, watched) if loader is not None]
    return Inputs(
        ResumableEpochs(_from(learned), len(learned)),
        None if watched is None else ResumableEpochs(_from(watched), len(watched)),
        lambda: [each for loader in loaders for each in loader.broken],
    )


def feature_inputs(
    plan: Plan, settings: TrainSettings, folder: Path, process: Process, progress: Progress
) -> Inputs:
    extraction = Extraction(
        folder=Path(settings.feature_cache) if settings.feature_cache else folder / "features",
        preprocessing=plan.preprocessing,
        batch_size=plan.optimisation.batch_size,
        workers=engine.num_workers(settings),
        device=torch.device("cuda" if engine.accelerator() == "gpu" else "cpu"),
        in_bf16=engine.uses_bf16(settings),
    )
    sides = (False, True) if settings.feature_flip else (False,)
    scales = dict.fromkeys((1.0, *settings.feature_scales))  # watched images are seen at scale 1
    looks = [Look(scale, mirrored) for scale, mirrored in product(scales, sides)]
    division = plan.division
    backbone = plan.network.backbone.to(extraction.device)
    cache, broken = fill_alone(
        lambda: FeatureCache(backbone, extraction, looks),
        extraction.folder,
        [*division.learned, *division.watched],
        progress,
    )
    return _cached_inputs(plan, settings, process, cache, broken)


def _cached_inputs(
    plan: Plan,
    settings: TrainSettings,
    process: Process,
    cache: FeatureCache,
    broken: list[BrokenImage],
) -> Inputs:
    learned = [sample for sample in plan.division.learned if cache.holds(sample)]
    watched = [sample for sample in plan.division.watched if cache.holds(sample)]
    if not learned:
        raise DataError("no training image can be read", remedy="Look at them with 'weakloc data'")
    balance = plan.header.method.balance
    batches = EpochBatches(
        len(learned),
        batch_size=min(plan.optimisation.batch_size, len(learned)),
        seed=settings.seed,
        weights=repetition_weights(learned) if balance else None,
        rank=process.rank,
        world_size=process.world_size,
    )
    source = _feature_batches(plan, settings, cache, learned).learned(batches)
    return Inputs(
        ResumableEpochs(source, len(batches)),
        _watched_features(plan, settings, process, cache, watched) if watched else None,
        lambda: broken,
    )


def _watched_features(
    plan: Plan,
    settings: TrainSettings,
    process: Process,
    cache: FeatureCache,
    samples: Sequence[Sample],
) -> ResumableEpochs:
    once = EveryImageOnce(
        len(samples),
        batch_size=plan.optimisation.batch_size,
        rank=process.rank,
        world_size=process.world_size,
    )
    source = _feature_batches(plan, settings, cache, samples).watched(once)
    return ResumableEpochs(source, len(once))


def _feature_batches(
    plan: Plan, settings: TrainSettings, cache: FeatureCache, samples: Sequence[Sample]
) -> FeatureBatches:
    return FeatureBatches(
        cache,
        samples,
        level=plan.network.backbone.stride,
        seed=settings.seed,
        scales=settings.feature_scales,
        # Straight to what autocast would make of them.
        dtype=torch.bfloat16 if engine.uses_bf16(settings) else torch.float32,
    )


def batch_size_for(plan: Plan) -> int:
    """The method's, or all images where there are fewer."""
    return min(plan.optimisation.batch_size, len(plan.division.learned))


def _watched_loader(
    plan: Plan, settings: TrainSettings, process: Process, workers: int
) -> SampleLoader | None:
    if not plan.division.watched:
        return None
    return evaluation_loader(
        plan.division.watched,
        plan.preprocessing,
        batch_size=plan.optimisation.batch_size,
        workers=workers,
        rank=process.rank,
        world_size=process.world_size,
        cache=_cache_kind(plan, settings),
        pin_memory=engine.accelerator() == "gpu",
    )


def _from(loader: SampleLoader) -> Callable[[int, int], Iterator[Batch]]:
    def epoch(number: int, first_batch: int) -> Iterator[Batch]:
        loader.set_epoch(number, first_step=first_batch)
        return iter(loader)

    return epoch


def _cache_kind(plan: Plan, settings: TrainSettings) -> Cache:
    """Memory where the decoded images fit and a random crop is not taken from the original."""
    size = plan.preprocessing.fixed_size
    if settings.cache != "auto":
        return settings.cache
    if size is None or plan.augmentation.crop is not None:
        return "none"
    num_images = len(plan.division.learned) + len(plan.division.watched)
    needed = 3 * size[0] * size[1] * num_images
    return "memory" if needed <= _MEMORY_SHARE * psutil.virtual_memory().available else "none"
