"""Max-MIL (Oquab et al. 2015) against its equations: MIL-01 to 10, MIL-12, GEO-01 to 04."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from weakloc.geometry import GridTransform, map_box_to_image
from weakloc.methods.max_mil import DISPLAY_SCALES, MaxMil, paper_scales
from weakloc.methods.method import build_optimiser
from weakloc.model.backbones import Backbone, build_backbone
from weakloc.model.losses import LogisticLoss
from weakloc.model.network import AdaptationHead, ClassPool, LocalizationNetwork, TransferHead
from weakloc.model.pooling import KMaxKMin
from weakloc.model.trunk import BackboneSpec, Trunk, TrunkFacts


class PaddingFreeTrunk(Trunk):
    """A window of 7 + 2 * 4 = 15 px that moves by 4 px."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 7, 2), nn.ReLU(), nn.Conv2d(5, 6, 5, 2))
        self.facts = TrunkFacts(
            stride=4, out_channels=6, level_strides=(4,), first_center=7.5, window=15.0
        )

    def forward(self, images: Tensor, _levels: Sequence[int] = ()) -> dict[int, Tensor]:
        return {4: self.layers(images)}


def padding_free_network(num_classes: int = 3) -> LocalizationNetwork:
    torch.manual_seed(0)
    backbone = Backbone(PaddingFreeTrunk(), BackboneSpec("padding free"))
    head = AdaptationHead(6, num_classes, hidden=8)
    return LocalizationNetwork(backbone, head, ClassPool(), KMaxKMin()).eval().double()


@pytest.fixture(scope="module")
def alexnets() -> tuple[nn.Module, Backbone]:
    """torchvision's classifier, and ours with the same random weights."""
    torch.manual_seed(0)
    classifier = torchvision.models.alexnet(weights=None).eval()
    torch.manual_seed(0)
    return classifier, build_backbone(BackboneSpec.parse("alexnet", weights="none")).eval()


def random_labels(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    signs = torch.randint(0, 2, (rows, columns), generator=generator) * 2 - 1
    return signs.to(torch.int8)


def test_mil_01_zero_scores_cost_log_two_for_each_class() -> None:
    labels = random_labels(5, 20)
    scores = torch.zeros(5, 20, dtype=torch.float64)
    assert LogisticLoss("sum")(scores, labels).item() == pytest.approx(13.862944, abs=1e-6)
    assert LogisticLoss("mean")(scores, labels).item() == pytest.approx(0.693147, abs=1e-6)


def test_mil_02_one_cell_of_a_class_receives_the_closed_form_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 3, 5, 7, generator=generator, dtype=torch.float64)
    maps.requires_grad_()
    labels = random_labels(4, 3)
    LogisticLoss("sum").per_image(KMaxKMin()(maps), labels).sum().backward()
    flat, gradient = maps.detach().flatten(2), maps.grad.flatten(2)
    assert ((gradient != 0).sum(dim=2) == 1).all()
    for image in range(4):
        for index in range(3):
            y, f = int(labels[image, index]), float(flat[image, index].max())
            place = int(flat[image, index].argmax())
            wanted = -y / (1 + math.exp(y * f))  # -y * sigmoid(-y f)
            assert gradient[image, index, place].item() == pytest.approx(wanted, abs=1e-12)


def test_mil_02_a_score_of_two_on_a_present_class_pulls_by_0_119203() -> None:
    maps = torch.tensor([[[[0.0, 2.0, 1.0]]]], dtype=torch.float64, requires_grad=True)
    LogisticLoss("sum")(KMaxKMin()(maps), torch.tensor([[1]], dtype=torch.int8)).backward()
    assert maps.grad.flatten().tolist() == pytest.approx([0.0, -0.119203, 0.0], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mil_03_of_equal_cells_only_the_first_in_row_major_order_learns(dtype) -> None:
    maps = torch.zeros(2, 2, 3, 5, dtype=dtype)
    maps[0, 1, 1, 4] = maps[0, 1, 2, 0] = maps[0, 1, 2, 3] = 1.0
    maps.requires_grad_()
    KMaxKMin()(maps).float().sum().backward()
    wanted = torch.zeros(2, 2, 3, 5, dtype=dtype)
    wanted[:, :, 0, 0] = 1.0
    wanted[0, 1, 0, 0], wanted[0, 1, 1, 4] = 0.0, 1.0
    assert torch.equal(maps.grad, wanted)


def test_mil_04_the_convolutional_net_equals_the_fully_connected_one_on_224(alexnets) -> None:
    classifier, backbone = alexnets
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = backbone(images)
        hidden = classifier.features(images).flatten(start_dim=1)
        for layer in list(classifier.classifier)[:-1]:
            hidden = layer(hidden)
    assert features.shape == (2, 4096, 1, 1)
    assert hidden.abs().max() > 0.01
    torch.testing.assert_close(features.flatten(start_dim=1), hidden, rtol=1e-4, atol=1e-4)


def test_mil_05_without_padding_each_cell_is_the_network_on_its_window() -> None:
    network = padding_free_network()
    images = torch.randn(
        1, 3, 27, 35, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    maps = network(images).maps
    assert maps.shape == (1, 3, 4, 6)
    transform = network.backbone.geometry.cell_transform(
        GridTransform.identity((35.0, 27.0)), rows=4, columns=6
    )
    for row in range(4):
        for column in range(6):
            crop = images[:, :, 4 * row : 4 * row + 15, 4 * column : 4 * column + 15]
            torch.testing.assert_close(maps[:, :, row, column], network(crop).scores)
            geometry = network.backbone.geometry
            x, y, half = column + 0.5, row + 0.5, geometry.window / geometry.stride / 2
            window = (x - half, y - half, x + half, y + half)
            box = (4 * column, 4 * row, 4 * column + 15, 4 * row + 15)
            assert map_box_to_image(window, transform) == pytest.approx(box)


def test_mil_06_padding_lets_an_inner_cell_see_beyond_its_window(alexnets) -> None:
    _, backbone = alexnets
    images = torch.randn(1, 3, 288, 288, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        dense = backbone(images)
        alone = backbone(images[:, :, 32:256, 32:256])
    assert dense.shape[2:] == (3, 3)
    assert (dense[:, :, 1, 1] - alone[:, :, 0, 0]).abs().max() > 1e-4


def test_mil_07_a_shift_by_one_stride_shifts_the_map_by_one_cell() -> None:
    network = padding_free_network()
    images = torch.randn(
        1, 3, 31, 43, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    moved = network(images[:, :, 4:, 4:]).maps
    torch.testing.assert_close(moved, network(images).maps[:, :, 1:, 1:])


def test_mil_08_the_loss_is_binary_cross_entropy_and_ignoring_removes_one_term() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 9, generator=generator, dtype=torch.float64).requires_grad_()
    labels = random_labels(6, 9)
    terms = binary_cross_entropy_with_logits(
        scores, (labels == 1).double(), reduction="none"
    )  # (B, C)
    loss = LogisticLoss("sum")(scores, labels)
    torch.testing.assert_close(loss, terms.sum(dim=1).mean())
    (full_gradient,) = torch.autograd.grad(loss, scores)
    without = labels.clone()
    without[2, 5] = 0
    fewer = LogisticLoss("sum")(scores, without)
    torch.testing.assert_close(loss - fewer, terms[2, 5] / 6)
    (gradient,) = torch.autograd.grad(fewer, scores)
    full_gradient[2, 5] = 0.0
    torch.testing.assert_close(gradient, full_gradient)


def test_mil_09_dropout_zeroes_whole_maps_and_doubles_the_others() -> None:
    head = AdaptationHead(50, 4, hidden=30)
    torch.manual_seed(0)
    for dropout, channels in ((head.dropout_a, 50), (head.dropout_b, 30)):
        features = 1 + torch.rand(3, channels, 4, 6)
        ratio = dropout(features) / features
        per_map = ratio.flatten(start_dim=2)
        assert torch.equal(per_map.amin(dim=2), per_map.amax(dim=2))
        assert {0.0, 2.0} == set(per_map.unique().tolist())
    head.eval()
    features = torch.randn(3, 50, 4, 6)
    adapted = (head.adapt_a(features)).clamp(min=0)
    assert torch.equal(head(features), head.adapt_b(adapted))


def test_mil_10_only_the_adaptation_layers_change_when_the_backbone_is_frozen() -> None:
    method = MaxMil.literal()
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSpec.parse("tiny[width=8]"))
    network = method.build_network(backbone, 4).train()
    before = copy.deepcopy(network.state_dict())
    optimiser = build_optimiser(network, method.optimisation)
    loss = method.build_loss(num_classes=4, single_label=False)
    for _ in range(3):
        optimiser.zero_grad()
        loss(network(torch.randn(3, 3, 40, 56)).scores, random_labels(3, 4)).backward()
        optimiser.step()
    after = network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {
        f"head.{layer}.{kind}" for layer in ("adapt_a", "adapt_b") for kind in ("weight", "bias")
    }


def test_mil_10_adagrad_steps_each_parameter_by_its_own_rate() -> None:
    method = MaxMil.literal()
    backbone = build_backbone(BackboneSpec.parse("tiny[width=4]"))
    network = method.build_network(backbone, 2)
    weight = network.head.adapt_b.weight
    optimiser = build_optimiser(network, method.optimisation)
    start, sums = weight.detach().clone(), torch.zeros_like(weight)
    for scale in (1.0, -3.0):
        weight.grad = torch.linspace(-scale, scale, weight.numel()).view_as(weight)
        sums += weight.grad**2
        start -= 0.01 * weight.grad / (sums.sqrt() + 1e-10)
        optimiser.step()
    torch.testing.assert_close(weight.detach(), start)


def test_mil_12_the_scales_of_the_paper() -> None:
    scales = paper_scales(65)
    assert (len(scales), scales[0], scales[-1]) == (65, 0.5, 3.7)
    assert paper_scales(66)[-1] == 3.75
    assert MaxMil.literal().score_scales == scales
    assert DISPLAY_SCALES == (1.0, 1.3, 1.6, 1.9, 2.2, 2.5)


def test_the_literal_head_has_as_many_parameters_as_counted_by_hand() -> None:
    head = AdaptationHead(4096, 20)
    assert sum(parameter.numel() for parameter in head.parameters()) == 8_431_636


def test_geo_01_and_02_map_sizes_follow_the_layers(alexnets) -> None:
    trunk = copy.deepcopy(alexnets[1].trunk).to("meta")

    def map_size(width: int, height: int) -> tuple[int, int]:
        shape = trunk(torch.empty(1, 3, height, width, device="meta"))[32].shape
        return shape[3], shape[2]

    squares = {224: 1, 256: 2, 350: 4, 500: 9, 700: 15, 1850: 51}
    assert {side: map_size(side, side) for side in squares} == {
        side: (cells, cells) for side, cells in squares.items()
    }
    assert map_size(2048, 1024) == (58, 26)
    larger = 0
    for width in range(224, 2048):
        extra = map_size(width, 224)[0] - ((width - 224) // 32 + 1)
        assert extra == (1 if width % 32 == 31 else 0)
        larger += extra
    assert larger == 57


def receptive_field(layers: nn.Module, width: int, height: int) -> int:
    """Columns that reach the middle cell: with equal positive weights no path cancels."""
    layers = copy.deepcopy(layers).double().eval()
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
    images = torch.ones(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    features = layers(images)
    features[0, 0, features.shape[2] // 2, features.shape[3] // 2].backward()
    return int((images.grad.abs().sum(dim=(0, 1, 2)) > 0).sum())


def averaging(layers: nn.Module) -> nn.Module:
    """The same layers with average in place of max pooling: every cell of a window counts."""
    for name, layer in list(layers.named_children()):
        if isinstance(layer, nn.MaxPool2d):
            pool = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
            setattr(layers, name, pool)
        else:
            averaging(layer)
    return layers


def test_geo_03_receptive_fields(alexnets) -> None:
    layers = alexnets[1].trunk.layers
    to_pool5 = averaging(copy.deepcopy(layers[:13]))
    assert receptive_field(to_pool5, 500, 67) == 195
    one_of_fc6 = nn.Conv2d(256, 1, layers[13].kernel_size)
    assert receptive_field(nn.Sequential(*to_pool5, one_of_fc6), 800, 224) == 355


def test_geo_03_vgg_reads_212_pixels_at_a_7_x_7_map(monkeypatch) -> None:
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_args, **_kwargs: tensor)  # saves time
    spec = BackboneSpec.parse("vgg16[fully_connected=head]", weights="none")
    backbone = build_backbone(spec)
    assert backbone.map_size((224, 224)) == (7, 7)
    assert [tuple(layer.weight.shape) for layer in backbone.pretrained_layers] == [
        (4096, 25_088),
        (4096, 4096),
    ]
    assert receptive_field(averaging(backbone.trunk.layers), 416, 32) == 212


@pytest.mark.parametrize(("name", "field"), [("resnet50", 427), ("resnet101", 971)])
def test_geo_03_receptive_fields_of_residual_networks(name: str, field: int) -> None:
    narrow = BackboneSpec.parse(f"{name}[base_width=8]", weights="none")
    trunk = build_backbone(narrow).trunk.model
    trunk.maxpool = nn.AvgPool2d(3, 2, 1)
    layers = nn.Sequential(
        trunk.conv1, trunk.maxpool, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
    )
    assert receptive_field(layers, 64 * math.ceil(field / 64) + 64, 32) == field


def test_geo_04_residual_networks_round_their_map_up() -> None:
    trunk = build_backbone(BackboneSpec.parse("resnet18", weights="none")).trunk.to("meta")
    sizes = {224: 7, 320: 10, 374: 12, 448: 14, 560: 18, 747: 24}
    for side, cells in sizes.items():
        features = trunk(torch.empty(1, 3, side, 224, device="meta"))[32]
        assert features.shape[2:] == (cells, 7)


def test_a_single_layer_head_scores_by_its_best_cell() -> None:
    network = MaxMil.practical().build_network(
        build_backbone(BackboneSpec.parse("tiny[width=4]")), 3
    )
    assert isinstance(network.head, TransferHead)
    output = network.eval()(torch.randn(2, 3, 40, 64))
    assert torch.equal(output.scores, output.maps.amax(dim=(2, 3)))
