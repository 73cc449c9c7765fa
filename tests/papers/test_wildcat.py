"""WILDCAT (Durand et al. 2017) against its equations: checks WC-01 to WC-12."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from weakloc.methods.method import build_optimiser
from weakloc.methods.wildcat import Wildcat
from weakloc.model.backbones import build_backbone
from weakloc.model.network import ClassPool, LocalizationNetwork, TransferHead
from weakloc.model.pooling import AveragePool, KMaxKMin, LogSumExp, cells_of
from weakloc.model.trunk import BackboneSpec

GOLDEN = torch.arange(1.0, 10.0, dtype=torch.float64).view(1, 1, 3, 3)


def random_maps(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def score_by_sorting(cells: list[float], k_max: int, k_min: int, alpha: float) -> float:
    """Equation 2 for one map."""
    ordered = sorted(cells)
    top = sum(ordered[len(ordered) - k_max :]) / k_max
    return top + (alpha * sum(ordered[:k_min]) / k_min if k_min else 0.0)


@pytest.mark.parametrize(
    ("k_max", "k_min", "alpha"), [(1, 0, 0.0), (3, 0, 0.0), (4, 2, 0.7), (30, 35, 1.0), (35, 0, 0)]
)
def test_equation_2_on_every_image_and_class(k_max, k_min, alpha) -> None:
    maps = random_maps(3, 4, 5, 7)
    scores = KMaxKMin(k_max, k_min, alpha)(maps)
    for image in range(3):
        for index in range(4):
            cells = maps[image, index].flatten().tolist()
            wanted = score_by_sorting(cells, k_max, k_min, alpha)
            assert scores[image, index].item() == pytest.approx(wanted, abs=1e-9)


def test_wc_01_the_family_contains_max_average_top_k_and_weldon() -> None:
    maps = random_maps(2, 3, 5, 7)
    cells = maps.flatten(2)
    descending = cells.sort(dim=2, descending=True).values
    torch.testing.assert_close(KMaxKMin(1)(maps), cells.amax(dim=2))
    torch.testing.assert_close(KMaxKMin(1)(maps), maps.amax(dim=(2, 3)))
    torch.testing.assert_close(KMaxKMin(35)(maps), cells.mean(dim=2))
    torch.testing.assert_close(KMaxKMin("all")(maps), AveragePool()(maps))
    torch.testing.assert_close(KMaxKMin(6)(maps), descending[:, :, :6].mean(dim=2))
    weldon = descending[:, :, :6].mean(dim=2) + descending[:, :, -6:].mean(dim=2)
    torch.testing.assert_close(KMaxKMin(6, 6, 1.0)(maps), weldon)


@pytest.mark.parametrize(
    ("pool", "score"),
    [
        (KMaxKMin(1), 9.0),
        (KMaxKMin(9), 5.0),
        (KMaxKMin(2), 8.5),
        (KMaxKMin(2, 2, 0.7), 9.55),
        (KMaxKMin(2, 2, 0.7, halve=True), 4.775),
        (KMaxKMin(2, 2, 1.0), 10.0),
        (LogSumExp(1.0), 7.2613271),
        (LogSumExp(1e-6), 5.0),
        (LogSumExp(1e4), 9.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wc_02_golden_map(pool, score, dtype) -> None:
    tolerance = 1e-3 if isinstance(pool, LogSumExp) and pool.sharpness != 1 else 1e-6
    if isinstance(pool, LogSumExp) and dtype == torch.float32:
        tolerance = 0.1  # log of nearly 1, divided by 1e-6
    assert pool(GOLDEN.to(dtype)).item() == pytest.approx(score, abs=tolerance)


def test_wc_02_lse_rises_with_its_sharpness() -> None:
    scores = [LogSumExp(2.0**power)(GOLDEN).item() for power in range(-8, 8)]
    assert scores == sorted(scores)
    assert 5 < scores[0] < scores[-1] < 9


@pytest.mark.parametrize(
    ("count", "num_cells", "wanted"),
    [
        (0.2, 196, 39),
        (0.4, 196, 78),
        (0.01, 49, 1),
        (1, 49, 1),
        (1.0, 49, 1),
        (500, 49, 49),
        (0, 49, 0),
        (-3, 49, 0),
        ("all", 49, 49),
        (0.5, 49, 24),  # 24.5, halves to even as Python's round
        (0.5, 51, 26),
    ],
)
def test_wc_03_how_many_cells_k_means(count, num_cells, wanted) -> None:
    assert cells_of(count, num_cells) == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("k_max", "k_min"), [(1, 1), (7, 5), (20, 25), (35, 35)])
def test_wc_04_the_gradient_is_one_over_k_on_the_chosen_cells(k_max, k_min, dtype) -> None:
    alpha = 0.7
    maps = random_maps(2, 3, 5, 7).relu().to(dtype).requires_grad_()  # half of the cells tie
    KMaxKMin(k_max, k_min, alpha)(maps).sum().backward()
    cells, gradient = maps.detach().flatten(2), maps.grad.flatten(2)
    top = cells.argsort(dim=2, descending=True, stable=True)[:, :, :k_max]
    bottom = cells.argsort(dim=2, stable=True)[:, :, :k_min]
    wanted = torch.zeros_like(cells)
    wanted.scatter_add_(2, top, torch.full_like(top, 1, dtype=dtype) / k_max)
    wanted.scatter_add_(2, bottom, torch.full_like(bottom, 1, dtype=dtype) * (alpha / k_min))
    torch.testing.assert_close(gradient, wanted)
    torch.testing.assert_close(gradient.sum(dim=2), torch.full((2, 3), 1 + alpha, dtype=dtype))


def test_wc_05_shifts_scales_and_permutations() -> None:
    maps, pool = random_maps(2, 3, 5, 7), KMaxKMin(6, 4, 0.7)
    scores = pool(maps)
    torch.testing.assert_close(pool(maps + 2.5), scores + 2.5 * 1.7)
    torch.testing.assert_close(pool(3.0 * maps), 3.0 * scores)
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    shuffled = maps.flatten(2)[:, :, order].view_as(maps)
    torch.testing.assert_close(pool(shuffled), scores)
    other = maps.clone()
    other[:, 1] = 100.0
    torch.testing.assert_close(pool(other)[:, [0, 2]], scores[:, [0, 2]])


@pytest.mark.parametrize("alpha", [0, 0.0])
def test_wc_06_without_alpha_the_smallest_cells_do_not_count(alpha) -> None:
    maps = random_maps(2, 3, 5, 7)
    assert torch.equal(KMaxKMin(4, 6, alpha)(maps), KMaxKMin(4, 0)(maps))
    for factor in (alpha, 0.7):
        paper = KMaxKMin(4, 6, factor)(maps)
        torch.testing.assert_close(KMaxKMin(4, 6, factor, halve=True)(maps), paper / 2)
    assert torch.equal(KMaxKMin(4, 0, 0.7, halve=True)(maps), KMaxKMin(4, 0)(maps))


def test_wc_07_mean_maps_equal_one_convolution_of_averaged_weights() -> None:
    torch.manual_seed(0)
    head = TransferHead(11, 4, maps_per_class=5).double()
    head.transfer.bias.data.normal_()
    features = random_maps(2, 11, 3, 6)
    weight = head.transfer.weight.view(4, 5, 11).mean(dim=1)
    bias = head.transfer.bias.view(4, 5).mean(dim=1)
    wanted = torch.einsum("cd,bdhw->bchw", weight, features) + bias[:, None, None]
    torch.testing.assert_close(ClassPool(5)(head(features)), wanted)
    plain = TransferHead(11, 4).double()
    by_cell = torch.einsum("cd,bdhw->bchw", plain.transfer.weight[:, :, 0, 0], features)
    torch.testing.assert_close(ClassPool(1)(plain(features)), by_cell)


@pytest.mark.parametrize("kind", ["mean", "max", "lse"])
def test_wc_08_a_class_owns_m_neighbouring_channels(kind) -> None:
    maps, pool = random_maps(2, 12, 3, 6), ClassPool(4, kind)
    pooled = pool(maps)
    within = maps[:, [3, 1, 0, 2, *range(4, 12)]]
    torch.testing.assert_close(pool(within), pooled)
    exchanged = maps[:, [*range(4, 8), *range(4), *range(8, 12)]]
    torch.testing.assert_close(pool(exchanged), pooled[:, [1, 0, 2]])


@pytest.mark.parametrize(("kind", "keeps"), [("mean", True), ("max", False)])
def test_wc_09_the_mean_never_tells_the_maps_of_a_class_apart(kind, keeps) -> None:
    torch.manual_seed(0)
    head = TransferHead(6, 3, maps_per_class=4).double()
    head.transfer.weight.data.normal_()
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)

    def differences() -> Tensor:
        weights = head.transfer.weight.view(3, 4, 6)
        return (weights[:, 1:] - weights[:, :1]).detach().clone()

    before = differences()
    for step in range(20):
        features = random_maps(2, 6, 4, 5) * (1 + step)
        scores = KMaxKMin(0.2, 0.2, 0.7)(ClassPool(4, kind)(head(features)))
        optimiser.zero_grad()
        scores.tanh().sum().backward()
        optimiser.step()
    assert torch.allclose(differences(), before, atol=1e-9) is keeps


def test_wc_10_the_order_of_pooling_and_head_matters_unless_it_averages() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSpec.parse("tiny[width=4]")).double().eval()
    head = TransferHead(16, 3, maps_per_class=2).double()
    head.transfer.bias.data.normal_()
    features = random_maps(2, 16, 5, 7)

    def scores(pool, order) -> Tensor:
        network = LocalizationNetwork(backbone, head, ClassPool(2), pool, order=order)
        return network.from_features(features).scores

    average = AveragePool()
    torch.testing.assert_close(scores(average, "head_then_pool"), scores(average, "pool_then_head"))
    pooled_first = scores(KMaxKMin(), "pool_then_head")
    assert (scores(KMaxKMin(), "head_then_pool") - pooled_first).abs().max() > 0.01
    weight = head.transfer.weight[:, :, 0, 0]
    by_hand = features.amax(dim=(2, 3)) @ weight.T + head.transfer.bias
    torch.testing.assert_close(pooled_first, by_hand.view(2, 3, 2).mean(dim=2))


def test_wc_11_negative_evidence_counts_only_with_alpha() -> None:
    maps = random_maps(2, 3, 5, 7)
    lowest = maps <= maps.flatten(2).kthvalue(5, dim=2).values[:, :, None, None]
    lowered = torch.where(lowest, maps - 1.0, maps)
    with_alpha, without = KMaxKMin(5, 5, 0.7), KMaxKMin(5, 5, 0.0)
    torch.testing.assert_close(with_alpha(lowered), with_alpha(maps) - 0.7)
    assert torch.equal(without(lowered), without(maps))


def test_wc_12_the_backbone_learns_at_a_tenth_of_the_rate() -> None:
    method = Wildcat.literal()
    backbone = build_backbone(BackboneSpec.parse("tiny[width=4]"))
    network = method.build_network(backbone, 3)
    groups = build_optimiser(network, method.optimisation).param_groups
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {"backbone": pytest.approx(0.001), "head": 0.01}
    in_groups = {id(parameter) for group in groups for parameter in group["params"]}
    parts = [*network.backbone.parameters(), *network.head.parameters()]
    assert in_groups == {id(parameter) for parameter in parts}
    assert all(group["momentum"] == 0.9 and group["weight_decay"] == 1e-4 for group in groups)


def test_the_transfer_layer_has_as_many_parameters_as_counted_by_hand() -> None:
    for maps_per_class, wanted in ((8, 327_840), (4, 163_920)):
        head = TransferHead(2048, 20, maps_per_class=maps_per_class)
        assert sum(parameter.numel() for parameter in head.parameters()) == wanted


def test_the_released_gradient_multiplies_the_rate_of_the_backbone_by_m() -> None:
    torch.manual_seed(0)
    features = random_maps(1, 6, 3, 4)
    head = TransferHead(6, 2, maps_per_class=4).double()
    gradients = []
    for kind in ("mean", "released"):
        leaf = features.clone().requires_grad_()
        KMaxKMin()(ClassPool(4, gradient=kind)(head(leaf))).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], 4 * gradients[0])
    assert math.isfinite(gradients[0].sum())
