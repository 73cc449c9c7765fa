"""Features -> class maps (channel c * M + m is map m of class c), or fixed grid -> class scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate


class TransferHead(nn.Module):
    """WILDCAT's transfer layer: one 1x1 convolution to M maps per class."""

    def __init__(self, in_channels: int, num_classes: int, *, maps_per_class: int = 1) -> None:
        super().__init__()
        self.transfer = nn.Conv2d(in_channels, num_classes * maps_per_class, 1)
        _start_small(self.transfer)

    def forward(self, features: Tensor) -> Tensor:
        maps: Tensor = self.transfer(features)
        return maps


class AdaptationHead(nn.Module):
    """Max-MIL's trained layers: Ca (1x1, ReLU) and Cb (1x1), each with dropout of whole maps."""

    def __init__(
        self, in_channels: int, num_classes: int, *, hidden: int = 2048, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.dropout_a = nn.Dropout2d(dropout)
        self.adapt_a = nn.Conv2d(in_channels, hidden, 1)
        self.dropout_b = nn.Dropout2d(dropout)
        self.adapt_b = nn.Conv2d(hidden, num_classes, 1)
        for layer in (self.adapt_a, self.adapt_b):
            _start_small(layer)

    def forward(self, features: Tensor) -> Tensor:
        adapted = torch.relu(self.adapt_a(self.dropout_a(features)))
        maps: Tensor = self.adapt_b(self.dropout_b(adapted))
        return maps


class GridHead(nn.Module):
    """BEAM's position-sensitive head: fully connected layers on a grid of L x L cells.

    `forward` gives the score that every single cell would get as a candidate box: a sub-grid of one
    cell, resized to L x L, is constant, so the first layer's weights add up over the positions and
    the head becomes a chain of 1x1 convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        grid_side: int,
        reduced_channels: int | None,
        hidden: Sequence[int],
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.grid_side = grid_side
        self.reduce: nn.Module = nn.Identity()
        channels = in_channels
        if reduced_channels is not None:
            channels = reduced_channels
            self.reduce = nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.ReLU())
        widths = [channels * grid_side**2, *hidden, num_classes]
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)
        )
        self.dropout = nn.Dropout(dropout)
        self.num_adopted = 0

    def adopt(self, pretrained: Sequence[nn.Linear]) -> None:
        """Start the first layers from those of a classifier (FC6, FC7)."""
        for layer, given in zip(self.linear_layers(), pretrained, strict=False):
            if given.weight.shape != layer.weight.shape:
                raise ValueError(f"{given} does not fit where the head has {layer}")
            layer.load_state_dict(given.state_dict())
        self.num_adopted = len(pretrained)

    def adopted_parameters(self) -> Iterator[nn.Parameter]:
        for layer in self.linear_layers()[: self.num_adopted]:
            yield from layer.parameters()

    def linear_layers(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def score_grid(self, features: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, C); another grid than L x L is resized, half-pixel centres."""
        return self.score_narrow(self.narrow(features))

    def narrow(self, features: Tensor) -> Tensor:
        """What windows are cut from: done once an image, not once a window."""
        narrowed: Tensor = self.reduce(features)
        return narrowed

    def score_narrow(self, narrowed: Tensor) -> Tensor:
        side = self.grid_side
        if narrowed.shape[2:] != (side, side):
            narrowed = interpolate(narrowed, (side, side), mode="bilinear", align_corners=False)
        hidden = narrowed.flatten(start_dim=1)
        for layer in self.linear_layers()[:-1]:
            hidden = self.dropout(torch.relu(layer(hidden)))
        scores: Tensor = self.layers[-1](hidden)
        return scores

    def score_spans(self, narrowed: Tensor, down: Tensor, across: Tensor) -> Tensor:
        """All windows of narrowed maps (D, L, L): (S, L, L) twice, resampling -> (S, S, C).

        Resampling is linear and acts on each axis alone, so the first layer can go first: it takes
        every pair of an output cell and an input cell once, instead of every window once. A window
        is then the sum of few of these products. One output of the layer at a time: they are many.
        """
        first, *later = self.linear_layers()
        cells = self.grid_side
        maps = narrowed.flatten(start_dim=1)  # (D, cells read)
        rows, columns = down.flatten(start_dim=1), across.flatten(start_dim=1)
        scored = narrowed.new_empty(len(first.weight), len(rows), len(columns))
        for output, weight in enumerate(first.weight):
            products = weight.view(len(maps), -1).T @ maps  # (cells seen, cells read)
            by_axis = products.view(cells, cells, cells, cells).transpose(1, 2)
            scored[output] = rows @ (by_axis.reshape(cells**2, cells**2) @ columns.T)
        hidden = scored.permute(1, 2, 0) + first.bias
        for layer in later:
            hidden = layer(torch.relu(hidden))
        return hidden

    def forward(self, features: Tensor) -> Tensor:
        maps: Tensor = self.reduce(features)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.linear_layers()):
            weight: Tensor = layer.weight
            if index == 0:
                weight = weight.view(len(weight), maps.shape[1], -1).sum(dim=2)
            maps = conv2d(maps, weight[:, :, None, None], layer.bias)
            if index < last:
                maps = self.dropout(torch.relu(maps))
        return maps


def _start_small(layer: nn.Conv2d) -> None:
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
