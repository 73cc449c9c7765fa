"""Class maps -> class scores: the cells of a map become one number.

A pooling has no parameters: it is a frozen value that is called with a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable


def sum_of_largest(rows: Tensor, count: int) -> Tensor:
    """Sum of the `count` largest values of every row: (R, n) -> (R,).

    The gradient reaches exactly `count` cells a row; among equal values the first ones win.
    """
    if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return rows.topk(count, dim=1).values.sum(dim=1)
    if count == rows.shape[1]:
        return rows.sum(dim=1)
    if count > 1 and rows.device.type == "cpu" and rows.dtype == torch.float32:
        return _KernelSum.apply(rows, count)  # type: ignore[no-any-return]
    return _TopkSum.apply(rows, count)  # type: ignore[no-any-return]


class _TopkSum(torch.autograd.Function):
    """Pure torch, any device and dtype."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int) -> Tensor:
        ctx.num_cells = rows.shape[1]
        if count == 1:  # `torch.max` over a dimension promises the first of equal values
            largest, chosen = rows.max(dim=1)
            ctx.save_for_backward(chosen[:, None])
            return largest
        values, chosen = rows.topk(count, dim=1, sorted=False)
        border = values.amin(dim=1, keepdim=True)
        tied = (rows >= border).sum(dim=1) > count
        if bool(tied.any()):
            # Only here may topk have taken another of the equal cells than the first ones.
            stable = rows[tied].argsort(dim=1, descending=True, stable=True)
            chosen[tied] = stable[:, :count]
        ctx.save_for_backward(chosen)
        return values.sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (chosen,) = ctx.saved_tensors
        result = gradient.new_zeros(len(chosen), ctx.num_cells)
        return result.scatter_(1, chosen, gradient[:, None].expand_as(chosen)), None


class _KernelSum(torch.autograd.Function):
    """float32 on the CPU: find the k-th value by bisection, never sort."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int) -> Tensor:
        rows = rows.detach().contiguous()
        sums = np.empty(len(rows), np.float32)
        borders = np.empty(len(rows), np.float32)
        tied = np.empty(len(rows), np.int32)
        _sum_rows(rows.numpy(), count, sums, borders, tied)
        ctx.save_for_backward(rows, torch.from_numpy(borders), torch.from_numpy(tied))
        return torch.from_numpy(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows, borders, tied = ctx.saved_tensors
        result = torch.empty_like(rows)
        upstream = gradient.contiguous().numpy()
        _spread_gradient(rows.numpy(), borders.numpy(), tied.numpy(), upstream, result.numpy())
        return result, None


# Numba widens int32 sums to int64, which quarters the speed: each sum is cast back at once.


@numba.njit(cache=True, nogil=True)
def _ordered_key(bits: Any) -> Any:
    """An int32 that orders like the float32 with these bits; -0 equals 0 and NaN is largest."""
    key = np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    key = np.int32(key + np.int32(key == np.int32(-1)))
    is_nan = np.int32(bits & np.int32(0x7FFFFFFF)) > np.int32(0x7F800000)
    return np.int32(0x7FFFFFFF) if is_nan else key


@numba.njit(cache=True, nogil=True)
def _kth_largest_key(keys: NDArray[np.int32], count: int) -> Any:
    """A key with at least `count` keys at or above it and fewer than `count` above it."""
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    for cell in range(len(keys)):
        low, high = min(low, keys[cell]), max(high, keys[cell])
    while low < high:
        middle = np.int32((np.int64(low) + np.int64(high) + 1) >> 1)
        at_or_above = np.int32(0)
        for cell in range(len(keys)):
            at_or_above = np.int32(at_or_above + np.int32(keys[cell] >= middle))
        if at_or_above == count:
            return middle
        if at_or_above > count:
            low = middle
        else:
            high = np.int32(middle - 1)
    return low


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sum_rows(
    rows: NDArray[np.float32],
    count: int,
    sums: NDArray[np.float32],
    borders: NDArray[np.float32],
    num_tied: NDArray[np.int32],
) -> None:
    """Fill in, for every row: the sum, the value at the border, how many cells at it count."""
    bits, border_keys = rows.view(np.int32), borders.view(np.int32)
    keys = np.empty(rows.shape[1], np.int32)
    for row in range(rows.shape[0]):
        for cell in range(rows.shape[1]):
            keys[cell] = _ordered_key(bits[row, cell])
        key = _kth_largest_key(keys, count)
        border_keys[row] = key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF))
        border = borders[row]
        total, above = np.float32(0), np.int32(0)
        for cell in range(rows.shape[1]):
            is_above = not (rows[row, cell] <= border)  # so that NaN is, too
            total = np.float32(total + (rows[row, cell] if is_above else np.float32(0)))
            above = np.int32(above + np.int32(is_above))
        num_tied[row] = count - above
        sums[row] = total + (np.float32(count - above) * border if count > above else 0)


@numba.njit(cache=True, nogil=True)
def _spread_gradient(
    rows: NDArray[np.float32],
    borders: NDArray[np.float32],
    num_tied: NDArray[np.int32],
    upstream: NDArray[np.float32],
    result: NDArray[np.float32],
) -> None:
    """Each chosen cell of a row receives the row's gradient, every other cell zero."""
    for row in range(rows.shape[0]):
        gradient, border = upstream[row], borders[row]
        for cell in range(rows.shape[1]):
            is_above = not (rows[row, cell] <= border)
            result[row, cell] = gradient if is_above else np.float32(0)
        left = num_tied[row]
        for cell in range(rows.shape[1]):
            if left <= 0:
                break
            if rows[row, cell] == border:
                result[row, cell] = gradient
                left -= 1


Count: TypeAlias = int | float | Literal["all"]
SpatialPool: TypeAlias = Callable[[Tensor], Tensor]  # (B, C, h, w) -> (B, C)


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
        rows = maps.flatten(start_dim=2).flatten(end_dim=1)  # (B * C, h * w)
        if rows.dtype in (torch.bfloat16, torch.float16):
            rows = rows.float()  # exact
        num_max = cells_of(self.k_max, rows.shape[1])
        num_min = cells_of(self.k_min, rows.shape[1])
        if num_max == 0:
            raise ValueError(f"k_max {self.k_max} selects no cell")
        scores = sum_of_largest(rows, num_max) / num_max
        if num_min > 0 and self.alpha != 0:
            smallest = -sum_of_largest(-rows, num_min)
            scores = scores + self.alpha / num_min * smallest
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
class AveragePool:
    """The mean of all cells: with a 1x1 head, class activation mapping."""

    def __call__(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))


@dataclass(frozen=True, slots=True)
class LogSumExp:
    """(1/r) log mean exp(r z): the mean as r -> 0, the maximum as r -> infinity."""

    sharpness: float = 1.0

    def __call__(self, maps: Tensor) -> Tensor:
        return log_mean_exp(maps.flatten(start_dim=2), self.sharpness, dim=2)


def log_mean_exp(values: Tensor, sharpness: float, dim: int) -> Tensor:
    if sharpness <= 0:
        raise ValueError(f"sharpness must be positive, not {sharpness}")
    # The mean, not a sum and the logarithm of a count, so that a graph serves maps of any size.
    peak = values.detach().amax(dim=dim, keepdim=True)
    mean = (sharpness * (values - peak)).exp().mean(dim=dim)
    return mean.log() / sharpness + peak.squeeze(dim)
