"""What a paper decides: the abstract dataclass of all methods, with what most of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeAlias

from weakloc.data.augmentation import Augmentation, HorizontalFlip
from weakloc.data.transforms import Preprocessing, ResizeMode
from weakloc.errors import SettingError, require_setting
from weakloc.methods.optimisation import PRACTICAL, Optimisation
from weakloc.model.backbones import Backbone
from weakloc.model.losses import BeamLoss, LogisticLoss, Loss, SoftmaxLoss
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec

Preset: TypeAlias = Literal["practical", "literal"]
LossKind: TypeAlias = Literal[
    "auto", "logistic_sum", "logistic_mean", "softmax", "beam_sigmoid", "beam_softmax"
]
Fuse: TypeAlias = Literal["max", "mean"]
MapNormalisation: TypeAlias = Literal["none", "minmax", "relu_max", "sigmoid", "zscore"]
Localiser: TypeAlias = Literal["score_map", "beam_search"]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A subclass names itself, adds its own fields, gives others new defaults, builds a network.

    `backbone` is the one it is described with; `trains_backbone` False keeps it frozen.
    `score_scales` are the sizes whose class scores are averaged, `map_scales` those whose maps are
    fused by `map_fuse` after `map_normalisation`; both are factors of `side`. `loss` "auto" is
    softmax where every image has one class of several, else the logistic mean.
    """

    name: ClassVar[str]
    localiser: ClassVar[Localiser] = "score_map"

    backbone: str = "resnet50"
    trains_backbone: bool = True
    loss: LossKind = "auto"
    side: int = 224
    resize: ResizeMode = "warp"
    balance: bool = False
    flip: bool = True
    optimisation: Optimisation = PRACTICAL
    score_scales: tuple[float, ...] = (1.0,)
    map_scales: tuple[float, ...] = (1.0,)
    map_fuse: Fuse = "mean"
    map_normalisation: MapNormalisation = "none"

    def __post_init__(self) -> None:
        require_setting(self.side >= 1, "side", self.side, remedy="Give 1 pixel or more")
        for name in ("score_scales", "map_scales"):
            scales = getattr(self, name)
            fit = len(scales) > 0 and all(0.05 <= scale <= 16 for scale in scales)
            require_setting(fit, name, scales, remedy="Give factors between 0.05 and 16")

    @classmethod
    def practical(cls) -> Self:
        """The best result for the time."""
        return cls()

    @classmethod
    def literal(cls) -> Self:
        """As the paper has it."""
        return cls.practical()

    @abstractmethod
    def network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        """The head and the poolings on the backbone."""

    def build_network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        network = self.network(backbone, num_classes)
        if not self.trains_backbone:
            network.freeze_backbone()
        return network

    def build_loss(self, *, num_classes: int, single_label: bool) -> Loss:
        """`single_label`: every training image has exactly one class."""
        kind = self.loss
        if kind == "auto":
            kind = "softmax" if single_label and num_classes > 1 else "logistic_mean"
        if num_classes == 1 and kind in ("softmax", "beam_softmax"):
            raise SettingError(
                f"loss {kind} cannot learn from a single class",
                where="loss",
                remedy="Use logistic_mean, or add images of another class",
            )
        return _LOSSES[kind]()

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
    "beam_sigmoid": lambda: BeamLoss("sigmoid"),
    "beam_softmax": lambda: BeamLoss("softmax"),
}


def preprocessing(method: Method, backbone: Backbone) -> Preprocessing:
    """Image -> network input: the method's size, the backbone's normalisation and multiple."""
    if method.side < backbone.min_input:
        raise SettingError(
            f"an image size of {method.side} is too small for {backbone.name}",
            where="--image-size",
            remedy=f"Give {backbone.min_input} or more",
        )
    return Preprocessing(
        size=method.side,
        resize=method.resize,
        multiple_of=backbone.input_multiple,
        mean=backbone.mean,
        std=backbone.std,
    )
