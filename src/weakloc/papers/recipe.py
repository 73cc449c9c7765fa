"""What an experiment of a paper is made of: plain data, which `weakloc.papers.reproduce` runs.

A recipe has cells (rows of a table), findings (what the paper says of pairs of cells) and published
numbers; its conditions are what all cells share: data, network and schedule, for each budget. The
from-scratch setup of the offline scenes stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from weakloc.settings import Budget

if TYPE_CHECKING:
    from weakloc.methods.method import Preset  # loads torch

DataKind: TypeAlias = Literal["clutter", "single"]
ThresholdOrigin: TypeAlias = Literal[
    "fixed", "boxes by class", "boxes, one for all", "oracle", "held-out tags"
]
OptimiserFamily: TypeAlias = Literal["adamw", "sgd"]
Fusion: TypeAlias = Literal["mean", "late classifier"]


@dataclass(frozen=True)
class Cell:
    """One row: a method, and what differs from the conditions that all rows share.

    `choices` are fields of the method, `train` those of TrainSettings. `head_rate` and
    `backbone_rate` multiply the learning rates that all rows share, `batch` the batch size,
    `epochs` their number, `sizes` the side that the network sees: several are a network each,
    whose maps become one and whose scores `fusion` makes one of. `look` are fields of Look and
    Places, and `search` those fields of the method that only matter when images are looked at:
    cells that differ in nothing but `look`, `search`, `tuning` and `fusion` share one training.
    `tuning` is what chooses thresholds or, of held-out tags, the weight of classes that occur
    together. `crops_of_boxes` adds the content of the drawn boxes to the training images.
    `below_head` marks what a frozen backbone cannot show, `only` a row that one preset alone has.
    `at` is the place on the recipe's axis, in the curve of that `series`.
    """

    name: str
    method: str
    _: KW_ONLY
    choices: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    head_rate: float = 1.0
    backbone_rate: float = 1.0
    batch: float = 1.0
    epochs: float = 1.0
    sizes: tuple[float, ...] = (1.0,)
    fusion: Fusion = "mean"
    look: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    tuning: ThresholdOrigin = "fixed"
    crops_of_boxes: bool = False
    smaller_backbone: bool = False
    below_head: bool = False
    only: Preset | None = None
    at: float | None = None
    series: str = ""


@dataclass(frozen=True)
class Finding:
    """A claim: `metric` of the cell `better` exceeds that of `worse` by more than `margin`.

    `said_by` is the paper, or "weakloc" for a control of our own. A negative margin claims that
    `better` is hardly behind. `worse_metric`, where given, is what of `worse` is compared.
    """

    claim: str
    better: str
    worse: str
    metric: str = field(kw_only=True)
    said_by: str = "weakloc"
    margin: float = 0.0
    worse_metric: str | None = None


# What a cell does better: it names classes, places points, or draws boxes.
names = partial(Finding, metric="classification_map")
places = partial(Finding, metric="point_map")
boxes = partial(Finding, metric="box_map_50")


@dataclass(frozen=True)
class Published:
    """Numbers of a paper, in percent, by the name of our cell."""

    source: str
    data: str
    metric: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Recipe:
    """`reference` is the paper's table or figure; `papers_data` what it was measured on.

    `backbones` are the paper's, the larger first, where its literal preset does not say.
    `splits` are those that the paper learned from and measured on. `epochs_factor` multiplies the
    epochs of a network that learns from scratch.
    """

    name: str
    number: str
    title: str
    _: KW_ONLY
    reference: str
    question: str
    papers_data: str
    cells: tuple[Cell, ...]
    metrics: tuple[str, ...]
    splits: tuple[str, str] = ("train", "val")
    findings: tuple[Finding, ...] = ()
    published: tuple[Published, ...] = ()
    data: DataKind = "clutter"
    optimiser: OptimiserFamily = "adamw"
    epochs_factor: int = 1
    backbones: tuple[str, str] | None = None
    axis: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effort:
    """How much is drawn and learned where the command line does not say."""

    num_train: int
    num_val: int
    image_size: int
    epochs: int
    batch_size: int


EFFORTS: Mapping[tuple[Budget, DataKind], Effort] = {
    ("quick", "clutter"): Effort(160, 40, image_size=64, epochs=3, batch_size=16),
    ("quick", "single"): Effort(200, 60, image_size=64, epochs=3, batch_size=32),
    ("standard", "clutter"): Effort(500, 150, image_size=96, epochs=10, batch_size=16),
    ("standard", "single"): Effort(1000, 200, image_size=64, epochs=24, batch_size=64),
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


@dataclass(frozen=True)
class Conditions:
    """`train` are fields of TrainSettings, `optimisation` and `of_method` fields of methods."""

    preset: Preset
    train: Mapping[str, Any] = field(default_factory=dict)
    optimisation: Mapping[str, Any] = field(default_factory=dict)
    of_method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    smaller_backbone: str | None = None

    def choices(self, method: str) -> dict[str, Any]:
        optimisation = {"optimisation": dict(self.optimisation)} if self.optimisation else {}
        return {**self.of_method.get(method, {}), **optimisation}


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
    of_method: dict[str, Any] = {}
    if budget == "paper60":
        train |= {"epochs": 60, "cache": "memory"}
        of_method = {"cam": {"flip": True}}
    return Conditions("literal", train, of_method=of_method, smaller_backbone=smaller)
