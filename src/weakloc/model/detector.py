"""Boxes straight from fine feature maps, without a threshold on any map.

Every cell says of each class whether it lies in the middle of an object, and how far an object
reaches from it to the left, up, right and down (as in FCOS, Tian et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from weakloc.model.cell_classifier import FineLayers

DETECTOR_STRIDES = (4, 8, 16)
_WIDTH = 96
_DILATIONS = (1, 2, 3)
_USUAL_REACH = 0.25  # of the longer side: what a cell says before it has learned anything


class CellBoxes(NamedTuple):
    """What the cells of a batch of images propose."""

    logits: Tensor  # (B, C, rows, columns): lies in the middle of an object
    boxes: Tensor  # (B, 4, rows, columns): left, top, right, bottom in pixels of the input


class Detector(FineLayers):
    """Fine features -> a box from every cell, and for each class how likely it holds an object.

    `reach` is the longer side of the images learned from, in pixels.
    """

    reach: Tensor

    def __init__(self, channels: Mapping[int, int], num_classes: int) -> None:
        super().__init__(channels)
        self.register_buffer("reach", torch.ones(()))
        self.entry = nn.Conv2d(len(self.mean), _WIDTH, 1)
        self.around = nn.ModuleList(
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=dilation, dilation=dilation)
            for dilation in _DILATIONS
        )
        self.middle = nn.Conv2d(_WIDTH, num_classes, 1)
        self.edges = nn.Conv2d(_WIDTH, 4, 1)

    def forward(self, features: Mapping[int, Tensor]) -> CellBoxes:
        return self.propose(self.standardised(features))

    def propose(self, cells: Tensor) -> CellBoxes:
        """Of cells (B, D, rows, columns) that are standardised already."""
        hidden = functional.relu(self.entry(cells))
        for layer in self.around:
            hidden = hidden + functional.relu(layer(hidden))
        distances = functional.softplus(self.edges(hidden)) * (_USUAL_REACH * self.reach)
        x, y = cell_middles(cells.shape[2:], self.levels[-1], device=cells.device)
        left, top, right, bottom = distances.unbind(1)
        boxes = torch.stack([x - left, y - top, x + right, y + bottom], dim=1)
        return CellBoxes(self.middle(hidden), boxes)


def cell_middles(
    grid: Sequence[int], stride: int, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Of (rows, columns), in pixels of the input: x (1, columns) and y (rows, 1)."""
    rows, columns = ((torch.arange(count, device=device) + 0.5) * stride for count in grid)
    return columns[None, :], rows[:, None]
