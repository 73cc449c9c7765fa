"""What is learned on early, fine feature maps: which cells are the object, and boxes.

Class maps say which cells betray the class. Those need not be the object's: deep cells see nearly
the whole image, and the zeros around it leave their trace in all of them. Here every cell of the
fine levels is judged alone, and the image goes on in the mirror beyond its border.

A detector needs no threshold on any map: every cell says of each class whether it lies in the
middle of an object, and how far an object reaches from it to the left, up, right and down (as in
FCOS, Tian et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from weakloc.model.backbones import Backbone
from weakloc.model.network import LocalizationNetwork, NetworkOutput, fold_batch_norms
from weakloc.model.trunk import CellGeometry

FINE_STRIDES, CELL_STRIDES = (4, 8, 16), (4, 8)
MARGIN = 40  # pixels of mirrored image on each side: cells of stride 8 see 37 beyond their own
_WIDTH = 96
_SMALLEST_SPREAD = 1e-6
EVIDENCE = 0.25  # power of the probability that a cell betrays the tag: the place decides
COMMON = 0.75  # power of a cell's share of what the images of a class have in common


def fine_levels(levels: Iterable[int], strides: Sequence[int] = FINE_STRIDES) -> tuple[int, ...]:
    """Those of a backbone's levels that have one of the strides, else the finest it has."""
    levels = sorted(levels)
    return tuple(level for level in levels if level in strides) or (levels[0],)


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


def read_finely(network: LocalizationNetwork) -> tuple[LocalizationNetwork, dict[int, int]]:
    """A copy of the network made fast for reading, and the channels of each of its fine levels."""
    side = network.backbone.probe_side
    network = fold_batch_norms(network, side=side).to(memory_format=torch.channels_last)
    probe = torch.zeros(1, 3, side, side, device=next(network.parameters()).device)
    with torch.no_grad():
        fine = fine_features(network.backbone, probe, fine_levels(network.backbone.level_strides))
    return network, {level: values.shape[1] for level, values in fine.items()}


class FineLayers(nn.Module):
    """What is learned on fine features, each channel with mean 0 and spread 1 over the images."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: Mapping[int, int], strides: Sequence[int]) -> None:
        super().__init__()
        self.levels = fine_levels(channels, strides)
        self.channels = dict(channels)
        size = sum(channels[level] for level in self.levels)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @property
    def cell_geometry(self) -> CellGeometry:
        """The cells tile the input from its upper left corner, whatever those of a class map do."""
        stride = self.levels[-1]
        return CellGeometry(stride, stride / 2, float(stride))

    def cells(self, features: Mapping[int, Tensor]) -> Tensor:
        """The levels averaged onto the cells of the last: (B, D, rows, columns)."""
        *finer, last = self.levels
        pooled = [
            functional.avg_pool2d(
                features[level], last // level, ceil_mode=True, count_include_pad=False
            )
            for level in finer
        ]
        return torch.cat([*pooled, features[last]], dim=1)

    def standardised(self, features: Mapping[int, Tensor]) -> Tensor:
        return (self.cells(features) - self.mean[:, None, None]) / self.std[:, None, None]

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Takes mean and spread from the cells (N, D) of all parts."""
        total = torch.zeros(len(self.mean), dtype=torch.float64)
        squares, count = torch.zeros_like(total), 0
        for part in parts:
            total += part.double().sum(0)
            squares += part.double().square().sum(0)
            count += len(part)
        mean = total / count
        spread = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(spread.clamp(min=_SMALLEST_SPREAD))


def without_border(features: Tensor) -> Tensor:
    """The outermost cells, which show the zeros around the image, repeat their neighbours."""
    if min(features.shape[2:]) < 3:
        return features
    return functional.pad(features[:, :, 1:-1, 1:-1], (1, 1, 1, 1), mode="replicate")


class CellClassifier(FineLayers):
    """Fine features -> heat of every class in [0, 1].

    `tags` says which class a cell betrays, `places` whether it is a class's object or background.
    A cell is hot where it is an object rather than background and does not contradict the class.
    `base_rates` are the shares of images with each tag: what a cell would say by chance. `axes` say
    of a deeper level, `common_level`, where the images of a class have something in common.
    """

    base_rates: Tensor
    axes: Tensor  # (C, channels of the common level)

    def __init__(self, channels: Mapping[int, int], num_classes: int) -> None:
        super().__init__(channels, CELL_STRIDES)
        size = len(self.mean)
        self.common_level = max(channels)
        self.register_buffer("axes", torch.zeros(num_classes, channels[self.common_level]))
        self.register_buffer("base_rates", torch.full((num_classes,), 0.5))
        self.tags = _layers(size, num_classes)
        self.places = _layers(size, 1 + num_classes)  # background first

    def forward(
        self, features: Mapping[int, Tensor], deeper: Tensor, input_size: Sequence[int]
    ) -> Tensor:
        """Heat (B, C, rows, columns) of an input of (height, width), and of its common level as the
        network itself sees it."""
        cells, level = self.standardised(features), self.common_level
        maps = functional.conv2d(without_border(deeper), self.axes[:, :, None, None])
        tiles = CellGeometry(level, "uniform", float(level))
        in_common = self.shares_of_range(maps, tiles, input_size, cells.shape[2:])
        return self.is_object(cells) * self.evidence(cells) * in_common**COMMON

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

    def shares_of_range(
        self, maps: Tensor, geometry: CellGeometry, input_size: Sequence[int], grid: Sequence[int]
    ) -> Tensor:
        """Each class map (..., rows, columns) from 0 to 1 over its own range, on a grid of cells;
        1 everywhere where it is even. Sizes are (height, width)."""
        low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
        span = high - low
        has_range = (span > 0) & torch.isfinite(span)
        shares = torch.where(has_range, (maps - low) / torch.where(has_range, span, 1.0), 1.0)
        weights = []  # bilinear between the centres of the map's cells, replicated beyond them
        for count, side, cells in zip(maps.shape[-2:], input_size, grid, strict=True):
            odd = 2 * torch.arange(cells, device=maps.device) + 1
            doubled = odd * self.levels[-1]  # twice the centres, in pixels of the input
            if geometry.first_center == "uniform":
                positions = (doubled * count - side) / (2 * side)
            else:
                positions = (doubled - 2 * geometry.first_center) / (2 * geometry.stride)
            numbers = torch.arange(count, device=maps.device)
            distance = (positions.clamp(0, count - 1)[:, None] - numbers).abs()
            weights.append((1 - distance).clamp(min=0))
        return weights[0] @ shares @ weights[1].T


def _layers(size: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(size, _WIDTH, 1), nn.ReLU(), nn.Conv2d(_WIDTH, outputs, 1))


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
        super().__init__(channels, FINE_STRIDES)
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


class CellReading(nn.Module):
    """What cells say of images, with a weak say of the class maps; with a detector also boxes."""

    def __init__(
        self, cells: CellClassifier, detector: Detector | None, geometry: CellGeometry
    ) -> None:
        super().__init__()
        self.cells, self.detector, self.geometry = cells, detector, geometry
        further = () if detector is None else detector.levels
        self.levels = tuple(sorted({*cells.levels, *further}))

    def forward(
        self, features: Mapping[int, Tensor], output: NetworkOutput, input_size: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Heat (B, C, rows, columns) of an input of (height, width); with a detector boxes
        (B, N, 4) in its pixels, and the probability (B, C, N) that each of them holds an object of
        a class. The output has the common level of the cells."""
        features = {level: values.float() for level, values in features.items()}
        heat = self.cells(features, output.levels[self.cells.common_level].float(), input_size)
        maps = output.maps.float()
        shares = self.cells.shares_of_range(maps, self.geometry, input_size, heat.shape[2:])
        heat = heat * shares**EVIDENCE
        if self.detector is None:
            return (heat,)
        proposed = self.detector(features)
        boxes = proposed.boxes.flatten(2).transpose(1, 2)
        return heat, boxes, proposed.logits.flatten(2).sigmoid()
