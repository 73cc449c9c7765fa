"""Images -> features -> class maps -> class scores: one network for all four methods.

A head gives class maps (channel c * M + m is map m of class c), or scores a fixed grid.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, Self, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from weakloc.model.backbones import Backbone
from weakloc.model.pooling import SpatialPool, log_mean_exp


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
        channels = reduced_channels or in_channels
        if reduced_channels:
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
        return self.score_narrow(self.reduce(features))

    def score_narrow(self, narrowed: Tensor) -> Tensor:
        """The same of what `reduce` gives, which is done once an image, not once a window."""
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


ClassPoolKind: TypeAlias = Literal["mean", "max", "lse"]
Gradient: TypeAlias = Literal["mean", "released"]


@dataclass(frozen=True, slots=True)
class ClassPool:
    """(B, C * M, h, w) -> (B, C, h, w); class c owns the channels c * M to c * M + M - 1.

    `gradient="released"` is the backward pass of WILDCAT's released code: its forward divides the
    sum by M, its backward does not, so the backbone learns M times faster (kind "mean" only).
    """

    maps_per_class: int = 1
    kind: ClassPoolKind = "mean"
    gradient: Gradient = "mean"
    sharpness: float = 1.0  # of kind "lse"

    def __post_init__(self) -> None:
        if self.kind not in (kinds := get_args(ClassPoolKind)):
            raise ValueError(f"class pooling {self.kind!r} is not among {', '.join(kinds)}")
        if self.gradient == "released" and self.kind != "mean":
            raise ValueError("the released gradient belongs to class pooling 'mean'")

    def __call__(self, maps: Tensor) -> Tensor:
        if self.maps_per_class == 1:
            return maps
        batch, _, rows, columns = maps.shape
        per_class = maps.reshape(batch, -1, self.maps_per_class, rows, columns)  # (B, C, M, h, w)
        if self.kind == "max":
            return per_class.max(dim=2).values
        if self.kind == "lse":
            return log_mean_exp(per_class, self.sharpness, dim=2)
        mean = per_class.mean(dim=2)
        if self.gradient == "released":
            total = per_class.sum(dim=2)
            return mean.detach() + (total - total.detach())  # adds exactly 0, and its gradient
        return mean


Order: TypeAlias = Literal["head_then_pool", "pool_then_head"]


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """Logits of the C classes and, last, of what every image shows, where a network has it;
    `levels` are the feature maps by stride: the last, and those that were asked for."""

    all_scores: Tensor  # (B, C) or (B, C + 1)
    all_maps: Tensor  # as many (rows, columns)
    num_classes: int
    levels: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def scores(self) -> Tensor:
        return self.all_scores[:, : self.num_classes]

    @property
    def maps(self) -> Tensor:
        return self.all_maps[:, : self.num_classes]


class LocalizationNetwork(nn.Module):
    """Backbone -> head -> class-wise pooling -> spatial pooling.

    `order="pool_then_head"` pools every feature map first and classifies the pooled vector, as
    ResNet does; its maps are the head applied to every cell (class activation maps).
    With a `GridHead` the scores come from the whole grid, the maps are the scores of single cells.
    `has_background`: the last of the head's classes is one that every image shows.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: TransferHead | AdaptationHead | GridHead,
        class_pool: ClassPool,
        spatial_pool: SpatialPool,
        *,
        order: Order = "head_then_pool",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.class_pool = class_pool
        self.spatial_pool = spatial_pool
        self.order: Order = order
        self.has_background = False
        self.backbone_is_frozen = False

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> NetworkOutput:
        features = self.backbone.trunk(images, levels)
        return replace(self.from_features(features[self.backbone.stride]), levels=features)

    def from_features(self, features: Tensor) -> NetworkOutput:
        """What `forward` gives for images whose backbone features are at hand."""
        maps = self.class_pool(self.head(features))  # (B, C, rows, columns)
        if isinstance(self.head, GridHead):
            scores = self.head.score_grid(features)
        elif self.order == "head_then_pool":
            scores = self.spatial_pool(maps)
        else:
            pooled = self.spatial_pool(features)[:, :, None, None]  # (B, D, 1, 1)
            scores = self.class_pool(self.head(pooled)).flatten(start_dim=1)
        return NetworkOutput(scores, maps, scores.shape[1] - self.has_background)

    def freeze_backbone(self) -> None:
        """No gradient and no new batch statistics in the backbone, whatever mode is set later."""
        self.backbone_is_frozen = True
        self.backbone.requires_grad_(requires_grad=False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.backbone_is_frozen:
            self.backbone.eval()
        return self

    def new_parameters(self) -> set[nn.Parameter]:
        """Those of the head, without the layers that a `GridHead` took over from a classifier."""
        adopted = set(self.head.adopted_parameters()) if isinstance(self.head, GridHead) else set()
        return {*self.head.parameters()} - adopted


Module = TypeVar("Module", bound=nn.Module)


def fold_batch_norms(network: Module, *, side: int = 64) -> Module:
    """A copy in evaluation mode without the batch norms that follow a convolution.

    What follows what is read from the order of registration and then checked: if the copy
    answers differently on a probe of `side` pixels, it is returned unfolded.
    """
    plain = copy.deepcopy(network).eval()
    folded = copy.deepcopy(plain)
    for parent, first, second in list(_pairs(folded)):
        norm = getattr(parent, second)
        setattr(parent, first, fuse_conv_bn_eval(getattr(parent, first), norm))
        # timm's batch norms carry their activation with them.
        setattr(parent, second, getattr(norm, "act", None) or nn.Identity())
    return folded if _agree(plain, folded, side) else plain


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """(parent, name of a convolution, name of the batch norm registered right after it)."""
    for parent in network.modules():
        children = list(parent.named_children())
        for (first, conv), (second, norm) in pairwise(children):
            if (
                isinstance(conv, nn.Conv2d)
                and isinstance(norm, nn.BatchNorm2d)
                and conv.out_channels == norm.num_features
            ):
                yield parent, first, second


@torch.inference_mode()
def _agree(plain: nn.Module, folded: nn.Module, side: int) -> bool:
    parameter = next(plain.parameters())
    probe = torch.linspace(-2, 2, 3 * side * side, device=parameter.device, dtype=parameter.dtype)
    try:
        answers = [net(probe.view(1, 3, side, side)) for net in (plain, folded)]
        before, after = (getattr(answer, "maps", answer) for answer in answers)
    except (RuntimeError, ValueError):  # an input too small for this network proves nothing
        return False
    return bool((before - after).abs().max() <= 1e-4 * (before.abs().max() + 1e-6))
