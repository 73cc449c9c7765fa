"""Batch norms folded into the convolutions before them: the same function, fewer passes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
        _fold(parent, first, second)
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


def _fold(parent: nn.Module, first: str, second: str) -> None:
    norm = getattr(parent, second)
    setattr(parent, first, fuse_conv_bn_eval(getattr(parent, first), norm))
    # timm's batch norms carry their activation with them.
    setattr(parent, second, getattr(norm, "act", None) or nn.Identity())


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
