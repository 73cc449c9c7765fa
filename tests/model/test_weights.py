"""Reading files of weights, and what is said when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from weakloc.errors import WeightsError
from weakloc.model.weights import hub_cache_when_unreachable, load_file_into, read_weights


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


def test_an_unreachable_hub_is_not_asked_again_and_again(monkeypatch) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("socket.create_connection", refused)
    monkeypatch.setattr("weakloc.model.weights.getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(RuntimeError, match="offline: True"), hub_cache_when_unreachable():
        raise RuntimeError(f"offline: {constants.HF_HUB_OFFLINE}")
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setattr("weakloc.model.weights.getproxies", lambda: {"https": "http://proxy"})
    with hub_cache_when_unreachable():
        assert not constants.HF_HUB_OFFLINE
