"""Maps of anybody's classifier: identities of the papers, and a model left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from weakloc.errors import SettingError
from weakloc.predictor import classifier_source
from weakloc.predictor.classifier_source import ClassifierMaps

ALL = range(5)


def every(_: Tensor) -> Sequence[int]:
    return list(ALL)


def only(*classes: int) -> Callable[[Tensor], Sequence[int]]:
    return lambda _: list(classes)


class PooledLinear(nn.Module):
    """Average pooling, then one linear layer: the network of the CAM paper."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.5)
        self.classify = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.dropout(self.features(images).mean(dim=(2, 3))))


class MaxPooled(PooledLinear):
    """No average pooling, so no exact map."""

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images).amax(dim=(2, 3)))


class Attentive(nn.Module):
    """A small ViT: a class token reads 8-pixel patches; only the token reaches the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.first = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True, dropout=0.0)
        self.second = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True, dropout=0.0)
        self.classify = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(start_dim=2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1)
        return self.classify(self.second(self.first(tokens))[:, 0])


def build(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return kind()


def images(count: int = 2, *, width: int = 56, height: int = 40) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [False, True])
def test_the_mean_of_an_exact_map_is_the_logit_of_its_class(training: bool) -> None:
    model = build(PooledLinear).train(training)
    maps = ClassifierMaps(model, images(1))
    assert maps.method == "cam"
    found = maps(images(), every)
    torch.testing.assert_close(found.maps.mean(dim=(2, 3)), found.scores, rtol=1e-4, atol=1e-5)
    expected = model.eval()(images())
    torch.testing.assert_close(found.scores, expected)
    assert found.maps.shape[2:] == (10, 14)


def test_wanted_classes_come_in_the_order_wanted() -> None:
    maps = ClassifierMaps(build(PooledLinear), images(1))
    whole, some = maps(images(), every), maps(images(), only(4, 1))
    assert some.classes == (4, 1)
    torch.testing.assert_close(some.maps, whole.maps[:, [4, 1]])


def slow_gradient_maps(model: nn.Module, batch: Tensor, method: str) -> Tensor:
    """One image and one class at a time, straight from the two papers."""
    model = copy.deepcopy(model).eval()
    rows = []
    for image in batch:
        row = []
        for index in ALL:
            features = model.features(image[None]).detach().requires_grad_()
            score = model.classify(features.amax(dim=(2, 3)))[0, index]
            (slope,) = torch.autograd.grad(score, features)
            if method == "layer_cam":
                found = (slope.relu() * features).sum(dim=1)
            else:
                found = (slope.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)
            row.append(found.relu()[0])
        rows.append(torch.stack(row))
    return torch.stack(rows).detach()


@pytest.mark.parametrize("method", ["layer_cam", "grad_cam"])
def test_gradient_maps_of_all_classes_equal_those_of_one_class_at_a_time(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier_source, "CLASSES_PER_BACKWARD", 2)
    model = build(MaxPooled)
    found = ClassifierMaps(model, images(1), method=method)(images(3), every)  # type: ignore[arg-type]
    expected = slow_gradient_maps(model, images(3), method)
    torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-6)
    assert expected.max() > 0


def test_what_has_no_exact_map_gets_gradients_and_says_so() -> None:
    model = build(MaxPooled)
    assert ClassifierMaps(model, images(1)).method == "layer_cam"
    with pytest.raises(SettingError, match="does not end in average pooling"):
        ClassifierMaps(model, images(1), method="cam")
    with pytest.raises(SettingError, match=r"no layer 'featurs\.4'.*features\.4"):
        ClassifierMaps(model, images(1), method="grad_cam", layer="featurs.4")


def test_tokens_become_a_grid_of_the_image_that_need_not_be_square() -> None:
    model = build(Attentive)
    maps = ClassifierMaps(model, images(1))
    assert maps.method == "layer_cam"
    assert not maps.layer.startswith("second")  # behind it only the class token is read
    assert maps(images(), every).maps.shape == (2, 5, 5, 7)


def test_a_patch_that_alone_is_bright_is_where_the_map_of_tokens_is() -> None:
    """The class token is set to read one feature, which only the bright patch has."""
    model = build(Attentive)
    recorded: list[Tensor] = []
    handle = model.patches.register_forward_hook(lambda *args: recorded.append(args[2]))
    maps = ClassifierMaps(model, images(1), method="grad_cam", layer="patches")
    picture = torch.zeros(1, 3, 40, 56)
    picture[:, :, 16:24, 40:48] = 4.0
    found = maps(picture, every).maps
    handle.remove()
    activation = recorded[-1][0]
    change = (activation - activation[:, :1, :1]).abs().sum(dim=0)
    assert divmod(int(change.argmax()), 7) == (2, 5)
    assert found.shape == (1, 5, 5, 7)
    spread = (found[0] - found[0][:, :1, :1]).abs().sum(dim=0)
    assert divmod(int(spread.argmax()), 7) == (2, 5)


class Failing(PooledLinear):
    fails = False

    def forward(self, images: Tensor) -> Tensor:
        found = super().forward(images)
        if self.fails:
            raise RuntimeError("out of memory")
        return found


@pytest.mark.parametrize("method", ["auto", "layer_cam"])
def test_a_model_is_left_as_it_was_even_after_an_exception(method: str) -> None:
    model = build(Failing).train()
    model.features[1].eval()
    for parameter in model.features.parameters():
        parameter.requires_grad_(requires_grad=False)
    maps = ClassifierMaps(model, images(1), method=method)  # type: ignore[arg-type]
    weights = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    maps(images(), every)
    model.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        maps(images(), every)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_a_frozen_model_still_has_gradient_maps() -> None:
    model = build(MaxPooled)
    model.requires_grad_(requires_grad=False)
    with torch.no_grad():
        found = ClassifierMaps(model, images(1))(images(), only(0))
    assert found.maps.max() > 0
