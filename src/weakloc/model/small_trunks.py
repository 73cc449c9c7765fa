"""A small network to train from scratch in minutes without a GPU.

Blocks narrow the features before their 3x3 convolution: twice as deep for the same time.
Stride-2 convolutions with 4x4 kernels and one pixel of padding keep every cell centred on the
square of pixels that it stands for, so the score map tiles the input exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weakloc.errors import SettingError, did_you_mean
from weakloc.model.trunk import (
    BackboneSpec,
    Trunk,
    TrunkFacts,
    arguments_of,
    run_stages,
    with_weights,
)

HALF = (0.5, 0.5, 0.5)


class TinyTrunk(Trunk):
    """Features of stride 8, most of the work done there; 0.4 million parameters."""

    def __init__(self, *, width: int = 32) -> None:
        super().__init__()
        first, middle, wide = 3 * width // 4, 2 * width, 4 * width
        self.stages = nn.ModuleDict(
            {
                "2": _halve(3, first),
                "4": nn.Sequential(_halve(first, middle), _Bottleneck(middle)),
                "8": nn.Sequential(_halve(middle, wide), *(_Bottleneck(wide) for _ in range(4))),
            }
        )
        self.facts = TrunkFacts(
            stride=8,
            out_channels=wide,
            level_strides=(2, 4, 8),
            mean=HALF,
            std=HALF,
            first_center=4.0,
        )

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]:
        return run_stages(images, self.stages.values(), self.facts.level_strides, levels)


def _halve(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class _Bottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 2
        last_norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(last_norm.weight)  # Each block starts as the identity.
        self.body = nn.Sequential(
            nn.Conv2d(channels, narrow, 1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, narrow, 3, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, channels, 1, bias=False),
            last_norm,
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features + self.body(features))


DEPTHS = {"preact18": (2, 2, 2, 2), "preact34": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
# stem -> (kernel, stride, max pooling, stride of every group); 64 px give 8, 4, 4 and 2 cells.
STEMS = {
    "cifar": (3, 1, False, (1, 2, 2, 2)),
    "s2": (3, 2, False, (1, 2, 2, 2)),
    "cam": (7, 2, True, (1, 2, 2, 1)),
    "imagenet": (7, 2, True, (1, 2, 2, 2)),
}


class PreactTrunk(Trunk):
    def __init__(self, name: str, *, stem: str = "cifar", output_stride: int | None = None) -> None:
        super().__init__()
        if stem not in STEMS:
            raise SettingError(
                f"stem {stem!r} is not known", where="--backbone", remedy=did_you_mean(stem, STEMS)
            )
        kernel, stride, has_pool, strides = STEMS[stem]
        layers: list[nn.Module] = [nn.Conv2d(3, 64, kernel, stride, kernel // 2, bias=False)]
        if has_pool:
            layers += [nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
            stride *= 2
        self.stem = nn.Sequential(*layers)
        self.groups = nn.ModuleList()
        self.group_strides: list[int] = []
        channels, dilation = 64, 1
        for width, depth, step in zip(WIDTHS, DEPTHS[name], strides, strict=True):
            first_dilation = dilation
            if stride * step > (output_stride or 32):
                dilation *= step
            else:
                stride *= step
            used_step = stride // (self.group_strides or [stride // step])[-1]
            self.groups.append(
                _group(channels, width, depth, used_step, (first_dilation, dilation))
            )
            self.group_strides.append(stride)
            channels = width
        self.facts = TrunkFacts(
            stride=stride, out_channels=channels, level_strides=tuple(sorted({*self.group_strides}))
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]:
        return run_stages(self.stem(images), self.groups, self.group_strides, levels)


def _group(
    in_channels: int, width: int, depth: int, step: int, dilations: tuple[int, int]
) -> nn.Sequential:
    """`dilations` of the first convolution, which may have lost its stride, and of all others."""
    rest = (dilations[1], dilations[1])
    blocks: list[nn.Module] = [
        _Block(in_channels, width, step, dilations, leading_norm=False),
        *(_Block(width, width, 1, rest, leading_norm=True) for _ in range(depth - 1)),
    ]
    return nn.Sequential(*blocks, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class _Block(nn.Module):
    def __init__(
        self,
        in_channels: int,
        width: int,
        step: int,
        dilations: tuple[int, int],
        *,
        leading_norm: bool,
    ) -> None:
        super().__init__()
        first, second = dilations
        self.lead: nn.Module = nn.Identity()
        if leading_norm:
            self.lead = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, step, first, first, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, second, second, bias=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != width:
            self.shortcut = nn.Conv2d(in_channels, width, 1, step, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        change: Tensor = self.body(self.lead(features))
        return change + self.shortcut(features)  # type: ignore[no-any-return]


def build_tiny(spec: BackboneSpec) -> Trunk:
    trunk = TinyTrunk(**arguments_of(spec, ("width",)))
    if spec.output_stride not in (None, trunk.facts.stride):
        raise SettingError(
            f"tiny has a stride of {trunk.facts.stride}, not {spec.output_stride}",
            where="--output-stride",
            remedy="Leave it out",
        )
    return with_weights(trunk, spec)


def build_preact(spec: BackboneSpec) -> Trunk:
    arguments = arguments_of(spec, ("stem",))
    trunk = PreactTrunk(spec.name, output_stride=spec.output_stride, **arguments)
    return with_weights(trunk, spec)
