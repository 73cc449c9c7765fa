"""The network as the engine wants it: one step, its optimiser, its schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from weakloc.data.augmentation import Augmentation
from weakloc.data.loaders import augment_batch
from weakloc.model.losses import Loss
from weakloc.model.network import LocalizationNetwork, NetworkOutput
from weakloc.training.batches import Carried, ResumableEpochs
from weakloc.training.loss_guard import LossGuard
from weakloc.training.mixing import mixed_batch
from weakloc.training.watching import Watch

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
