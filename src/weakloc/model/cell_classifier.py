"""Which cells of an image are the object: a small classifier of early, fine feature maps.

Class maps say which cells betray the class. Those need not be the object's: deep cells see nearly
the whole image, and the zeros around it leave their trace in all of them. Here every cell of the
fine levels is judged alone, and the image goes on in the mirror beyond its border.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from weakloc.model.backbones import Backbone

FINE_STRIDES = (4, 8)
MARGIN = 32  # pixels of mirrored image on each side, rounded up to whole cells
HIDDEN = 96
EVIDENCE = 0.25  # power of the probability that a cell betrays the tag: the place decides


def fine_levels(backbone: Backbone) -> tuple[int, ...]:
    """Strides of the levels to look at: the early ones, else the finest there is."""
    early = tuple(stride for stride in backbone.level_strides if stride in FINE_STRIDES)
    return early or (min(backbone.level_strides),)


def fine_features(backbone: Backbone, images: Tensor, levels: Sequence[int]) -> dict[int, Tensor]:
    """Feature maps by stride, without a trace of the image's border."""
    cell = max(levels)
    margin = -(-MARGIN // cell) * cell
    margin = min(margin, (min(images.shape[2:]) - 1) // cell * cell)
    padded = functional.pad(images, (margin,) * 4, mode="reflect")
    features = backbone.early_levels(padded, levels)
    inner = {}
    for stride in levels:
        first = margin // stride
        rows, columns = (-(-side // stride) for side in images.shape[2:])
        inner[stride] = features[stride][:, :, first : first + rows, first : first + columns]
    return inner


class CellClassifier(nn.Module):
    """Fine features -> heat of every class in [0, 1].

    `tags` says which class a cell betrays, `places` whether it is a class's object or background.
    A cell is hot where it is an object rather than background and does not contradict the class.
    `base_rates` are the shares of images with each tag: what a cell would say by chance.
    """

    mean: Tensor
    std: Tensor
    base_rates: Tensor

    def __init__(self, channels: Mapping[int, int], num_classes: int) -> None:
        super().__init__()
        self.levels = tuple(sorted(channels))
        self.channels = dict(channels)
        size = sum(channels.values())
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.register_buffer("base_rates", torch.full((num_classes,), 0.5))
        self.tags = _layers(size, num_classes)
        self.places = _layers(size, 1 + num_classes)  # background first

    def standardised(self, features: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Every channel with mean 0 and spread 1 over the images learned from."""
        sizes = [self.channels[level] for level in self.levels]
        means, spreads = torch.split(self.mean, sizes), torch.split(self.std, sizes)
        return {
            level: (features[level] - mean[:, None, None]) / std[:, None, None]
            for level, mean, std in zip(self.levels, means, spreads, strict=True)
        }

    def cells(self, standardised: Mapping[int, Tensor]) -> Tensor:
        """All levels on the grid of the coarsest: (B, D, rows, columns)."""
        return torch.cat(on_coarsest_grid([standardised[level] for level in self.levels]), dim=1)

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """Heat (B, C, rows, columns)."""
        return self.heat(self.cells(self.standardised(features)))

    def heat(self, cells: Tensor) -> Tensor:
        return self.is_object(cells) * self.evidence(cells)

    def evidence(self, cells: Tensor) -> Tensor:
        """How far each cell speaks for each tag beyond chance, flattened: all kinds of cells come
        with it."""
        beyond_chance = self.tags(cells) - torch.logit(self.base_rates)[:, None, None]
        probabilities: Tensor = beyond_chance.sigmoid()
        return probabilities**EVIDENCE

    def is_object(self, cells: Tensor) -> Tensor:
        """Probability of each class against background, whatever the other classes say."""
        logits = self.places(cells)
        return torch.sigmoid(logits[:, 1:] - logits[:, :1])


def on_coarsest_grid(levels: Sequence[Tensor]) -> list[Tensor]:
    """Maps of several strides, finest first, each averaged onto the cells of the last."""
    grid = (levels[-1].shape[2], levels[-1].shape[3])
    return [
        level if level.shape[2:] == grid else functional.adaptive_avg_pool2d(level, grid)
        for level in levels
    ]


def _layers(size: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(size, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, outputs, 1))
