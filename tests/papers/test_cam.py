"""CAM with crop augmentation (Choe et al. 2018): AUG-01, 02, 08, 09 and BEAM-20."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from weakloc.data.augmentation import GoogLeNetResize, HideAndSeek
from weakloc.data.loaders import EpochBatches
from weakloc.methods.beam import Beam
from weakloc.methods.cam import Cam
from weakloc.methods.method import build_optimiser, rate_factor
from weakloc.model.backbones import build_backbone
from weakloc.model.trunk import BackboneSpec, PreactTrunk


def test_aug_01_the_mean_of_a_class_map_is_its_logit() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSpec.parse("preact18[stem=s2]"))
    network = Cam.literal().build_network(backbone, 7).eval()
    network.head.transfer.bias.data.normal_()
    images = torch.randn(2, 3, 64, 80)
    with torch.inference_mode():
        output = network(images)
        features = network.backbone(images)
    weight, bias = network.head.transfer.weight[:, :, 0, 0], network.head.transfer.bias
    cams = torch.einsum("ct,bthw->bchw", weight, features)
    torch.testing.assert_close(output.maps, cams + bias[:, None, None], rtol=1e-4, atol=1e-4)
    logits = features.mean(dim=(2, 3)) @ weight.T + bias  # average pooling, then a linear layer
    torch.testing.assert_close(output.scores, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cams.mean(dim=(2, 3)) + bias, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.1), (249, 0.1), (250, 0.01), (1000, 1e-5), (1499, 1e-6)]
)
def test_aug_02_the_rate_falls_tenfold_every_250_epochs(epoch: int, rate: float) -> None:
    optimisation = Cam.literal().optimisation
    for step_in_epoch in (0, 390):
        factor = rate_factor(optimisation, epoch * 391 + step_in_epoch, 391)
        assert optimisation.learning_rate * factor == pytest.approx(rate)


def test_aug_02_a_budget_keeps_six_equal_stages() -> None:
    budget = replace(Cam.literal().optimisation, epochs=60)
    rates = [budget.learning_rate * rate_factor(budget, epoch, 1) for epoch in range(60)]
    drops = [epoch for epoch in range(1, 60) if rates[epoch] != rates[epoch - 1]]
    assert drops == [10, 20, 30, 40, 50]
    assert rates[-1] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("batch", "rate"), [(0, 1e-3), (19_999, 1e-3), (20_000, 1e-4), (80_000, 1e-7)]
)
def test_beam_20_the_rate_of_beam_falls_every_20000_batches(batch: int, rate: float) -> None:
    method = Beam.literal()
    network = method.build_network(
        build_backbone(BackboneSpec.parse("tiny[width=4]", weights="none")), 3
    )
    groups = build_optimiser(network, method.optimisation).param_groups
    (backbone_rate,) = {group["lr"] for group in groups if group["name"] == "backbone"}
    factor = rate_factor(method.optimisation, batch, 100)
    assert backbone_rate * factor == pytest.approx(rate)
    assert method.optimisation.max_steps == 80_000


@pytest.mark.parametrize(("name", "blocks"), [("preact18", 8), ("preact34", 16)])
def test_aug_08_depths_are_counted_in_convolutions(name: str, blocks: int) -> None:
    trunk = PreactTrunk(name)
    kernels = [layer.kernel_size for layer in trunk.modules() if isinstance(layer, nn.Conv2d)]
    assert kernels.count((3, 3)) == 1 + 2 * blocks  # with the classifier: 18 or 34 layers
    assert kernels.count((1, 1)) == 3  # where the channels change
    assert all(layer.bias is None for layer in trunk.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize(("stem", "side"), [("cifar", 8), ("s2", 4), ("cam", 4), ("imagenet", 2)])
def test_aug_08_final_map_of_64_pixels(stem: str, side: int) -> None:
    trunk = PreactTrunk("preact18", stem=stem).to("meta")
    features = trunk(torch.empty(1, 3, 64, 128, device="meta"))[trunk.facts.stride]
    assert features.shape == (1, 512, side, 2 * side)


def test_aug_08_the_map_is_never_negative() -> None:
    torch.manual_seed(0)
    trunk = PreactTrunk("preact18", stem="cam").eval()
    features = trunk(torch.randn(2, 3, 64, 96))[trunk.facts.stride]
    assert features.min() == 0
    assert features.max() > 0


def test_aug_08_a_group_is_the_specification_written_out() -> None:
    """BN-ReLU-conv-BN-ReLU-conv beside the untouched input; the first block of a group has no
    leading BN-ReLU, and each group ends with one (specification 5.1)."""
    torch.manual_seed(0)
    trunk = PreactTrunk("preact18").eval()
    layers = list(trunk.modules())
    for norm in layers:
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_()
    # In the order of the network, whatever it calls its parts.
    norms = iter([layer for layer in layers if isinstance(layer, nn.BatchNorm2d)])
    kernels = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    convolutions = iter([layer for layer in kernels if layer.kernel_size == (3, 3)])
    shortcuts = iter([layer for layer in kernels if layer.kernel_size == (1, 1)])
    with torch.inference_mode():
        images = torch.randn(2, 3, 32, 40)
        features = next(convolutions)(images)
        for width in (64, 128, 256, 512):
            for block in range(2):
                branch = features if block == 0 else torch.relu(next(norms)(features))
                branch = next(convolutions)(branch)
                branch = next(convolutions)(torch.relu(next(norms)(branch)))
                changes = features.shape[1] != width
                features = branch + (next(shortcuts)(features) if changes else features)
            features = torch.relu(next(norms)(features))
        torch.testing.assert_close(trunk(images)[8], features)
    assert [*norms, *convolutions, *shortcuts] == []


def test_aug_08_identity_shortcuts_pass_the_signal_when_convolutions_are_zero() -> None:
    trunk = PreactTrunk("preact18").eval()
    block = trunk.groups[1][1]  # the second block of a group keeps its channels
    for layer in block.body:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    signal = torch.randn(2, 128, 5, 7)
    assert torch.equal(block(signal), signal)


def test_aug_08_convolutions_start_with_he_fan_out() -> None:
    torch.manual_seed(0)
    layer = PreactTrunk("preact18").groups[3][1].body[0]
    assert layer.weight.shape == (512, 512, 3, 3)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)


@pytest.mark.parametrize(("batch_size", "steps"), [(256, 391), (128, 782), (32, 3125)])
def test_aug_09_smaller_batches_keep_epochs_and_rate(batch_size: int, steps: int) -> None:
    optimisation = replace(Cam.literal().optimisation, batch_size=batch_size)
    batches = EpochBatches(
        100_000, batch_size=batch_size, seed=0, weights=None, rank=0, world_size=1
    )
    assert len(batches) == steps
    assert optimisation.epochs == 1500
    last = optimisation.epochs * steps - 1
    assert optimisation.learning_rate * rate_factor(optimisation, 0, steps) == 0.1
    assert optimisation.learning_rate * rate_factor(optimisation, last, steps) == pytest.approx(
        1e-6
    )


def test_literal_training_decays_kernels_only_with_nesterov_momentum() -> None:
    method = Cam.literal()
    network = method.build_network(build_backbone(BackboneSpec.parse("preact18")), 200)
    groups = build_optimiser(network, method.optimisation).param_groups
    for group in groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.1, 0.9, True)
        dimensions = {parameter.ndim > 1 for parameter in group["params"]}
        assert dimensions == {group["weight_decay"] == 1e-4}


def test_both_orders_of_hiding_and_cropping() -> None:
    backbone = build_backbone(BackboneSpec.parse("tiny[width=4]"))
    after = replace(Cam.literal(), augment="hns_after_gr").augmentation(backbone)
    assert isinstance(after.crop, GoogLeNetResize)
    assert [type(step) for step in after.steps] == [HideAndSeek]
    before = replace(Cam.literal(), augment="gr_after_hns").augmentation(backbone)
    assert before.crop is None
    assert [type(step) for step in before.steps] == [HideAndSeek, GoogLeNetResize]
    assert before.steps[0].patch_sizes == (0, 4, 8, 16)
    assert before.steps[1].smallest_area == 0.08
    plain = replace(Cam.literal(), augment="none").augmentation(backbone)
    assert (plain.crop, plain.steps) == (None, ())
    assert np.isclose(before.steps[0].probability, 0.5)
