"""How weights move: optimiser, learning rates, schedule, as plain values and as torch objects.

A schedule is a factor on every learning rate, a pure function of the step, so that a resumed run
continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch.optim import SGD, Adagrad, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from weakloc.errors import require_setting
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
            self._require(getattr(self, name) >= 1, name, "Give 1 or more")
        for name in ("learning_rate", "drop_factor"):
            self._require(0 < getattr(self, name) < math.inf, name, "Give a number above 0")
        for name in ("weight_decay", "warm_up_epochs"):
            self._require(0 <= getattr(self, name) < math.inf, name, "Give 0 or more")
        self._require(0 <= self.momentum < 1, "momentum", "Give 0 to below 1")
        factor = self.backbone_factor
        factor_fits = factor == "auto" or (not isinstance(factor, str) and factor >= 0)
        self._require(factor_fits, "backbone_factor", "Give 0 or more, or 'auto'")
        self._require(self.kind in _OPTIMISERS, "kind", f"One of {', '.join(_OPTIMISERS)}")
        self._require(self.schedule in _FACTORS, "schedule", f"One of {[*_FACTORS]}")

    def _require(self, fits: bool, name: str, remedy: str) -> None:
        require_setting(fits, f"optimisation.{name}", getattr(self, name), remedy=remedy)


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


_OPTIMISERS: Mapping[OptimiserKind, Callable[[list[dict[str, Any]], Optimisation], Optimizer]] = {
    "sgd": lambda groups, optimisation: SGD(
        groups,
        optimisation.learning_rate,
        momentum=optimisation.momentum,
        nesterov=optimisation.nesterov,
    ),
    "adamw": lambda groups, optimisation: AdamW(groups, optimisation.learning_rate, fused=True),
    "adagrad": lambda groups, optimisation: Adagrad(groups, optimisation.learning_rate),
}


_FACTORS: Mapping[Schedule, Callable[[Optimisation, int, int], float]] = {
    "constant": lambda _optimisation, _step, _steps_per_epoch: 1.0,
    "cosine": lambda optimisation, step, steps_per_epoch: (
        (1 + math.cos(math.pi * min(step / (optimisation.epochs * steps_per_epoch), 1.0))) / 2
    ),
    "stages": lambda optimisation, step, steps_per_epoch: (
        optimisation.drop_factor
        ** min(
            step // steps_per_epoch * optimisation.num_stages // optimisation.epochs,
            optimisation.num_stages - 1,
        )
    ),
    "steps": lambda optimisation, step, _steps_per_epoch: (
        optimisation.drop_factor ** (step // optimisation.steps_per_drop)
    ),
}


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
