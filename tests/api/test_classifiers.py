"""A file of weights means the same to `--weights FILE` and to `timm:NAME:FILE`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from weakloc.api.classifiers import timm_predictor
from weakloc.cli import run as weakloc
from weakloc.errors import SettingError, WeightsError
from weakloc.model.backbones import build_backbone
from weakloc.model.trunk import BackboneSpec
from weakloc.predictor.classifier_source import ClassifierSource
from weakloc.settings import Look, Places

NAME = "test_resnet"
ROADS = ["train --weights", "predict timm:NAME:FILE"]


def trained_model() -> nn.Module:
    torch.manual_seed(7)
    model: nn.Module = timm.create_model(NAME)
    return model


def load(road: str, file: Path) -> dict[str, Tensor]:
    """What the network has after loading, by the names of timm."""
    if road == ROADS[0]:
        backbone = build_backbone(BackboneSpec.parse(NAME, weights=str(file)))
        return backbone.trunk.model.state_dict()
    source = timm_predictor(f"timm:{NAME}:{file}", Look(workers=0), Places())[0].source
    assert isinstance(source, ClassifierSource)
    return source.maps.model.state_dict()


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("form", ["plain", "checkpoint", "data parallel", "half safetensors"])
def test_every_form_of_a_file_is_read_on_both_roads(road: str, form: str, tmp_path: Path) -> None:
    tensors = trained_model().state_dict()
    file = tmp_path / "w.pt"
    if form == "plain":
        torch.save(tensors, file)
    elif form == "checkpoint":
        prefixed = {f"module.{name}": value for name, value in tensors.items()}
        torch.save({"epoch": 3, "state_dict": prefixed, "arch": NAME}, file)
    elif form == "data parallel":
        torch.save({"model": {f"module.model.{name}": v for name, v in tensors.items()}}, file)
    else:
        file = tmp_path / "w.safetensors"
        save_file({name: value.half() for name, value in tensors.items()}, file)
    loaded = load(road, file)
    assert loaded
    for name, value in loaded.items():
        torch.testing.assert_close(value.cpu(), tensors[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("road", ROADS)
def test_a_file_that_does_not_fit_is_told_by_key_and_shape_on_both_roads(
    road: str, tmp_path: Path
) -> None:
    tensors = trained_model().state_dict()
    tensors["conv1.0.weight"] = torch.zeros(5, 3, 3, 3)
    torch.save({"state_dict": tensors}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w\.pt: the weights do not fit: .*5x3x3x3 in the file"):
        load(road, tmp_path / "w.pt")


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("content", [None, b"no weights"])
def test_a_file_that_is_none_is_one_line_on_both_roads(
    road: str, content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "w.pt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.pt: ") as caught:
        load(road, file)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_a_classifier_of_its_own_belongs_to_the_model(tmp_path: Path) -> None:
    tensors = trained_model().state_dict()
    del tensors["fc.weight"]
    torch.save(tensors, tmp_path / "w.pt")
    load(ROADS[0], tmp_path / "w.pt")  # a backbone needs none
    with pytest.raises(WeightsError, match=r"1 missing \(fc\.weight\)"):
        load(ROADS[1], tmp_path / "w.pt")


def test_a_classifier_is_not_searched_with_windows_that_it_cannot_score(tmp_path: Path) -> None:
    torch.save(trained_model().state_dict(), tmp_path / "w.pt")
    name = f"timm:{NAME}:{tmp_path / 'w.pt'}"
    with pytest.raises(SettingError, match="--localiser is 'beam_search'"):
        timm_predictor(name, Look(localiser="beam_search", workers=0), Places())
    settings = timm_predictor(name, Look(workers=0), Places())[0].settings
    assert (settings["localiser"], settings["fuse"], settings["boxes"]) == (
        "score_map",
        "mean",
        "all",
    )


def test_whose_weights_they_are_is_told_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_random_weights = partial(timm.create_model, pretrained=False)
    monkeypatch.setattr(timm, "create_model", lambda name, **_: of_random_weights(name))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.save(trained_model().state_dict(), tmp_path / "w.pt")
    Image.new("RGB", (90, 60)).save(tmp_path / "a.png")
    for run, made_from, licence in (
        (f"timm:{NAME}", "image tags (ImageNet-1k)", "apache-2.0"),
        (f"timm:{NAME}:{tmp_path / 'w.pt'}", f"unknown ({tmp_path / 'w.pt'})", None),
    ):
        out = tmp_path / str(licence)
        arguments = ["predict", run, str(tmp_path / "a.png"), "--out", str(out)]
        assert weakloc([*arguments, "--workers", "0"]) == 0
        summary = json.loads((out / "predictions.json").read_text())
        assert (summary["weights_from"], summary["licence"]) == (made_from, licence)
        assert ("licence apache-2.0" in capsys.readouterr().out) == (licence is not None)


def test_a_classifier_that_is_installed_is_asked_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("weakloc.api.classifiers.hub_cache_when_unreachable")
    source = timm_predictor("timm:tf_efficientnet_lite0", Look(workers=0), Places())[0].source
    assert isinstance(source, ClassifierSource)
    given = source.maps.model.state_dict()
    expected = build_backbone(BackboneSpec.parse("lite0")).trunk.model.state_dict()
    assert len(expected) > 200
    assert all(torch.equal(given[name], tensor) for name, tensor in expected.items())
    assert source.class_names[285] == "Egyptian cat"
