"""Class maps -> class scores, in every dtype and memory layout."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from weakloc.model.network import ClassPool
from weakloc.model.pooling import AveragePool, KMaxKMin, LogSumExp

POOLS = [
    KMaxKMin(),
    AveragePool(),
    KMaxKMin(0.3),
    KMaxKMin(0.2, 0.2, 0.7),
    KMaxKMin(8, 9, 1.0),
    LogSumExp(2.0),
]


def random_maps(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_gradients_agree_with_finite_differences(pool) -> None:
    maps = random_maps(2, 3, 3, 4).requires_grad_()
    assert gradcheck(pool, maps)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_channels_last_memory_changes_nothing(pool) -> None:
    maps = random_maps(2, 3, 5, 7, dtype=torch.float32).relu()
    plain, strided = maps.clone(), maps.clone(memory_format=torch.channels_last)
    plain.requires_grad_()
    strided.requires_grad_()
    pool(plain).sum().backward()
    pool(strided).sum().backward()
    torch.testing.assert_close(pool(plain), pool(strided))
    torch.testing.assert_close(plain.grad, strided.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_half_precision_scores_are_the_rounded_exact_ones(pool, dtype) -> None:
    maps = random_maps(2, 3, 5, 7, dtype=dtype)
    exact = pool(maps.double())
    scores = pool(maps)
    assert scores.dtype == dtype
    torch.testing.assert_close(scores.double(), exact, rtol=1e-2, atol=1e-2)


def test_half_precision_ties_still_select_exactly_k_cells() -> None:
    maps = (random_maps(4, 5, 9, 11) * 3).round().to(torch.bfloat16).requires_grad_()
    KMaxKMin(10, 0)(maps).float().sum().backward()
    assert ((maps.grad != 0).sum(dim=(2, 3)) == 10).all()


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_a_map_of_one_cell_is_its_own_score(pool) -> None:
    maps = random_maps(2, 3, 1, 1)
    weight = 1 + getattr(pool, "alpha", 0.0) if getattr(pool, "k_min", 0) else 1.0
    torch.testing.assert_close(pool(maps), weight * maps[:, :, 0, 0])


@pytest.mark.parametrize("kind", ["mean", "max", "lse"])
def test_class_wise_pooling_reads_the_channels_of_its_class(kind: str) -> None:
    maps = random_maps(2, 6, 2, 3)
    pooled = ClassPool(3, kind, sharpness=2.0)(maps)
    own = maps[:, 3:6]  # of class 1
    wanted = {
        "mean": own.mean(dim=1),
        "max": own.amax(dim=1),
        "lse": ((2 * own).exp().mean(dim=1)).log() / 2,
    }[kind]
    torch.testing.assert_close(pooled[:, 1], wanted)


def test_the_released_gradient_is_m_times_the_true_one() -> None:
    maps = random_maps(2, 8, 3, 2)
    true, released = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    weights = random_maps(2, 2, 3, 2)
    true_mean, released_mean = ClassPool(4)(true), ClassPool(4, gradient="released")(released)
    assert torch.equal(true_mean, released_mean)
    (true_mean * weights).sum().backward()
    (released_mean * weights).sum().backward()
    torch.testing.assert_close(released.grad, 4 * true.grad)


def test_poolings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="'median' is not among mean, max, lse"):
        ClassPool(2, "median")
    with pytest.raises(ValueError, match="belongs to class pooling 'mean'"):
        ClassPool(2, "max", "released")
    with pytest.raises(ValueError, match="selects no cell"):
        KMaxKMin(0)(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="must be positive"):
        LogSumExp(0.0)(torch.zeros(1, 1, 2, 2))
