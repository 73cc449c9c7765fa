"""What every family of trunks tells the backbone that wraps it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from weakloc.geometry import GridTransform
from weakloc.model.backbone_spec import Statistics

IMAGENET_MEAN: Statistics = (0.485, 0.456, 0.406)
IMAGENET_STD: Statistics = (0.229, 0.224, 0.225)
FirstCenter: TypeAlias = float | Literal["uniform"]


@dataclass(frozen=True, slots=True)
class TrunkFacts:
    """Strides and centres as in `CellGeometry`."""

    stride: int
    out_channels: int
    level_strides: tuple[int, ...]
    mean: Statistics = IMAGENET_MEAN
    std: Statistics = IMAGENET_STD
    input_multiple: int = 1
    first_center: FirstCenter = "uniform"
    window: float | None = None  # None: the stride


@dataclass(frozen=True)
class CellGeometry:
    """Where the cells of a map lie, in pixels of the network's input.

    Cell (0, 0) is centred at `first_center` both ways, neighbours are `stride` apart, each stands
    for a square of `window`. "uniform": the cells tile the input, whatever its size.
    """

    stride: int
    first_center: FirstCenter
    window: float

    def cell_transform(
        self, input_transform: GridTransform, rows: int, columns: int
    ) -> GridTransform:
        """From image pixels to the cells of a map, given the way to the network's input."""
        if self.first_center == "uniform":
            return input_transform.resize((float(columns), float(rows)))
        return input_transform.to_cells(
            (columns, rows), stride=self.stride, first_center=self.first_center, window=self.window
        )


class Trunk(nn.Module, ABC):
    """Images -> feature maps by stride; the last level is always among them."""

    facts: TrunkFacts
    is_pretrained = False
    pretrained_layers: tuple[nn.Linear, ...] = ()  # fully connected ones, for a fixed-grid head

    @abstractmethod
    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]: ...

    def early(self, images: Tensor, levels: Sequence[int]) -> dict[int, Tensor]:
        """These levels alone; a trunk that can stops after the last of them."""
        features = self(images, levels)
        return {level: features[level] for level in levels}
