"""Choosing the k largest cells, against a stable sort written here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from weakloc.model.pooling import sum_of_largest


def stable_choice(rows: Tensor, count: int, *, largest: bool) -> Tensor:
    """A mask of exactly `count` cells a row; among equal ones the first."""
    order = rows.argsort(dim=1, descending=largest, stable=True)
    return torch.zeros_like(rows).scatter_(1, order[:, :count], 1.0)


def chosen_by(function, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    leaf = rows.clone().requires_grad_()
    sums = function(leaf, count)
    sums.sum().backward()
    return sums.detach(), leaf.grad


def ties(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(60, 77, generator=generator)
    return {
        "continuous": rows,
        "relu zeros": rows.relu(),
        "few values": rows.round(),
        "constant": torch.full_like(rows, -2.5),
        "signed zeros": torch.where(rows > 0.3, rows, torch.where(rows > 0, 0.0, -0.0)),
        "infinities": torch.where(rows > 1.5, torch.inf, torch.where(rows < -1, -torch.inf, rows)),
        "tiny": rows * 1e-42,
    }[kind]


def sum_of_smallest(rows: torch.Tensor, count: int) -> torch.Tensor:
    return -sum_of_largest(-rows, count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 15, 40, 76, 77])
@pytest.mark.parametrize(
    "kind",
    ["continuous", "relu zeros", "few values", "constant", "signed zeros", "infinities", "tiny"],
)
def test_exactly_the_cells_of_a_stable_sort_are_chosen(kind, count, dtype) -> None:
    rows = ties(kind).to(dtype)
    for function, largest in ((sum_of_largest, True), (sum_of_smallest, False)):
        sums, gradient = chosen_by(function, rows, count)
        wanted = stable_choice(rows, count, largest=largest)
        assert torch.equal(gradient, wanted)
        masked = torch.where(wanted > 0, rows, 0.0).double().sum(dim=1)
        torch.testing.assert_close(sums.double(), masked, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_not_a_number_reaches_the_sum_instead_of_vanishing(dtype) -> None:
    for bad in (torch.nan, -torch.nan):
        rows = torch.arange(20.0, dtype=dtype).view(2, 10).clone()
        rows[1, 3] = bad
        assert sum_of_largest(rows, 3).isnan().tolist() == [False, True]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_gradients_agree_with_finite_differences(count: int) -> None:
    rows = torch.randperm(27, generator=torch.Generator().manual_seed(0)).double().view(3, 9)
    rows.requires_grad_()
    assert gradcheck(lambda leaf: sum_of_largest(leaf, count), rows)
    assert gradcheck(lambda leaf: sum_of_smallest(leaf, count), rows)


def test_rows_in_any_memory_layout_give_the_same_choice() -> None:
    rows = ties("few values")
    sums, gradient = chosen_by(sum_of_largest, rows, 15)
    strided = rows.t().contiguous().t()
    assert not strided.is_contiguous()
    strided_sums, strided_gradient = chosen_by(sum_of_largest, strided, 15)
    assert torch.equal(sums, strided_sums)
    assert torch.equal(gradient, strided_gradient)


def test_each_row_scales_its_own_gradient() -> None:
    rows = ties("continuous").requires_grad_()
    factors = torch.arange(60.0)
    (sum_of_largest(rows, 7) * factors).sum().backward()
    assert torch.equal(rows.grad.sum(dim=1), 7 * factors)
