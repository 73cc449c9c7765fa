"""What training and prediction ask of a method; the four methods are frozen dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, Protocol, Self, TypeAlias

from weakloc.data.augmentation import Augmentation
from weakloc.data.transforms import Preprocessing, ResizeMode
from weakloc.errors import SettingError, require_setting
from weakloc.methods.optimisation import Optimisation
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


class Method(Protocol):
    """A paper's choices.

    `backbone` is the one it is described with; `trains_backbone` False keeps it frozen.
    `score_scales` are the sizes whose class scores are averaged, `map_scales` those whose maps are
    fused by `map_fuse` after `map_normalisation`; both are factors of `side`.
    """

    name: ClassVar[str]

    @property
    def backbone(self) -> str: ...
    @property
    def trains_backbone(self) -> bool: ...
    @property
    def side(self) -> int: ...
    @property
    def resize(self) -> ResizeMode: ...
    @property
    def balance(self) -> bool: ...
    @property
    def optimisation(self) -> Optimisation: ...
    @property
    def score_scales(self) -> tuple[float, ...]: ...
    @property
    def map_scales(self) -> tuple[float, ...]: ...
    @property
    def map_fuse(self) -> Fuse: ...
    @property
    def map_normalisation(self) -> MapNormalisation: ...
    @property
    def localiser(self) -> Localiser: ...

    @classmethod
    def literal(cls) -> Self: ...

    @classmethod
    def practical(cls) -> Self: ...

    def backbone_spec(self, spec: BackboneSpec) -> BackboneSpec:
        """The backbone as this method needs it."""

    def build_network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork: ...

    def build_loss(self, *, num_classes: int, single_label: bool) -> Loss:
        """`single_label`: every training image has exactly one class."""

    def augmentation(self, backbone: Backbone) -> Augmentation: ...


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


def check_sizes(method: Method) -> None:
    """What all methods ask of the side of their input and of the sizes in prediction."""
    require_setting(method.side >= 1, "side", method.side, remedy="Give 1 pixel or more")
    for name in ("score_scales", "map_scales"):
        scales = getattr(method, name)
        fit = len(scales) > 0 and all(0.05 <= scale <= 16 for scale in scales)
        require_setting(fit, name, scales, remedy="Give factors between 0.05 and 16")


def check_dropout(dropout: float) -> None:
    require_setting(0 <= dropout < 1, "dropout", dropout, remedy="Give 0 to below 1")


def build_loss(kind: LossKind, *, num_classes: int, single_label: bool) -> Loss:
    """ "auto" is softmax where every image has one class of several, else the logistic mean."""
    if kind == "auto":
        kind = "softmax" if single_label and num_classes > 1 else "logistic_mean"
    if num_classes == 1 and kind in ("softmax", "beam_softmax"):
        raise SettingError(
            f"loss {kind} cannot learn from a single class",
            where="loss",
            remedy="Use logistic_mean, or add images of another class",
        )
    return LOSSES[kind]()


LOSSES: dict[str, Callable[[], Loss]] = {
    "logistic_sum": lambda: LogisticLoss("sum"),
    "logistic_mean": lambda: LogisticLoss("mean"),
    "softmax": SoftmaxLoss,
    "beam_sigmoid": lambda: BeamLoss("sigmoid"),
    "beam_softmax": lambda: BeamLoss("softmax"),
}
