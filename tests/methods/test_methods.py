"""The four methods build what their papers describe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weakloc.data.augmentation import ScaleJitter
from weakloc.errors import SettingError
from weakloc.methods import METHODS
from weakloc.methods.beam import Beam
from weakloc.methods.cam import Cam
from weakloc.methods.max_mil import MaxMil
from weakloc.methods.method import build_optimiser, preprocessing
from weakloc.methods.wildcat import Wildcat
from weakloc.model.backbones import Backbone, build_backbone
from weakloc.model.losses import LogisticLoss, SoftmaxLoss
from weakloc.model.pooling import AveragePool, KMaxKMin, LogSumExp
from weakloc.model.trunk import BackboneSpec


def make_backbone(text: str = "tiny[width=8]") -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneSpec.parse(text, weights="none"))


@pytest.mark.parametrize("preset", ["practical", "literal"])
@pytest.mark.parametrize("name", METHODS)
def test_a_few_steps_of_every_preset_lower_the_loss(name: str, preset: str) -> None:
    method = replace(getattr(METHODS[name], preset)(), side=64)
    network = method.build_network(make_backbone(), 4)
    loss = method.build_loss(num_classes=4, single_label=False)
    optimiser = build_optimiser(network, replace(method.optimisation, learning_rate=3e-3))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 64, 64, generator=generator)
    labels = torch.full((8, 4), -1, dtype=torch.int8)
    labels[torch.arange(8), torch.arange(8) % 4] = 1
    labels[0, 1] = 0
    values = []
    for _ in range(12):
        value = loss(network.train()(images).scores, labels)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert sum(values[-3:]) < sum(values[:3])


def test_slots_of_the_literal_presets() -> None:
    backbone = make_backbone()
    assert MaxMil.literal().build_network(backbone, 3).spatial_pool == KMaxKMin()
    assert Cam.literal().build_network(backbone, 3).spatial_pool == AveragePool()
    wildcat = Wildcat.literal().build_network(backbone, 3)
    assert wildcat.spatial_pool == KMaxKMin(0.2, 0.2, 0.7)
    assert wildcat.class_pool.maps_per_class == 8


def test_losses_follow_the_method_and_the_labels() -> None:
    kinds = {
        (method.name, single): method.build_loss(num_classes=3, single_label=single)
        for method in (MaxMil.literal(), Wildcat.literal(), Cam.literal(), Beam.literal())
        for single in (False, True)
    }
    assert kinds["max_mil", True] == kinds["max_mil", False] == LogisticLoss("sum")
    assert kinds["wildcat", False] == LogisticLoss("mean")
    assert kinds["wildcat", True] == SoftmaxLoss()
    assert kinds["cam", False] == SoftmaxLoss()
    assert kinds["beam", True] == LogisticLoss("mean")


def test_one_class_alone_is_learned_by_a_logistic_loss_and_never_by_softmax() -> None:
    assert Wildcat.practical().build_loss(num_classes=1, single_label=True) == LogisticLoss("mean")
    for method in (Cam.literal(), replace(Beam.literal(), loss="beam_softmax")):
        with pytest.raises(SettingError, match="cannot learn from a single class"):
            method.build_loss(num_classes=1, single_label=True)


def test_beam_takes_over_the_fully_connected_layers_and_teaches_them_slowly() -> None:
    method = Beam.literal()
    spec = method.backbone_spec(BackboneSpec.parse("alexnet", weights="none"))
    assert spec.arguments == {"fully_connected": "head"}
    backbone = build_backbone(spec)
    network = method.build_network(backbone, 5)
    widths = [(layer.in_features, layer.out_features) for layer in network.head.linear_layers()]
    assert widths == [(9216, 4096), (4096, 4096), (4096, 2048), (2048, 5)]
    assert torch.equal(network.head.layers[0].weight, backbone.pretrained_layers[0].weight)
    groups = build_optimiser(network, method.optimisation).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    by_layer = [rates[id(layer.weight)] for layer in network.head.linear_layers()]
    assert by_layer == pytest.approx([0.001, 0.001, 0.01, 0.01])


@pytest.mark.parametrize("preset", ["practical", "literal"])
def test_beam_drops_half_of_the_units_before_the_classes_while_it_learns(preset: str) -> None:
    """Dropout of 0.5 before Fb (specification 3.1): every unit is 0 or doubled, for each image."""
    chosen = replace(getattr(Beam, preset)(), side=24, hidden=(400,))
    network = chosen.build_network(make_backbone(), 400)
    first, last = network.head.linear_layers()
    with torch.no_grad():
        first.weight.zero_()
        first.bias.fill_(1.0)  # every unit is 1 whatever the image
        last.weight.copy_(torch.eye(400))  # and the scores are the units
        last.bias.zero_()
    images = torch.zeros(6, 3, 24, 24)
    torch.manual_seed(0)
    scores = network.train()(images).scores
    assert set(scores.unique().tolist()) == {0.0, 2.0}
    assert (scores == 0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert not torch.equal(scores[0], scores[1])
    assert (network.eval()(images).scores == 1).all()


def test_beam_sizes_its_grid_by_the_backbone() -> None:
    network = replace(Beam.practical(), side=104).build_network(make_backbone(), 3)
    assert network.head.grid_side == 13
    scores = network.eval()(torch.randn(1, 3, 104, 104))
    assert scores.maps.shape == (1, 3, 13, 13)


def test_preprocessing_takes_size_from_the_method_and_the_rest_from_the_backbone() -> None:
    backbone = make_backbone("vit_tiny_patch16_224[mean=0.4,std=(0.1,0.2,0.3)]")
    ready = preprocessing(replace(MaxMil.literal(), side=70), backbone)
    assert ready.fixed_size == (80, 80)
    assert (ready.resize, ready.mean, ready.std) == ("pad", (0.4,) * 3, (0.1, 0.2, 0.3))
    jitter = MaxMil.literal().augmentation(backbone).scale_jitter
    assert jitter == ScaleJitter(0.7, 1.4, multiple_of=16)
    with pytest.raises(SettingError, match=r"size is 8, but .* Give --image-size 16 or more"):
        preprocessing(replace(MaxMil.literal(), side=8), backbone)


def test_only_max_mil_as_printed_keeps_its_backbone_frozen() -> None:
    frozen = {
        (name, preset)
        for name, kind in METHODS.items()
        for preset in ("practical", "literal")
        if not getattr(kind, preset)().trains_backbone
    }
    assert frozen == {("max_mil", "literal")}
    network = replace(Wildcat.practical(), trains_backbone=False).build_network(make_backbone(), 2)
    assert network.backbone_is_frozen


@pytest.mark.parametrize(
    ("name", "choice", "value"),
    [
        ("max_mil", "hidden", 0),
        ("max_mil", "dropout", 2.0),
        ("max_mil", "sharpness", 0.0),
        ("max_mil", "scale_jitter", (0.0, 1.0)),
        ("max_mil", "scale_jitter", (1.4, 0.7)),
        ("wildcat", "maps_per_class", 0),
        ("wildcat", "k_max", 0),
        ("wildcat", "k_max", 1.5),
        ("wildcat", "k_min", -1),
        ("cam", "smallest_crop", 0.0),
        ("cam", "patch_sizes", ()),
        ("beam", "reduced_channels", 0),
        ("beam", "hidden", (512, 0)),
        ("beam", "dropout", 1.0),
        ("beam", "rotation", -1.0),
        *((name, "side", 0) for name in METHODS),
        *((name, "score_scales", ()) for name in METHODS),
        *((name, "map_scales", (1.0, 0.0)) for name in METHODS),
    ],
)
def test_a_choice_that_cannot_work_is_refused_by_name(
    name: str, choice: str, value: object
) -> None:
    with pytest.raises(SettingError, match=f"^{choice} is ") as caught:
        replace(METHODS[name].practical(), **{choice: value})
    assert caught.value.remedy


@pytest.mark.parametrize("count", ["all", 1, 1.0, 7, 0.2])
def test_cells_are_counted_or_given_as_a_share(count: int | float | str) -> None:
    assert replace(Wildcat.practical(), k_max=count).k_max == count


def test_max_mil_pools_softer_on_request() -> None:
    network = MaxMil(sharpness=5.0).build_network(make_backbone(), 3)
    assert network.spatial_pool == LogSumExp(5.0)
