"""The network as the engine wants it: one step, its optimiser, its schedule.

Images of a batch are blended, their loss is guarded, and what is only watched is collected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from weakloc.data.augmentation import CutMix
from weakloc.data.loaders import Batch, augment_batch, mixed_seed
from weakloc.errors import TrainingError
from weakloc.geometry import GridTransform, cell_center_in_image
from weakloc.localize.places import nearest_inside, pixel_centers
from weakloc.methods.method import build_optimiser, build_schedule
from weakloc.metrics.case import Case, ClassIndex, ImageTruth, MetricSetup
from weakloc.metrics.image_rankings import ClassificationPrecision, PointPrecision
from weakloc.model.losses import Loss
from weakloc.model.network import NetworkOutput
from weakloc.model.trunk import CellGeometry
from weakloc.structures import Point, Prediction, Sample
from weakloc.training.inputs import Carried, Inputs
from weakloc.training.plan import TrainingPlan

_FAINTEST = 0.2  # less of an image than this need not show its tags


def mixed_batch(batch: Batch, share: float) -> Batch:
    """On average `share` of the images blended, by PyTorch's generator; the order stays."""
    if share == 0 or len(batch) < 2:
        return batch
    # A partner for each image, never itself: the next one around a random circle.
    circle = torch.randperm(len(batch))
    others = torch.empty_like(circle)
    others[circle] = circle.roll(1)
    is_mixed = torch.rand(len(batch)) < share
    weights = torch.empty(len(batch)).uniform_(_FAINTEST, 1 - _FAINTEST) * is_mixed
    images = torch.lerp(
        batch.images, batch.images[others], weights.to(batch.images)[:, None, None, None]
    )
    # Present in either is present, absent in both is absent, all else is unknown: -1 < 0 < 1.
    both = torch.maximum(batch.labels, batch.labels[others])
    labels = torch.where(is_mixed.to(both.device)[:, None], both, batch.labels)
    return replace(batch, images=images, labels=labels)


@dataclass(frozen=True, eq=False)
class PastedBatch:
    """Images of which a box shows another one; `share` of each is left of its own."""

    batch: Batch
    other_labels: Tensor  # (B, C) int8, of the images in the boxes
    share: float

    def loss(self, loss: Loss, scores: Tensor) -> Tensor:
        """share * L(own tags) + (1 - share) * L(the other's tags)."""
        other_loss = loss(scores, self.other_labels)
        return self.share * loss(scores, self.batch.labels) + (1.0 - self.share) * other_loss


def pasted_batch(batch: Batch, cut_mix: CutMix, generator: torch.Generator) -> PastedBatch:
    """One box for all images; the share follows from what of it lies inside them."""
    height, width = batch.images.shape[-2:]
    left, top, right, bottom = cut_mix.draw_box(generator, (width, height))
    others = torch.randperm(len(batch), generator=generator).to(batch.images.device)
    images = batch.images.clone()
    images[..., top:bottom, left:right] = batch.images[others, :, top:bottom, left:right]
    share = 1.0 - (right - left) * (bottom - top) / (width * height)
    return PastedBatch(replace(batch, images=images), batch.labels[others], share)


# Reading a loss makes a GPU wait, so there several are read at once.
_READ_EVERY = 20
EXPLODED = 1e4  # times the first loss, or times 1 where that is larger
_NUM_NAMES = 8


class LossGuard:
    """Collects the losses of an epoch; `mean` is over all of them, in all processes."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Sequence[str], float]] = []  # loss, names, rate
        self._first: float | None = None
        self._sum, self._count = 0.0, 0
        self.latest = float("nan")

    def add(self, loss: Tensor, names: Sequence[str], learning_rate: float) -> None:
        self._waiting.append((loss, names, learning_rate))
        if loss.device.type == "cpu" or len(self._waiting) >= _READ_EVERY:
            self.read()

    def read(self) -> None:
        """Looks at the losses that wait; called before weights are saved."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = torch.stack([loss for loss, _, _ in waiting]).tolist()
        for (_, names, learning_rate), value in zip(waiting, values, strict=True):
            self._check(value, names, learning_rate)
        for self.latest in np.mean([values, *_of_other_processes(values)], axis=0).tolist():
            self._sum, self._count = self._sum + self.latest, self._count + 1

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

    def _check(self, value: float, names: Sequence[str], learning_rate: float) -> None:
        if self._first is None and not math.isnan(value):
            self._first = value
        limit = EXPLODED * max(1.0, self._first or 1.0)
        if value <= limit:  # false for not-a-number too
            return
        shown = ", ".join(names[:_NUM_NAMES])
        more = len(names) - _NUM_NAMES
        others = f" and {more} more" if more > 0 else ""
        raise TrainingError(
            f"the loss became {value:g} at learning rate {learning_rate:g} "
            f"on the images {shown}{others}",
            remedy=f"Try --learning-rate {learning_rate / 10:.2g} or --precision fp32, and "
            "look at these images; the last saved weights are still good",
        )


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

    def start(self) -> None:
        self._scores = ClassificationPrecision(MetricSetup(self._classes))
        self._points = PointPrecision(MetricSetup(self._classes))

    def update(
        self, batch: Batch, probabilities: Tensor, maps: Tensor, geometry: CellGeometry
    ) -> None:
        rows, columns = maps.shape[2:]
        likely = probabilities.double().tolist()  # (B, C)
        hottest = maps.flatten(start_dim=2).argmax(dim=2).tolist()  # (B, C)
        images = zip(batch.names, batch.transforms, likely, hottest, strict=True)
        for name, transform, scores, numbers in images:
            assert transform is not None, "watched images are not rotated"
            sample = self._samples[name]
            cells = geometry.cell_transform(transform, rows, columns)
            prediction = self._prediction(sample, scores, numbers, cells)
            case = Case(ImageTruth(sample), prediction, self._classes, resamples=0)
            self._scores.update(case)
            if sample.truth is not None:
                self._points.update(case)

    def read(self) -> Watched:
        """The numbers over the images of all processes; the next ones are counted anew."""
        if not self._samples:  # in all processes, never in one whose share alone is empty
            return Watched(None, None)
        for scores, points in _of_other_processes((self._scores, self._points)):
            self._scores.merge(scores)
            self._points.merge(points)
        (classification,), (point,) = self._scores.compute(), self._points.compute()
        self.start()  # the engine starts no epoch of watching where a process has no image
        return Watched(classification.value, point.value)

    def _prediction(
        self, sample: Sample, scores: list[float], hottest: list[int], cells: GridTransform
    ) -> Prediction:
        """Points as the predictor places them: in the hottest cell, and in the image."""
        points = []
        pixels = pixel_centers(cells.image_size)
        by_class = dict(zip(self._classes.names, scores, strict=True))
        for (class_name, score), cell in zip(by_class.items(), hottest, strict=True):
            center = cell_center_in_image(*divmod(cell, round(cells.grid_size[0])), cells)
            points.append(Point(class_name, *nearest_inside(center, pixels), score))
        width, height = cells.image_size
        return Prediction(sample.name, int(width), int(height), by_class, tuple(points))


def _of_other_processes(mine: Any) -> list[Any]:
    """What the other processes hold, the same on each."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, mine)
    del gathered[torch.distributed.get_rank()]
    return gathered


class LocalizationModule(LightningModule):
    """What a plan trains, on the batches of its inputs."""

    def __init__(self, plan: TrainingPlan, inputs: Inputs) -> None:
        super().__init__()
        # Of few watched images, some processes may get none.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.network = plan.network
        if plan.settings.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.guard = LossGuard()
        self._plan, self._batches = plan, inputs.learned

    @cached_property
    def watch(self) -> Watch:
        """What is collected of the watched images, from the first that is seen."""
        return Watch(self._plan.division.watched, self._plan.class_names)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimiser(self.network, self._plan.optimisation)
        steps_per_epoch = -(-len(self._batches) // self._plan.settings.accumulate)
        schedule = build_schedule(optimizer, self._plan.optimisation, steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self._batches.epoch = self.current_epoch

    def training_step(self, carried: Carried, batch_idx: int) -> Tensor:
        # What is random in a step (dropout, blends) follows from its place alone: a resumed run
        # repeats it without any saved generator.
        settings = self._plan.settings
        seed = mixed_seed(settings.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(seed)
        augmented = augment_batch(carried.batch, self._plan.augmentation)
        batch = mixed_batch(augmented, settings.mixup)
        cut_mix = self._plan.augmentation.cut_mix
        if cut_mix is None:
            loss = self._plan.loss(self._trained_scores(batch), batch.labels)
        else:
            pasted = pasted_batch(batch, cut_mix, torch.Generator().manual_seed(seed))
            loss = pasted.loss(self._plan.loss, self._trained_scores(pasted.batch))
        self.guard.add(loss.detach(), batch.names, self.learning_rate())
        return loss

    def _trained_scores(self, batch: Batch) -> Tensor:
        return self._output(batch.images).all_scores.float()

    def validation_step(self, carried: Carried, _batch_idx: int) -> None:
        output = self._output(carried.batch.images)
        probabilities = self._plan.loss.probabilities(output.scores.float())
        geometry = self.network.backbone.geometry
        self.watch.update(carried.batch, probabilities, output.maps, geometry)

    def learning_rate(self) -> float:
        """The highest of all groups of weights, which is the head's."""
        return max(float(group["lr"]) for group in self.trainer.optimizers[0].param_groups)

    def _output(self, inputs: Tensor) -> NetworkOutput:
        if self._plan.settings.frozen:
            return self.network.from_features(inputs)
        output: NetworkOutput = self.network(inputs)
        return output
