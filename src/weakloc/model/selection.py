"""Which cells of a map are its k largest or k smallest, ties settled in row-major order.

Rows of cells in, sums and gradients out. Two implementations of one definition: a stable sort
would pick the same cells. On the CPU a compiled search for the k-th value does the work; elsewhere,
and while a graph is recorded, `torch.topk` does.
"""

from __future__ import annotations

from typing import Any

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
    if _is_recording():
        return rows.topk(count, dim=1).values.sum(dim=1)
    if count == rows.shape[1]:
        return rows.sum(dim=1)
    if count == 1:
        return _Largest.apply(rows)  # type: ignore[no-any-return]
    if rows.device.type == "cpu" and rows.dtype == torch.float32:
        return _KernelSum.apply(rows, count)  # type: ignore[no-any-return]
    return _TopkSum.apply(rows, count)  # type: ignore[no-any-return]


def sum_of_smallest(rows: Tensor, count: int) -> Tensor:
    """Sum of the `count` smallest values of every row, with the same rule for ties."""
    return -sum_of_largest(-rows, count)


def _is_recording() -> bool:
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


class _Largest(torch.autograd.Function):
    """The maximum; `torch.max` over a dimension promises the first of equal values."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        values, chosen = rows.max(dim=1)
        ctx.save_for_backward(chosen)
        ctx.num_cells = rows.shape[1]
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (chosen,) = ctx.saved_tensors
        result = gradient.new_zeros(len(chosen), ctx.num_cells)
        return result.scatter_(1, chosen[:, None], gradient[:, None])


class _TopkSum(torch.autograd.Function):
    """Pure torch, any device and dtype."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int) -> Tensor:
        values, chosen = rows.topk(count, dim=1, sorted=False)
        border = values.amin(dim=1, keepdim=True)
        tied = (rows >= border).sum(dim=1) > count
        if bool(tied.any()):
            # Only here may topk have taken another of the equal cells than the first ones.
            stable = rows[tied].argsort(dim=1, descending=True, stable=True)
            chosen[tied] = stable[:, :count]
        ctx.save_for_backward(chosen)
        ctx.num_cells = rows.shape[1]
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
