"""Images -> class maps -> class scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class NetworkOutput:
    scores: Tensor  # (B, C) logits
    maps: Tensor  # (B, C, rows, columns) logits


class LocalizationNetwork(nn.Module):
    """A small convolutional trunk, one map per class, global max pooling."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Conv2d(64, num_classes, 1)

    def forward(self, images: Tensor) -> NetworkOutput:
        maps = self.head(self.trunk(images))
        return NetworkOutput(torch.amax(maps, dim=(2, 3)), maps)
