"""The batches of a plan: images from the loaders, or cached features under --frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import psutil
import torch

from weakloc.data.loaders import Batch, Cache, SampleLoader
from weakloc.data.sampling import EpochBatches, EveryImageOnce, repetition_weights
from weakloc.errors import DataError
from weakloc.structures import BrokenImage
from weakloc.training.features import (
    Extraction,
    FeatureBatches,
    FeatureCache,
    FeatureView,
    one_writer,
)
from weakloc.training.plan import TrainingPlan
from weakloc.work import Progress

_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Inputs:
    learned: ResumableEpochs
    watched: ResumableEpochs | None

    @property
    def broken(self) -> list[BrokenImage]:
        """The images that could not be read so far."""
        broken = [*self.learned.broken, *(self.watched.broken if self.watched else ())]
        return list({image.name: image for image in broken}.values())


def inputs_of(
    plan: TrainingPlan, folder: Path, on_progress: Progress, *, rank: int = 0, world_size: int = 1
) -> Inputs:
    """`folder` is the run's, where features of a frozen backbone are kept.

    `rank` says which of the processes that train together this one is.
    """
    batches_of: Callable[..., SampleLoader | FeatureBatches] = partial(
        SampleLoader,
        preprocessing=plan.preprocessing,
        augmentation=plan.augmentation,
        workers=plan.hardware.num_workers,
        cache=_cache_kind(plan),
        pin_memory=plan.hardware.accelerator == "gpu",
    )
    learned, watched = plan.division.learned, plan.division.watched
    if plan.settings.frozen:
        cache, broken = _filled_cache(plan, folder, on_progress)
        learned = [sample for sample in learned if cache.holds(sample)]
        watched = [sample for sample in watched if cache.holds(sample)]
        batches_of = partial(
            FeatureBatches,
            cache=cache,
            scales=plan.settings.feature_scales,
            # Straight to what autocast would make of them.
            dtype=torch.bfloat16 if plan.hardware.in_bf16 else torch.float32,
            broken=broken,
        )
    if not learned:
        raise DataError("no training image can be read", remedy="Look at them with 'weakloc data'")
    shared = {"rank": rank, "world_size": world_size}
    order = EpochBatches(
        len(learned),
        batch_size=min(plan.optimisation.batch_size, len(learned)),
        seed=plan.settings.seed,
        weights=repetition_weights(learned) if plan.header.method.balance else None,
        **shared,
    )
    epochs = ResumableEpochs(batches_of(learned, order=order))
    if not watched:
        return Inputs(epochs, None)
    once = EveryImageOnce(len(watched), batch_size=plan.optimisation.batch_size, **shared)
    return Inputs(epochs, ResumableEpochs(batches_of(watched, order=once)))


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

    def __init__(self, batches: SampleLoader | FeatureBatches) -> None:
        self.epoch = 0
        self._first_batch = 0
        self._delivered = 0
        self._batches = batches

    @property
    def broken(self) -> Sequence[BrokenImage]:
        return self._batches.broken

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Carried]:
        first, self._first_batch = self._first_batch, 0
        self._delivered = first
        self._batches.set_epoch(self.epoch, first_step=first)
        for batch in self._batches:
            self._delivered += 1
            yield Carried(batch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self._delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        finished, self._first_batch = divmod(state["batch"], len(self))
        self.epoch = state["epoch"] + finished
