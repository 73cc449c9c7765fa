"""A small network to train from scratch in minutes without a GPU.

Blocks narrow the features before their 3x3 convolution: twice as deep for the same time.
Stride-2 convolutions with 4x4 kernels and one pixel of padding keep every cell centred on the
square of pixels that it stands for, so the score map tiles the input exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weakloc.model.trunk import Trunk, TrunkFacts

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
        features, kept = images, {}
        for stride, stage in self.stages.items():
            features = stage(features)
            if int(stride) in (*levels, self.facts.stride):
                kept[int(stride)] = features
        return kept


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
