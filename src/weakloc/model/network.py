"""Images -> features -> class maps -> class scores: one network for all four methods."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from weakloc.geometry import GridTransform
from weakloc.model.backbones import Backbone
from weakloc.model.heads import AdaptationHead, GridHead, TransferHead
from weakloc.model.pooling import ClassPool, SpatialPool

Order: TypeAlias = Literal["head_then_pool", "pool_then_head"]
Decayed: TypeAlias = Literal["all", "kernels"]


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    scores: Tensor  # (B, C) logits
    maps: Tensor  # (B, C, rows, columns) logits
    features: Mapping[int, Tensor]  # stride -> (B, D, rows, columns)


class LocalizationNetwork(nn.Module):
    """Backbone -> head -> class-wise pooling -> spatial pooling.

    `order="pool_then_head"` pools every feature map first and classifies the pooled vector, as
    ResNet does; its maps are the head applied to every cell (class activation maps).
    With a `GridHead` the scores come from the whole grid, the maps are the scores of single cells.
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
        self.backbone_is_frozen = False

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> NetworkOutput:
        """`levels` asks for further feature maps by their stride."""
        features = self.backbone.forward_levels(images, levels)
        output = self.from_features(features[self.backbone.stride])
        return NetworkOutput(output.scores, output.maps, features)

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
        return NetworkOutput(scores, maps, {self.backbone.stride: features})

    def cell_transform(
        self, input_transform: GridTransform, rows: int, columns: int
    ) -> GridTransform:
        """From image pixels to the cells of this network's maps, given the way to its input."""
        return self.backbone.geometry.cell_transform(input_transform, rows, columns)

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

    def parameter_groups(
        self,
        *,
        learning_rate: float,
        backbone_factor: float,
        weight_decay: float,
        decayed: Decayed = "all",
    ) -> list[dict[str, Any]]:
        """Optimiser groups: the head learns at the rate, the backbone at the rate times the factor.

        Layers that a `GridHead` took over from a classifier learn like the backbone.
        `decayed="kernels"` spares biases and batch-norm parameters the weight decay.
        """
        rates = {"backbone": learning_rate * backbone_factor, "head": learning_rate}
        groups: dict[tuple[str, float], list[nn.Parameter]] = {}
        for part, parameter in self._trained_parameters():
            decay = weight_decay if decayed == "all" or parameter.ndim > 1 else 0.0
            groups.setdefault((part, decay), []).append(parameter)
        return [
            {"name": part, "params": parameters, "lr": rates[part], "weight_decay": decay}
            for (part, decay), parameters in groups.items()
        ]

    def _trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        adopted: set[nn.Parameter] = set()
        if isinstance(self.head, GridHead):
            adopted.update(self.head.adopted_parameters())
        for part, module in (("backbone", self.backbone), ("head", self.head)):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    yield "backbone" if parameter in adopted else part, parameter


Module = TypeVar("Module", bound=nn.Module)


def fold_batch_norms(network: Module, *, side: int = 64) -> Module:
    """A copy in evaluation mode without the batch norms that follow a convolution.

    What follows what is read from the order of registration and then checked: if the copy
    answers differently on a probe of `side` pixels, it is returned unfolded.
    """
    plain = copy.deepcopy(network).eval()
    folded = copy.deepcopy(plain)
    pairs = list(_pairs(folded))
    for parent, first, second in pairs:
        norm = getattr(parent, second)
        setattr(parent, first, fuse_conv_bn_eval(getattr(parent, first), norm))
        # timm's batch norms carry their activation with them.
        setattr(parent, second, getattr(norm, "act", None) or nn.Identity())
    return folded if pairs and _agree(plain, folded, side) else plain


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """(parent, name of a convolution, name of the batch norm registered right after it)."""
    for parent in network.modules():
        children = list(parent.named_children())
        for (first, conv), (second, norm) in itertools.pairwise(children):
            if (
                type(conv) is nn.Conv2d
                and isinstance(norm, nn.BatchNorm2d)
                and conv.out_channels == norm.num_features
            ):
                yield parent, first, second


@torch.inference_mode()
def _agree(plain: nn.Module, folded: nn.Module, side: int) -> bool:
    parameter = next(plain.parameters())
    probe = torch.linspace(-2, 2, 3 * side * side, device=parameter.device, dtype=parameter.dtype)
    try:
        before, after = (net(probe.view(1, 3, side, side)).maps for net in (plain, folded))
    except (RuntimeError, ValueError):  # an input too small for this network proves nothing
        return False
    scale = float(before.abs().max()) + 1e-6
    return bool((before - after).abs().max() <= 1e-4 * scale)
