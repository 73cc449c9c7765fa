"""What a paper decides, its optimisation included: what all methods share.

A schedule is a factor on every learning rate, a pure function of the step, so that a resumed run
continues exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, TypeAlias

from torch.nn import Parameter
from torch.optim import SGD, Adagrad, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from weakloc.data.augmentation import Augmentation, HorizontalFlip
from weakloc.data.transforms import Preprocessing, ResizeMode
from weakloc.errors import SettingError, require_setting
from weakloc.localize.places import BackgroundMode, BoxChoice, BoxScore, PointMethod, ThresholdMode
from weakloc.metrics.average_precision import Definition
from weakloc.model.backbones import Backbone
from weakloc.model.losses import BackgroundLoss, BeamLoss, LogisticLoss, Loss, SoftmaxLoss
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec
from weakloc.settings import Look, Places

OptimiserKind: TypeAlias = Literal["sgd", "adamw", "adagrad"]
Decayed: TypeAlias = Literal["all", "kernels"]  # kernels: not biases nor batch norms
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
        if not fits:
            raise SettingError(f"optimisation.{name} is {getattr(self, name)!r}", remedy=remedy)


def build_optimiser(network: LocalizationNetwork, optimisation: Optimisation) -> Optimizer:
    """Over the parameters that require a gradient, in groups named "backbone" and "head".

    Layers that a head took over from a classifier learn like the backbone.
    """
    factor = optimisation.backbone_factor
    if isinstance(factor, str):
        factor = PRETRAINED_FACTOR if network.backbone.is_pretrained else 1.0
    rates = {"backbone": optimisation.learning_rate * factor, "head": optimisation.learning_rate}
    new = network.new_parameters()
    groups: dict[tuple[str, float], list[Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            is_decayed = optimisation.decayed == "all" or parameter.ndim > 1
            decay = optimisation.weight_decay if is_decayed else 0.0
            part = "head" if parameter in new else "backbone"
            groups.setdefault((part, decay), []).append(parameter)
    settings = [
        {"name": part, "params": parameters, "lr": rates[part], "weight_decay": decay}
        for (part, decay), parameters in groups.items()
    ]
    return _OPTIMISERS[optimisation.kind](settings, optimisation)


def rate_factor(optimisation: Optimisation, step: int, steps_per_epoch: int) -> float:
    """What the learning rates are multiplied by at a step, counted from 0."""
    warm_up = optimisation.warm_up_epochs * steps_per_epoch
    rise = min(1.0, (step + 1) / warm_up) if warm_up > 0 else 1.0
    return rise * _FACTORS[optimisation.schedule](optimisation, step, steps_per_epoch)


def build_schedule(
    optimizer: Optimizer, optimisation: Optimisation, steps_per_epoch: int
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


Preset: TypeAlias = Literal["practical", "literal"]
LossKind: TypeAlias = Literal[
    "auto", "logistic_sum", "logistic_mean", "softmax", "beam_sigmoid", "beam_softmax"
]
Fuse: TypeAlias = Literal["max", "mean"]
MapNormalisation: TypeAlias = Literal["none", "minmax", "relu_max", "sigmoid", "zscore"]
Localiser: TypeAlias = Literal["score_map", "cells", "detector", "beam_search"]


@dataclass(frozen=True, kw_only=True)
class PlaceRules:
    """How places are named in the heat of a class, and by which definitions they are judged.

    Fields that the settings `Places` have too mean the same; what is set there wins. `threshold`
    is that of a class which no calibration gave one. `background` "class" is a further class that
    the network learns to see in every image. `crf_unary` is -log of what a CRF starts from: each
    map's share of their sum, or their softmax.
    """

    point_method: PointMethod = "arg_max"
    threshold: float = 0.3
    threshold_mode: ThresholdMode = "minmax"
    boxes: BoxChoice | Literal["none"] = "all"
    min_share: float = 0.0
    box_score: BoxScore = "mean"
    box_times_class: bool = True
    background: BackgroundMode = "threshold"
    crf_unary: Literal["shares", "softmax"] = "shares"
    average_precision: Definition = "voc12"
    box_edges: Literal["half-open", "inclusive"] = "half-open"

    def __post_init__(self) -> None:
        for name in ("threshold", "min_share"):
            fits = 0 <= getattr(self, name) < 1
            require_setting(self, "rules", name, fits, "Give a share from 0 to below 1")

    def with_settings(self, places: Places) -> PlaceRules:
        """These rules with all that was set."""
        values = {item.name: getattr(places, item.name, None) for item in fields(self)}
        given = {name: value for name, value in values.items() if value not in (None, "auto")}
        return replace(self, **given)


# For each kind of heat, where no method has rules of its own for it. A search sums rectangles: its
# greatest heat is a plateau. Cells are divided finely and judged one by one: the hottest may be a
# speck, crumbs are no objects; hot all over an object and its parts, the larger part is the better
# box. How hot an object is differs from image to image: each divides itself. A detector says boxes
# without a map, and points like the cells whose heat it comes with.
_CELL_RULES = PlaceRules(
    point_method="densest", threshold=0.5, threshold_mode="otsu", min_share=0.02, box_score="share"
)
RULES: Mapping[Localiser, PlaceRules] = {
    "score_map": PlaceRules(),
    "beam_search": PlaceRules(point_method="plateau", threshold=0.5),
    "cells": _CELL_RULES,
    "detector": replace(_CELL_RULES, min_share=0.3),
}


@dataclass(frozen=True)
class Looking:
    """What looks at images without being asked otherwise: sizes as factors, what becomes of several
    maps, what makes the heat, and what is said of it."""

    score_scales: tuple[float, ...] = (1.0,)
    map_scales: tuple[float, ...] = (1.0,)
    map_fuse: Fuse = "mean"
    map_normalisation: MapNormalisation = "none"
    localiser: Localiser = "score_map"
    rules: PlaceRules = PlaceRules()


LEARNED: Mapping[Localiser, Looking] = {  # after the training of a method, the best first
    name: Looking(localiser=name, rules=RULES[name]) for name in ("detector", "cells")
}


def settled(look: Look, looking: Looking) -> tuple[Look, PlaceRules]:
    """The look with everything that was left open filled in, and the rules for its heat."""
    localiser: Localiser = looking.localiser if look.localiser == "auto" else look.localiser
    filled = replace(
        look,
        localiser=localiser,
        scales=look.scales or looking.score_scales,
        map_scales=look.map_scales or look.scales or looking.map_scales,
        fuse=looking.map_fuse if look.fuse == "auto" else look.fuse,
        normalise=looking.map_normalisation if look.normalise == "auto" else look.normalise,
    )
    if "beam_search" in (looking.localiser, localiser) and set(filled.scales) != {1.0}:
        raise SettingError(
            f"--scales is {filled.scales} but this method sees images at one size",
            remedy="Leave out --scales: the search looks at parts of the image instead",
        )
    return filled, looking.rules if localiser == looking.localiser else RULES[localiser]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A subclass names itself, adds its own fields, gives others new defaults, builds a network.

    `backbone` is the one it is described with; `trains_backbone` False keeps it frozen.
    `score_scales` are the sizes whose class scores are averaged, `map_scales` those whose maps are
    fused by `map_fuse` after `map_normalisation`; both are factors of `side`. `loss` "auto" is
    softmax where every image has one class of several, else the logistic mean. `normalisation` by
    the mean and spread of the training images is for backbones from scratch. `rules` are for the
    heat of its own `localiser`.
    """

    name: ClassVar[str]
    localiser: ClassVar[Localiser] = "score_map"

    backbone: str = "lite0"
    trains_backbone: bool = True
    loss: LossKind = "auto"
    side: int = 224
    resize: ResizeMode = "warp"
    normalisation: Literal["backbone", "training_images"] = "backbone"
    balance: bool = False
    flip: bool = True
    optimisation: Optimisation = PRACTICAL
    score_scales: tuple[float, ...] = (1.0,)
    map_scales: tuple[float, ...] = (1.0,)
    map_fuse: Fuse = "mean"
    map_normalisation: MapNormalisation = "none"
    rules: PlaceRules = PlaceRules()

    def __post_init__(self) -> None:
        self.require("side", self.side >= 1, "Give 1 pixel or more")
        for name in ("score_scales", "map_scales"):
            scales = getattr(self, name)
            fit = len(scales) > 0 and all(0.05 <= scale <= 16 for scale in scales)
            self.require(name, fit, "Give factors between 0.05 and 16")

    def require(self, name: str, fits: bool, remedy: str) -> None:
        """SettingError that names the field, the value met and what would do."""
        require_setting(self, None, name, fits, remedy)

    @classmethod
    def practical(cls) -> Self:
        """The best result for the time."""
        return cls()

    @classmethod
    def literal(cls) -> Self:
        """As the paper has it."""
        return cls.practical()

    @property
    def looking(self) -> Looking:
        """How it looks at images."""
        return Looking(**{item.name: getattr(self, item.name) for item in fields(Looking)})

    @abstractmethod
    def network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        """The head and the poolings on the backbone."""

    def build_network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        has_background = self.rules.background == "class"
        network = self.network(backbone, num_classes + has_background)
        network.has_background = has_background
        if not self.trains_backbone:
            network.freeze_backbone()
        return network

    def build_loss(self, *, num_classes: int, single_label: bool) -> Loss:
        """`single_label`: every training image has exactly one class."""
        kind, has_background = self.loss, self.rules.background == "class"
        if kind == "auto":
            is_softmax = single_label and num_classes > 1 and not has_background
            kind = "softmax" if is_softmax else "logistic_mean"
        if num_classes == 1 and kind in ("softmax", "beam_softmax"):
            raise SettingError(
                f"loss {kind} cannot learn from a single class",
                location="loss",
                remedy="Use logistic_mean, or add images of another class",
            )
        loss = _LOSSES[kind]()
        if has_background and loss.activation == "softmax":
            raise SettingError(
                f"loss {kind} knows one class an image, and the background is beside every other",
                location="rules.background",
                remedy="Use logistic_mean, or another background",
            )
        return BackgroundLoss(loss) if has_background else loss

    def augmentation(self, backbone: Backbone) -> Augmentation:  # noqa: ARG002
        return Augmentation(steps=self.flips)

    @property
    def flips(self) -> tuple[HorizontalFlip, ...]:
        return (HorizontalFlip(),) if self.flip else ()

    def backbone_spec(self, spec: BackboneSpec) -> BackboneSpec:
        """The backbone as this method needs it."""
        return spec


_LOSSES: Mapping[LossKind, Callable[[], Loss]] = {
    "logistic_sum": lambda: LogisticLoss("sum"),
    "logistic_mean": lambda: LogisticLoss("mean"),
    "softmax": SoftmaxLoss,
    "beam_sigmoid": lambda: LogisticLoss("mean"),
    "beam_softmax": BeamLoss,
}


def preprocessing(method: Method, backbone: Backbone) -> Preprocessing:
    """Image -> network input: the method's size, the backbone's normalisation and multiple."""
    if method.side < backbone.min_input:
        raise SettingError(
            f"--image-size is {method.side}, but {backbone.name} needs at least "
            f"{backbone.min_input} pixels",
            remedy=f"Give --image-size {backbone.min_input} or more; smaller images are enlarged",
        )
    return Preprocessing(
        size=method.side,
        resize=method.resize,
        multiple_of=backbone.input_multiple,
        mean=backbone.mean,
        std=backbone.std,
    )
