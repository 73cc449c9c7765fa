"""The whole network: frozen mode, extra levels, places of cells, parameter groups."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim

from weakloc.geometry import GridTransform, cell_center_in_image
from weakloc.methods.method import Optimisation, build_optimiser
from weakloc.model.backbones import build_backbone
from weakloc.model.network import ClassPool, GridHead, LocalizationNetwork, TransferHead
from weakloc.model.pooling import KMaxKMin
from weakloc.model.trunk import BackboneSpec


def make_network(
    *, name: str = "tiny[width=4]", maps_per_class: int = 2, seed: int = 0
) -> LocalizationNetwork:
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneSpec.parse(name, weights="none"))
    head = TransferHead(backbone.out_channels, 3, maps_per_class=maps_per_class)
    return LocalizationNetwork(backbone, head, ClassPool(maps_per_class), KMaxKMin(0.2, 0.2, 0.7))


def images(width: int = 56, height: int = 40) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_cached_features_give_the_same_scores_and_maps() -> None:
    network = make_network().eval()
    output = network(images())
    again = network.from_features(network.backbone(images()))
    assert torch.equal(output.scores, again.scores)
    assert torch.equal(output.maps, again.maps)


def test_asking_for_further_levels_changes_no_score() -> None:
    network = make_network().eval()
    levels = network.backbone.early_levels(images(), (2, 4, 8))
    assert torch.equal(network.from_features(levels[8]).scores, network(images()).scores)
    assert {stride: map_.shape[2:] for stride, map_ in levels.items()} == {
        2: (20, 28),
        4: (10, 14),
        8: (5, 7),
    }


def test_training_mode_leaves_a_frozen_backbone_in_evaluation() -> None:
    network = make_network()
    network.freeze_backbone()
    network.train()
    assert network.head.training
    assert not any(module.training for module in network.backbone.modules())
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())


def test_cells_of_the_tiny_network_are_centred_on_their_squares_of_pixels() -> None:
    network = make_network()
    to_input = GridTransform.identity((112.0, 60.0)).resize((57.0, 43.0))
    transform = network.backbone.geometry.cell_transform(to_input, rows=5, columns=7)
    x, y = cell_center_in_image(2, 6, transform)
    assert x == pytest.approx((8 * 6 + 4) * 112 / 57)
    assert y == pytest.approx((8 * 2 + 4) * 60 / 43)


def test_a_moved_object_moves_its_cell() -> None:
    dark = torch.zeros(1, 3, 48, 64)
    lit = dark.clone()
    lit[:, :, 24:32, 40:48] = 3.0
    networks = [make_network(name="tiny", seed=seed).eval() for seed in range(8)]
    with torch.inference_mode():
        # One random network may prefer a neighbour, which sees the object as well.
        change = sum(
            (net.backbone(lit) - net.backbone(dark)).abs().sum(dim=1)[0] for net in networks
        )
    transform = networks[0].backbone.geometry.cell_transform(
        GridTransform.identity((64.0, 48.0)), *change.shape
    )
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert cell_center_in_image(row, column, transform) == pytest.approx((44.0, 28.0))


def test_batch_norm_and_bias_can_be_spared_the_decay() -> None:
    network = make_network()
    optimisation = Optimisation(
        kind="adamw",
        learning_rate=0.1,
        backbone_factor=0.5,
        weight_decay=0.01,
        decayed="kernels",
        epochs=1,
        batch_size=1,
    )
    groups = build_optimiser(network, optimisation).param_groups
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("backbone", 0.05, 0.01),
        ("backbone", 0.05, 0.0),
        ("head", 0.1, 0.01),
        ("head", 0.1, 0.0),
    ]
    assert all(p.ndim > 1 for group in groups[::2] for p in group["params"])
    assert all(p.ndim == 1 for group in groups[1::2] for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_a_state_dict_restores_a_network_exactly() -> None:
    network = make_network().eval()
    other = make_network()
    other.load_state_dict(copy.deepcopy(network.state_dict()))
    assert torch.equal(network(images()).scores, other.eval()(images()).scores)


def test_a_grid_head_scores_crops_like_whole_images() -> None:
    backbone = build_backbone(BackboneSpec.parse("tiny[width=4]"))
    head = GridHead(16, 3, grid_side=5, reduced_channels=None, hidden=(7,))
    network = LocalizationNetwork(backbone, head, ClassPool(), KMaxKMin()).eval()
    whole = images(40, 40)
    grid = network.backbone(whole)
    torch.testing.assert_close(network(whole).scores, head.score_grid(grid))
    sub_grid = grid[:, :, 1:4, 0:5]
    torch.testing.assert_close(
        network.from_features(sub_grid).scores, head.score_grid(sub_grid), rtol=0, atol=0
    )


class _ScoresAndMaps(nn.Module):
    def __init__(self, network: LocalizationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.network(pixels)
        return output.scores, output.maps


def test_an_exported_graph_pools_maps_of_another_size_as_the_network_does() -> None:
    network = make_network().eval()
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    exported = torch.export.export(
        _ScoresAndMaps(network), (images(),), dynamic_shapes=(sizes,), strict=False
    )
    larger = images(136, 88)
    scores, maps = exported.module()(larger)
    torch.testing.assert_close(scores, network(larger).scores)
    torch.testing.assert_close(maps, network(larger).maps)
