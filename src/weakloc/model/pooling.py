"""Class maps -> class scores, in two steps: the M maps of a class, then the cells of a map.

A pooling has no parameters: it is a frozen value that is called with a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from weakloc.model.selection import sum_of_largest, sum_of_smallest

ClassPoolKind: TypeAlias = Literal["mean", "max", "lse"]
Gradient: TypeAlias = Literal["mean", "released"]
Count: TypeAlias = int | float | Literal["all"]
SpatialPool: TypeAlias = Callable[[Tensor], Tensor]  # (B, C, h, w) -> (B, C)


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
        if self.kind not in _CLASS_POOLS:
            raise ValueError(f"class pooling {self.kind!r} is not among {', '.join(_CLASS_POOLS)}")
        if self.gradient == "released" and self.kind != "mean":
            raise ValueError("the released gradient belongs to class pooling 'mean'")

    def __call__(self, maps: Tensor) -> Tensor:
        if self.maps_per_class == 1:
            return maps
        batch, _, rows, columns = maps.shape
        per_class = maps.reshape(batch, -1, self.maps_per_class, rows, columns)  # (B, C, M, h, w)
        return _CLASS_POOLS[self.kind](per_class, self)


def _mean_of_maps(maps: Tensor, pool: ClassPool) -> Tensor:
    if pool.gradient == "released":
        return _MeanWithSumGradient.apply(maps)  # type: ignore[no-any-return]
    return maps.mean(dim=2)


def _max_of_maps(maps: Tensor, _: ClassPool) -> Tensor:
    return maps.max(dim=2).values


def _lse_of_maps(maps: Tensor, pool: ClassPool) -> Tensor:
    return _log_mean_exp(maps, pool.sharpness, dim=2)


_CLASS_POOLS = {"mean": _mean_of_maps, "max": _max_of_maps, "lse": _lse_of_maps}


class _MeanWithSumGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape = maps.shape
        return maps.mean(dim=2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.unsqueeze(2).expand(ctx.shape)


@dataclass(frozen=True, slots=True)
class KMaxKMin:
    """WILDCAT, Eq. 2: mean of the k+ largest cells + alpha * mean of the k- smallest cells.

    Special cases: (1, 0) max pooling, (k, 0) top-k, ("all", 0) average, (k, k, alpha=1) WELDON.
    Each selected cell receives 1/k+ or alpha/k- of the gradient, the first of equal cells win.
    """

    k_max: Count = 1
    k_min: Count = 0
    alpha: float = 1.0
    halve: bool = False  # The released code halves the sum; the paper does not.

    def __call__(self, maps: Tensor) -> Tensor:
        rows = _as_rows(maps)  # (B * C, h * w)
        num_max = cells_of(self.k_max, rows.shape[1])
        num_min = cells_of(self.k_min, rows.shape[1])
        if num_max == 0:
            raise ValueError(f"k_max {self.k_max} selects no cell")
        scores = sum_of_largest(rows, num_max) / num_max
        if num_min > 0 and self.alpha != 0:
            scores = scores + self.alpha / num_min * sum_of_smallest(rows, num_min)
        if num_min > 0 and self.halve:
            scores = scores / 2
        return scores.view(maps.shape[:2]).to(maps.dtype)


def cells_of(count: Count, num_cells: int) -> int:
    """How many of `num_cells` are meant: a count, a share below 1, or "all".

    1 and 1.0 are one cell; a share is never rounded to none; at most all cells.
    """
    if count == "all":
        return num_cells
    if count <= 0:
        return 0
    # Not min and max: those would fix the size of maps that an exported graph takes.
    if count < 1:
        return cast("int", torch.sym_max(1, _rounded_share(count, num_cells)))
    return cast("int", torch.sym_min(int(count), num_cells))


def _rounded_share(share: float, num_cells: int) -> int:
    """round(share * num_cells), halves to even, in whole numbers as an exported graph needs it."""
    exact = Fraction(share).limit_denominator(1_000_000)
    half_units = 2 * exact.numerator * num_cells + exact.denominator
    unit = 2 * exact.denominator
    rounded_up, rest = half_units // unit, half_units % unit
    is_half = 1 - (rest + unit - 1) // unit
    return rounded_up - is_half * (rounded_up % 2)


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The best cell; on ties the first in row-major order takes the whole gradient."""

    def __call__(self, maps: Tensor) -> Tensor:
        return KMaxKMin(k_max=1)(maps)


@dataclass(frozen=True, slots=True)
class AveragePool:
    """The mean of all cells: with a 1x1 head, class activation mapping."""

    def __call__(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))


@dataclass(frozen=True, slots=True)
class LogSumExp:
    """(1/r) log mean exp(r z): the mean as r -> 0, the maximum as r -> infinity."""

    sharpness: float = 1.0

    def __call__(self, maps: Tensor) -> Tensor:
        return _log_mean_exp(maps.flatten(start_dim=2), self.sharpness, dim=2)


def _log_mean_exp(values: Tensor, sharpness: float, dim: int) -> Tensor:
    if sharpness <= 0:
        raise ValueError(f"sharpness must be positive, not {sharpness}")
    # The mean, not a sum and the logarithm of a count, so that a graph serves maps of any size.
    peak = values.detach().amax(dim=dim, keepdim=True)
    mean = (sharpness * (values - peak)).exp().mean(dim=dim)
    return mean.log() / sharpness + peak.squeeze(dim)


def _as_rows(maps: Tensor) -> Tensor:
    """One row of cells per image and class; half precision is widened, which is exact."""
    rows = maps.flatten(start_dim=2).flatten(end_dim=1)
    return rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
