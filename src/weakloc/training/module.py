"""The network as the engine wants it: one step, its optimiser, its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor

from weakloc.data.augmentation import Augmentation
from weakloc.data.loaders import Batch, augment_batch
from weakloc.errors import TrainingError
from weakloc.geometry import GridTransform, cell_center_in_image
from weakloc.metrics.case import Case, ClassIndex, ImageTruth
from weakloc.metrics.image_rankings import ClassificationPrecision, PointPrecision
from weakloc.metrics.uncertainty import NO_RESAMPLING
from weakloc.model.losses import Loss
from weakloc.model.network import LocalizationNetwork, NetworkOutput
from weakloc.structures import Point, Prediction, Sample

# (epoch, first batch) -> the batches from there to the end of the epoch
EpochSource: TypeAlias = Callable[[int, int], Iterable[Batch]]


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


_FAINTEST = 0.2  # less of an image than this need not show its tags


def mixed_batch(batch: Batch, share: float) -> Batch:
    """On average `share` of the images blended, by PyTorch's generator; the order stays."""
    if share == 0 or len(batch) < 2:
        return batch
    others = _others(len(batch))
    is_mixed = torch.rand(len(batch)) < share
    weights = torch.empty(len(batch)).uniform_(_FAINTEST, 1 - _FAINTEST) * is_mixed
    images = torch.lerp(
        batch.images,
        batch.images[others],
        weights.to(batch.images)[:, None, None, None],
    )
    # Present in either is present, absent in both is absent, all else is unknown: -1 < 0 < 1.
    both = torch.maximum(batch.labels, batch.labels[others])
    labels = torch.where(is_mixed.to(both.device)[:, None], both, batch.labels)
    return replace(batch, images=images, labels=labels)


def _others(count: int) -> Tensor:
    """A partner for each image, never itself: the next one around a random circle."""
    circle = torch.randperm(count)
    partners = torch.empty_like(circle)
    partners[circle] = circle.roll(1)
    return partners


# Reading a loss makes a GPU wait, so there several are read at once.
_READ_EVERY = {"cpu": 1}
_READ_EVERY_ELSEWHERE = 20
EXPLODED = 1e4  # times the first loss, or times 1 where that is larger
_NUM_NAMES = 8


@dataclass(frozen=True)
class _Entry:
    loss: Tensor
    names: Sequence[str]
    learning_rate: float


class LossGuard:
    """Collects the losses of an epoch; `mean` is over all of them."""

    def __init__(self) -> None:
        self._waiting: list[_Entry] = []
        self._first: float | None = None
        self._sum, self._count = 0.0, 0
        self.latest = float("nan")

    def add(self, loss: Tensor, names: Sequence[str], learning_rate: float) -> None:
        self._waiting.append(_Entry(loss, names, learning_rate))
        if len(self._waiting) >= _READ_EVERY.get(loss.device.type, _READ_EVERY_ELSEWHERE):
            self.read()

    def read(self) -> None:
        """Looks at the losses that wait; called before weights are saved."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = torch.stack([entry.loss for entry in waiting]).tolist()
        for entry, value in zip(waiting, values, strict=True):
            self._check(entry, value)
            self._sum, self._count = self._sum + value, self._count + 1
            self.latest = value

    def mean(self) -> float:
        """Of all losses since the last call."""
        self.read()
        mean = self._sum / self._count if self._count else float("nan")
        self._sum, self._count = 0.0, 0
        return mean

    def state(self) -> dict[str, float | int | None]:
        self.read()
        return {"first": self._first, "sum": self._sum, "count": self._count}

    def restore(self, state: dict[str, float | int | None]) -> None:
        self._first = state["first"]
        self._sum, self._count = float(state["sum"] or 0.0), int(state["count"] or 0)

    def _check(self, entry: _Entry, value: float) -> None:
        if self._first is None and not math.isnan(value):
            self._first = value
        limit = EXPLODED * max(1.0, self._first or 1.0)
        if value <= limit:  # false for not-a-number too
            return
        shown = ", ".join(entry.names[:_NUM_NAMES])
        more = len(entry.names) - _NUM_NAMES
        others = f" and {more} more" if more > 0 else ""
        raise TrainingError(
            f"the loss became {value:g} at learning rate {entry.learning_rate:g} "
            f"on the images {shown}{others}",
            remedy=f"Try --learning-rate {entry.learning_rate / 10:.2g} or --precision fp32, and "
            "look at these images; the last saved weights are still good",
        )


CellTransform: TypeAlias = Callable[[GridTransform, int, int], GridTransform]


@dataclass(frozen=True)
class Watched:
    """What one epoch's look at the watched images gave; None where it is not defined."""

    classification_map: float | None
    point_map: float | None


class Watch:
    """Collects over one epoch; several processes hand each other what they saw."""

    def __init__(self, samples: Sequence[Sample], class_names: Sequence[str]) -> None:
        self._samples = {sample.name: sample for sample in samples}
        self._classes = ClassIndex(class_names)
        self.start()

    @property
    def has_images(self) -> bool:
        """The same in all processes, also in one whose share is empty."""
        return bool(self._samples)

    def start(self) -> None:
        self._scores = ClassificationPrecision(self._classes)
        self._points = PointPrecision(self._classes)

    def update(
        self, batch: Batch, probabilities: Tensor, maps: Tensor, cell_transform: CellTransform
    ) -> None:
        rows, columns = maps.shape[2:]
        scores = probabilities.cpu().double().numpy()  # (B, C)
        best = maps.flatten(start_dim=2).argmax(dim=2).cpu().numpy()  # (B, C)
        for index, (name, transform) in enumerate(zip(batch.names, batch.transforms, strict=True)):
            assert transform is not None, "watched images are not rotated"
            sample = self._samples[name]
            cells = cell_transform(transform, rows, columns)
            prediction = self._prediction(sample, scores[index], best[index], cells, columns)
            case = Case(ImageTruth(sample), prediction, self._classes, resampling=NO_RESAMPLING)
            self._scores.update(case)
            if sample.truth is not None:
                self._points.update(case)

    def read(self) -> Watched:
        """The numbers over the images of all processes."""
        for scores, points in _other_processes((self._scores, self._points)):
            self._scores.merge(scores)
            self._points.merge(points)
        (classification,), (point,) = self._scores.compute(), self._points.compute()
        return Watched(classification.value, point.value)

    def _prediction(
        self,
        sample: Sample,
        scores: NDArray[np.float64],
        best: NDArray[np.int64],
        cells: GridTransform,
        columns: int,
    ) -> Prediction:
        points = []
        for class_name, score, cell in zip(self._classes.names, scores, best, strict=True):
            x, y = cell_center_in_image(int(cell) // columns, int(cell) % columns, cells)
            points.append(Point(class_name, x, y, float(score)))
        width, height = cells.image_size
        by_class = dict(zip(self._classes.names, scores.tolist(), strict=True))
        return Prediction(sample.name, int(width), int(height), by_class, tuple(points))


def _other_processes(mine: Any) -> list[Any]:
    """What the other processes hold, the same on each."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    held: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(held, mine)
    return [each for rank, each in enumerate(held) if rank != torch.distributed.get_rank()]


# Lightning's optimiser configuration: {"optimizer": ..., "lr_scheduler": ...}
BuildOptimiser = Callable[[LocalizationNetwork], dict[str, Any]]


class LocalizationModule(LightningModule):
    """`mixup` is the share of blended images, `takes_features` says that the batches hold cached
    features in place of images.
    """

    def __init__(
        self,
        network: LocalizationNetwork,
        loss: Loss,
        *,
        augmentation: Augmentation,
        build_optimiser: BuildOptimiser,
        batches: ResumableEpochs,
        watch: Watch,
        seed: int,
        mixup: float,
        takes_features: bool,
    ) -> None:
        super().__init__()
        # Of few watched images, some processes may get none.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.network = network
        self.watch = watch
        self.guard = LossGuard()
        self._loss, self._augmentation = loss, augmentation
        self._build_optimiser = build_optimiser
        self._batches = batches
        self._seed = seed
        self._mixup = mixup
        self._takes_features = takes_features

    def configure_optimizers(self) -> Any:
        return self._build_optimiser(self.network)

    def on_train_epoch_start(self) -> None:
        self._batches.epoch = self.current_epoch

    def training_step(self, carried: Carried, batch_idx: int) -> Tensor:
        # What is random in a step (dropout, blends) follows from its place alone: a resumed run
        # repeats it without any saved generator.
        torch.manual_seed(_mix(self._seed, self.current_epoch, batch_idx, self.global_rank))
        batch = mixed_batch(augment_batch(carried.batch, self._augmentation), self._mixup)
        loss = self._loss(self._output(batch.images).scores.float(), batch.labels)
        self.guard.add(loss.detach(), batch.names, self._learning_rate())
        return loss

    def validation_step(self, carried: Carried, _batch_idx: int) -> None:
        batch = carried.batch
        output = self._output(batch.images)
        probabilities = self._loss.probabilities(output.scores.float())
        self.watch.update(batch, probabilities, output.maps, self.network.cell_transform)

    def on_validation_epoch_start(self) -> None:
        self.watch.start()

    def _output(self, inputs: Tensor) -> NetworkOutput:
        if self._takes_features:
            return self.network.from_features(inputs)
        output: NetworkOutput = self.network(inputs)
        return output

    def _learning_rate(self) -> float:
        return max(float(group["lr"]) for group in self.trainer.optimizers[0].param_groups)


def _mix(*numbers: int) -> int:
    """One seed of 63 bits from several numbers; neighbours share nothing."""
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ (number + 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed ^= mixed >> 31
    return mixed >> 1
