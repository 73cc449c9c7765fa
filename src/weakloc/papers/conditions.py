"""What all cells of a recipe share: data, network and schedule, for each budget.

The from-scratch setup of the offline scenes stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from weakloc.papers.recipe import DataKind, OptimiserFamily, Recipe
from weakloc.settings import Budget

if TYPE_CHECKING:
    from weakloc.methods.method import Preset  # loads torch


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is drawn and learned where the command line does not say."""

    num_train: int
    num_val: int
    image_size: int
    epochs: int
    batch_size: int


EFFORTS: Mapping[tuple[Budget, DataKind], Effort] = {
    ("quick", "clutter"): Effort(num_train=160, num_val=40, image_size=64, epochs=3, batch_size=16),
    ("quick", "single"): Effort(num_train=200, num_val=60, image_size=64, epochs=3, batch_size=32),
    ("standard", "clutter"): Effort(
        num_train=500, num_val=150, image_size=96, epochs=10, batch_size=16
    ),
    ("standard", "single"): Effort(
        num_train=1000, num_val=200, image_size=64, epochs=24, batch_size=64
    ),
}

# A network that starts from chance, with room for ten epochs.
_SCRATCH: Mapping[OptimiserFamily, Mapping[str, Any]] = {
    "adamw": {"kind": "adamw", "learning_rate": 2e-3, "weight_decay": 0.05},
    "sgd": {"kind": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "nesterov": True},
}
_SCRATCH_SCHEDULE: Mapping[str, Any] = {
    "decayed": "kernels",
    "schedule": "cosine",
    "warm_up_epochs": 1.0,
    "backbone_factor": 1.0,
}
_SCRATCH_METHOD: Mapping[str, Mapping[str, Any]] = {
    "max_mil": {"resize": "warp", "scale_jitter": [0.8, 1.2]},
    "beam": {
        "resize": "warp",
        "reduced_channels": None,
        "hidden": [],
        "dropout": 0.0,  # with the preset's half nothing is learned from so few images
        "balance": False,
    },
    "wildcat": {"resize": "warp"},
    "cam": {"resize": "warp", "smallest_crop": 0.5},
}
# What WILDCAT's released code trains a pretrained network with.
_PRETRAINED: Mapping[OptimiserFamily, Mapping[str, Any]] = {
    "adamw": {},
    "sgd": {
        "kind": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "backbone_factor": 0.1,
        "schedule": "constant",
        "warm_up_epochs": 0.0,
    },
}


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """`train` are fields of TrainSettings, `optimisation` and `of_method` fields of methods."""

    preset: Preset
    train: Mapping[str, Any] = field(default_factory=dict)
    optimisation: Mapping[str, Any] = field(default_factory=dict)
    of_method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    smaller_backbone: str | None = None

    def choices(self, method: str) -> dict[str, Any]:
        choices = dict(self.of_method.get(method, {}))
        return (
            {**choices, "optimisation": dict(self.optimisation)} if self.optimisation else choices
        )


def from_scratch(budget: Budget, recipe: Recipe) -> Conditions:
    """The tiny backbone without weights, in seconds to a minute for each training."""
    effort, optimiser = EFFORTS[budget, recipe.data], recipe.optimiser
    return Conditions(
        preset="practical",
        train={
            "backbone": "tiny",
            "weights": "none",
            "image_size": effort.image_size,
            "epochs": effort.epochs * recipe.epochs_factor,
            "batch_size": effort.batch_size,
            "cache": "memory",
            "quarter_turns": recipe.data == "clutter",  # where objects lie at any angle
        },
        optimisation={**_SCRATCH[optimiser], **_SCRATCH_SCHEDULE},
        of_method=_SCRATCH_METHOD,
        smaller_backbone="tiny[width=8]",
    )


def given_backbone(optimiser: OptimiserFamily) -> Conditions:
    """A backbone named on the command line: the practical preset."""
    return Conditions(preset="practical", optimisation=_PRETRAINED[optimiser])


def as_published(budget: Budget, recipe: Recipe, splits: Literal["paper", "given"]) -> Conditions:
    """The literal preset; paper60 in 60 epochs with mirrored images instead of 1,500 without."""
    larger, smaller = recipe.backbones or (None, None)
    train: dict[str, Any] = {"backbone": larger} if larger else {}
    if splits == "paper":
        train["train_split"], train["val_split"] = recipe.splits
    if budget == "paper":
        return Conditions(preset="literal", train=train, smaller_backbone=smaller)
    mirrored = {"cam": {"flip": True}}
    return Conditions(
        preset="literal",
        train={**train, "epochs": 60, "cache": "memory"},
        of_method=mirrored,
        smaller_backbone=smaller,
    )
