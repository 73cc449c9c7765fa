"""How weights move: optimiser, learning rates, schedule, as plain values and as torch objects.

A schedule is a factor on every learning rate, a pure function of the step, so that a resumed run
continues exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch.optim import SGD, Adagrad, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from weakloc.errors import SettingError
from weakloc.model.network import Decayed, LocalizationNetwork

OptimiserKind: TypeAlias = Literal["sgd", "adamw", "adagrad"]
Schedule: TypeAlias = Literal["constant", "cosine", "stages", "steps"]
PRETRAINED_FACTOR = 0.1


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """`learning_rate` is the head's; the backbone's is that times `backbone_factor`.

    backbone_factor "auto": 0.1 for a pretrained backbone, 1 from scratch.
    stages: `num_stages` equal parts of the epochs, each with `drop_factor` times the rate before.
    steps: times `drop_factor` after every `steps_per_drop` batches.
    cosine: from the full rate to zero; every schedule may start with `warm_up_epochs` of linear
    rise. `max_steps` ends training early, None does not.
    """

    kind: OptimiserKind
    learning_rate: float
    epochs: int
    batch_size: int
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decayed: Decayed = "all"
    backbone_factor: float | Literal["auto"] = "auto"
    schedule: Schedule = "constant"
    warm_up_epochs: float = 0.0
    num_stages: int = 6
    steps_per_drop: int = 20_000
    drop_factor: float = 0.1
    max_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "num_stages", "steps_per_drop"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "Give 1 or more")
        for name in ("learning_rate", "drop_factor"):
            value = getattr(self, name)
            _require(0 < value < math.inf, name, value, "Give a number above 0")
        for name in ("weight_decay", "warm_up_epochs"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, name, value, "Give 0 or more")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "Give 0 to below 1")
        factor = self.backbone_factor
        factor_fits = factor == "auto" or (not isinstance(factor, str) and factor >= 0)
        _require(factor_fits, "backbone_factor", factor, "Give 0 or more, or 'auto'")
        _require(self.kind in _OPTIMISERS, "kind", self.kind, f"One of {', '.join(_OPTIMISERS)}")
        _require(self.schedule in _FACTORS, "schedule", self.schedule, f"One of {[*_FACTORS]}")


def build_optimiser(network: LocalizationNetwork, optimisation: Optimisation) -> Optimizer:
    """Over the parameters that require a gradient, in groups named "backbone" and "head"."""
    factor = optimisation.backbone_factor
    if isinstance(factor, str):
        factor = PRETRAINED_FACTOR if network.backbone.is_pretrained else 1.0
    groups = network.parameter_groups(
        learning_rate=optimisation.learning_rate,
        backbone_factor=factor,
        weight_decay=optimisation.weight_decay,
        decayed=optimisation.decayed,
    )
    return _OPTIMISERS[optimisation.kind](groups, optimisation)


def rate_factor(optimisation: Optimisation, step: int, steps_per_epoch: int) -> float:
    """What the learning rates are multiplied by at a step, counted from 0."""
    warm_up = optimisation.warm_up_epochs * steps_per_epoch
    rise = min(1.0, (step + 1) / warm_up) if warm_up > 0 else 1.0
    return rise * _FACTORS[optimisation.schedule](optimisation, step, steps_per_epoch)


def build_schedule(
    optimizer: Optimizer, optimisation: Optimisation, *, steps_per_epoch: int
) -> LambdaLR:
    """To be stepped after every optimiser step."""
    return LambdaLR(optimizer, lambda step: rate_factor(optimisation, step, steps_per_epoch))


def _sgd(groups: list[dict[str, Any]], optimisation: Optimisation) -> Optimizer:
    nesterov, momentum = optimisation.nesterov, optimisation.momentum
    return SGD(groups, optimisation.learning_rate, momentum=momentum, nesterov=nesterov)


def _adamw(groups: list[dict[str, Any]], optimisation: Optimisation) -> Optimizer:
    return AdamW(groups, optimisation.learning_rate, fused=True)


def _adagrad(groups: list[dict[str, Any]], optimisation: Optimisation) -> Optimizer:
    return Adagrad(groups, optimisation.learning_rate)


_OPTIMISERS = {"sgd": _sgd, "adamw": _adamw, "adagrad": _adagrad}


def _constant(_: Optimisation, _step: int, _steps_per_epoch: int) -> float:
    return 1.0


def _cosine(optimisation: Optimisation, step: int, steps_per_epoch: int) -> float:
    total = optimisation.epochs * steps_per_epoch
    share = min(step / total, 1.0)
    return (1 + math.cos(math.pi * share)) / 2


def _stages(optimisation: Optimisation, step: int, steps_per_epoch: int) -> float:
    epoch = step // steps_per_epoch
    stage = epoch * optimisation.num_stages // optimisation.epochs
    return optimisation.drop_factor ** min(stage, optimisation.num_stages - 1)


def _steps(optimisation: Optimisation, step: int, _steps_per_epoch: int) -> float:
    return optimisation.drop_factor ** (step // optimisation.steps_per_drop)


_FACTORS = {"constant": _constant, "cosine": _cosine, "stages": _stages, "steps": _steps}


def _require(holds: bool, name: str, value: object, remedy: str) -> None:
    if not holds:
        raise SettingError(f"optimisation.{name} is {value!r}", remedy=remedy)


# What fine-tunes a pretrained network in few epochs, and also trains `tiny` from scratch.
PRACTICAL = Optimisation(
    kind="adamw",
    learning_rate=1e-3,
    weight_decay=0.01,
    schedule="cosine",
    warm_up_epochs=1,
    epochs=20,
    batch_size=16,
)
