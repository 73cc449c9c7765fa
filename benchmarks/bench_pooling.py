"""WILDCAT's spatial pooling, forward and backward: ours against sorting every map.

    python -m benchmarks.bench_pooling [--rounds 9] [--batch 16] [--small]

"sort" is the algorithm of the released code in today's autograd: sort all cells, keep the first k,
scatter the gradient back through the order. "torch" is our pure-torch path, as it runs on a GPU or
in double precision; "kernel" is what the CPU runs on float32; "mean" is average pooling, the floor.
Half of the maps' cells are zeros after a ReLU, so that ties occur; gradients of all variants hold
exactly k cells, and scores agree to 1e-5.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Timing, paired_ratio, time_interleaved, write_results
from weakloc.model import pooling
from weakloc.model.pooling import AveragePool, KMaxKMin

SIZES = [
    (20, 14, 1),
    (20, 14, 39),
    (20, 28, 157),
    (20, 58, 1),
    (20, 58, 673),
    (200, 14, 39),
    (200, 28, 157),
    (1000, 14, 39),
]


class SortedSum(torch.autograd.Function):
    """Sort in the forward pass, keep the order, scatter in the backward pass."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, count: int) -> Tensor:
        values, order = torch.sort(cells, dim=2, descending=True)
        ctx.save_for_backward(order[:, :, :count])
        ctx.shape = cells.shape
        return values[:, :, :count].sum(dim=2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        result = gradient.new_zeros(ctx.shape)
        return result.scatter_(2, order, gradient[:, :, None].expand_as(order)), None


def pool_by_sorting(maps: Tensor, count: int) -> Tensor:
    summed: Tensor = SortedSum.apply(maps.flatten(start_dim=2), count)
    return summed / count


def pool_in_torch(maps: Tensor, count: int) -> Tensor:
    if count == 1:
        return KMaxKMin(1)(maps)  # the maximum has no other path
    rows = maps.flatten(start_dim=2).flatten(end_dim=1)
    summed: Tensor = pooling._TopkSum.apply(rows, count)
    return (summed / count).view(maps.shape[:2])


VARIANTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sort": pool_by_sorting,
    "torch": pool_in_torch,
    "kernel": lambda maps, count: KMaxKMin(count)(maps),
    "mean": lambda maps, _: AveragePool()(maps),
}


def forward_and_backward(pool: Callable[[Tensor, int], Tensor], maps: Tensor, count: int) -> Tensor:
    maps.grad = None
    scores = pool(maps, count)
    scores.sum().backward()
    return scores


def check_equal(maps: Tensor, count: int) -> None:
    wanted = forward_and_backward(pool_by_sorting, maps, count)
    for name in ("torch", "kernel"):
        scores = forward_and_backward(VARIANTS[name], maps, count)
        torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5)
        assert maps.grad is not None
        assert bool(((maps.grad != 0).sum(dim=(2, 3)) == count).all())


def measure(batch: int, classes: int, side: int, count: int, rounds: int) -> dict[str, Timing]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, classes, side, side, generator=generator)
    maps = maps.relu().requires_grad_()
    check_equal(maps, count)
    runs = {
        name: lambda pool=pool: forward_and_backward(pool, maps, count)
        for name, pool in VARIANTS.items()
    }
    return time_interleaved(runs, rounds=rounds, warmup=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="only the maps of 20 classes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = []
    timings: dict[str, Timing] = {}
    for classes, side, count in SIZES:
        if options.small and classes > 20:
            continue
        timed = measure(options.batch, classes, side, count, options.rounds)
        label = f"{classes} classes, {side}x{side}, k={count}"
        timings |= {f"{label}, {name}": each for name, each in timed.items()}
        milliseconds = {f"{name} ms": each.wall * 1e3 for name, each in timed.items()}
        ratios = {
            f"sort / {name}": paired_ratio(timed["sort"], timed[name])
            for name in ("torch", "kernel", "mean")
        }
        rows.append({"maps": label, **milliseconds, **ratios})
    write_results(
        "pooling",
        rows,
        title=f"Top-k pooling, forward and backward, batch {options.batch}",
        notes=[
            f"{options.rounds} interleaved rounds, {options.threads} thread(s), wall time",
            "maps after a ReLU: half of the cells are equal; each gradient holds exactly k cells",
        ],
        timings=timings,
    )


if __name__ == "__main__":
    main()
