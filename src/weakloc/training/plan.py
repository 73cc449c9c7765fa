"""Data, method and settings -> everything a training needs, checked before it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from weakloc.data.augmentation import Augmentation, QuarterTurns
from weakloc.data.transforms import Preprocessing
from weakloc.errors import SettingError
from weakloc.methods.method import Method, preprocessing
from weakloc.methods.optimisation import Optimisation, build_optimiser, build_schedule
from weakloc.model.backbones import Backbone, build_backbone
from weakloc.model.losses import Loss
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec
from weakloc.settings import TrainSettings
from weakloc.structures import DataSet
from weakloc.training.run_folder import RunHeader
from weakloc.training.splits import Division, count_labels, divide, odd_classes

_FROZEN_NOTE = (
    "the backbone is frozen and its features are cached: of the method's augmentation only "
    "mirroring and scales apply"
)


@dataclass(frozen=True)
class Plan:
    network: LocalizationNetwork
    loss: Loss
    augmentation: Augmentation
    division: Division
    header: RunHeader

    @property
    def optimisation(self) -> Optimisation:
        return self.header.method.optimisation

    @property
    def preprocessing(self) -> Preprocessing:
        return self.header.preprocessing


def make_plan(data_set: DataSet, method: Method, settings: TrainSettings) -> Plan:
    method = with_settings(method, settings)
    division = divide(data_set, settings)
    num_classes = len(data_set.class_names)
    statistics = count_labels(division.learned, num_classes)
    loss = method.build_loss(num_classes=num_classes, single_label=statistics.is_single_label)
    spec = backbone_spec(method, settings)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        backbone = build_backbone(spec)
        _check_size(method, backbone)
        network = method.build_network(backbone, num_classes)
    notes = [problem.message for problem in odd_classes(statistics, data_set.class_names)]
    header = RunHeader(
        method=method,
        settings=settings,
        backbone=backbone.spec,
        class_names=data_set.class_names,
        labels=statistics,
        preprocessing=preprocessing(method, backbone),
        watched=division.watched_name,
        notes=tuple([*notes, _FROZEN_NOTE] if settings.frozen else notes),
    )
    return Plan(network, loss, _augmentation(method, backbone, settings), division, header)


def with_settings(method: Method, settings: TrainSettings) -> Method:
    """The method with what the user set; the rest as it says."""
    optimisation = _replaced(
        method.optimisation,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
    )
    changed: Method = _replaced(
        method,
        optimisation=optimisation,
        backbone=settings.backbone,
        side=settings.image_size,
        trains_backbone=False if settings.frozen else None,
    )
    return changed


def backbone_spec(method: Method, settings: TrainSettings) -> BackboneSpec:
    spec = BackboneSpec.parse(
        method.backbone, weights=settings.weights, output_stride=settings.output_stride
    )
    return method.backbone_spec(spec)


def optimiser_configuration(
    network: LocalizationNetwork, optimisation: Optimisation, *, steps_per_epoch: int
) -> dict[str, Any]:
    """As Lightning wants it."""
    optimizer = build_optimiser(network, optimisation)
    schedule = build_schedule(optimizer, optimisation, steps_per_epoch=steps_per_epoch)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _augmentation(method: Method, backbone: Backbone, settings: TrainSettings) -> Augmentation:
    if settings.frozen:
        return Augmentation()
    augmentation = method.augmentation(backbone)
    if not settings.quarter_turns:
        return augmentation
    return replace(augmentation, steps=(*augmentation.steps, QuarterTurns()))


def _check_size(method: Method, backbone: Backbone) -> None:
    if method.side < backbone.min_input:
        raise SettingError(
            f"--image-size is {method.side}, but {backbone.name} needs at least "
            f"{backbone.min_input} pixels",
            remedy=f"Give --image-size {backbone.min_input} or more; smaller images are enlarged",
        )


def _replaced(value: Any, **changes: Any) -> Any:
    """`dataclasses.replace` with the changes that are not None."""
    return replace(value, **{name: new for name, new in changes.items() if new is not None})
