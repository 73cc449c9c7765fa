"""AlexNet, VGG-16 and SqueezeNet of torchvision, also with their fully connected layers.

`fully_connected="convolution"` reads FC6 and FC7 as convolutions: a 224 px window moves over the
image in steps of 32 px (max-MIL). "head" stops at the last pooling and keeps FC6 and FC7 aside for
a fixed-grid head (BEAM); "none" stops there without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from weakloc.errors import SettingError, did_you_mean
from weakloc.model.trunk import (
    BackboneSpec,
    FirstCenter,
    Trunk,
    TrunkFacts,
    arguments_of,
    run_stages,
)
from weakloc.model.weights import load_file_into, require_answer, weights_not_at_hand

FullyConnected: TypeAlias = Literal["convolution", "head", "none"]


@dataclass(frozen=True, slots=True)
class _Architecture:
    grid_side: int | None  # of the map that FC6 takes; None: fully convolutional
    channels: int
    stride: int
    first_center: FirstCenter = "uniform"


# SqueezeNet pads none of its strided layers: cell 0 looks at 1 + 2 + 4 + 8 + 0.5.
ARCHITECTURES = {
    "alexnet": _Architecture(6, 256, 32),
    "vgg16": _Architecture(7, 512, 32),
    "squeezenet1_1": _Architecture(None, 512, 16, first_center=15.5),
}
_WINDOW, _FIRST_CENTER = 224.0, 112.0


class TorchvisionTrunk(Trunk):
    """The feature layers in a row, then (alexnet, vgg16) FC6 and FC7 as convolutions."""

    def __init__(
        self,
        layers: nn.Module,
        facts: TrunkFacts,
        strides: Sequence[int],
        kept: Sequence[nn.Linear],
    ) -> None:
        super().__init__()
        self.layers = layers
        self.facts = facts
        self.strides = tuple(strides)
        self.pretrained_layers = tuple(kept)  # not registered: they belong to the head

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]:
        return run_stages(images, self.layers.children(), self.strides, levels)


def build_torchvision_trunk(spec: BackboneSpec) -> TorchvisionTrunk:
    architecture = ARCHITECTURES[spec.name]
    arguments = arguments_of(spec, ["fully_connected"])
    default = "none" if architecture.grid_side is None else "convolution"
    mode: Any = arguments.get("fully_connected", default)
    if mode not in get_args(FullyConnected) or (architecture.grid_side is None and mode != "none"):
        raise SettingError(
            f"fully_connected={mode!r} is not possible for {spec.name}",
            location="--backbone",
            remedy=did_you_mean(str(mode), get_args(FullyConnected)),
        )
    model, loaded_weights = _load(spec)
    layers = list(model.features.children())
    strides, dilation = _dilate(layers, spec.output_stride or architecture.stride)
    linear = [layer for layer in model.classifier.modules() if isinstance(layer, nn.Linear)]
    channels, window, first_center = architecture.channels, None, architecture.first_center
    if mode == "convolution":
        layers += _as_convolutions(linear, architecture, dilation)
        strides += [strides[-1]] * 4
        channels, window, first_center = linear[-1].out_features, _WINDOW, _FIRST_CENTER
    facts = TrunkFacts(
        stride=strides[-1],
        out_channels=channels,
        level_strides=tuple(sorted(set(strides))),
        first_center=first_center,
        window=window,
    )
    kept = linear if mode == "head" else []
    trunk = TorchvisionTrunk(nn.Sequential(*layers), facts, strides, kept)
    trunk.loaded_weights = loaded_weights
    return trunk


def _load(spec: BackboneSpec) -> tuple[Any, str | None]:
    """The whole torchvision classifier without its last layer, and the name of its weights."""
    import torchvision

    model = torchvision.models.get_model(spec.name, weights=None)
    if ARCHITECTURES[spec.name].grid_side is None:
        model.classifier, ignored = nn.Identity(), ("classifier.",)
    else:
        model.classifier[6], ignored = nn.Identity(), ("classifier.6.",)
    if spec.weights == "default":
        # Those of the first publication, which papers of the time used.
        weights = torchvision.models.get_model_weights(spec.name)["IMAGENET1K_V1"]
        try:
            cached = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
            if not cached.is_file():
                require_answer(weights.url)
            tensors = weights.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise weights_not_at_hand(spec.name, error) from error
        model.load_state_dict(tensors, strict=False)
        return model, str(weights)
    if spec.weights == "none":
        return model, None
    load_file_into(model, spec.weights, ignored=ignored)
    return model, spec.weights


def _dilate(layers: Sequence[Any], output_stride: int) -> tuple[list[int], int]:
    """Strides beyond `output_stride` become dilation of all that follows (in place).

    The same function is then evaluated on a denser grid. Gives the stride after every layer.
    """
    stride, dilation, strides = 1, 1, []
    for layer in layers:
        for part in layer.modules():
            if isinstance(part, nn.Conv2d):
                part.padding = tuple(int(side) * dilation for side in part.padding)
                part.dilation = (dilation, dilation)
            elif isinstance(part, nn.MaxPool2d) and isinstance(part.padding, int):
                part.padding, part.dilation = part.padding * dilation, dilation
        is_strided = isinstance(layer, (nn.Conv2d, nn.MaxPool2d))
        step = layer.stride if is_strided else 1
        step = int(step[0] if isinstance(step, tuple) else step)
        if stride * step <= output_stride:
            stride *= step
        else:
            layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1
            dilation *= step
        strides.append(stride)
    return strides, dilation


def _as_convolutions(
    linear: Sequence[nn.Linear], architecture: _Architecture, dilation: int
) -> list[nn.Module]:
    """FC6 (O, D * L * L) -> (O, D, L, L) and FC7 (O, I) -> (O, I, 1, 1), each with its ReLU."""
    layers: list[nn.Module] = []
    for layer, side, spread in zip(
        linear, (architecture.grid_side or 1, 1), (dilation, 1), strict=True
    ):
        channels = layer.in_features // side**2
        convolution: nn.Conv2d = skip_init(  # type: ignore[no-untyped-call]
            nn.Conv2d, channels, layer.out_features, side, dilation=spread
        )
        weight = layer.weight.detach().view(-1, channels, side, side)
        convolution.load_state_dict({"weight": weight, "bias": layer.bias.detach()})
        layers += [convolution, nn.ReLU(inplace=True)]
    return layers
