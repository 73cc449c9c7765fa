"""Any trained classifier -> score maps, without training.

A network that ends in "average over positions, then linear" has exact class activation maps:
`map_c = sum_t w_ct f_t + b_c`, whose mean over the positions is the class's logit (Zhou et al.
2016). Whether a network is of that kind is not guessed from its name but measured: the mean of
the maps must equal the logits on a probe. All others get Layer-CAM (Jiang et al. 2021),
`sum_t relu(ds_c / df_t) f_t`, or Grad-CAM (Selvaraju et al. 2017), `sum_t mean(ds_c / df_t) f_t`,
at the last layer that still has positions and through which the scores of all positions flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from weakloc.data.transforms import Preprocessing
from weakloc.errors import SettingError, did_you_mean
from weakloc.localize.maps import probabilities
from weakloc.model.trunk import CellGeometry
from weakloc.predictor.predictor import wanted_classes
from weakloc.predictor.views import RawMaps
from weakloc.settings import Places
from weakloc.structures import Activation, MapKind

ClassChoice = Callable[[Tensor], Sequence[int]]
MapMethod = Literal["auto", "cam", "layer_cam", "grad_cam"]
MOST_EXTRA_TOKENS = 8  # class and register tokens
CLASSES_PER_BACKWARD = 16  # bounds memory: each class holds one gradient of the chosen layer


@dataclass(frozen=True)
class ClassifierOutput:
    scores: Tensor  # (B, C) logits of every class
    maps: Tensor  # (B, K, rows, columns) of the wanted classes
    classes: tuple[int, ...]


class ClassifierMaps:
    """Maps of a classifier's classes; the model's mode, hooks and gradients stay as they were.

    `layer` names the module whose output carries the positions; None finds it on a probe.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Tensor,
        *,
        method: MapMethod = "auto",
        layer: str | None = None,
    ) -> None:
        self.model = model
        with _evaluation(model):
            self.linear = _last_linear(model) if method in ("auto", "cam") else None
            cam_layer = _cam_layer(model, self.linear, probe, layer) if self.linear else None
            if method == "cam" and cam_layer is None:
                raise SettingError(
                    "this network does not end in average pooling and one linear layer",
                    remedy="Use the method auto, layer_cam or grad_cam",
                )
            if method == "auto":
                method = "layer_cam"
            self.method: MapMethod = "cam" if cam_layer else method
            self.layer = cam_layer or _gradient_layer(model, probe, layer)

    def __call__(self, images: Tensor, choose: ClassChoice) -> ClassifierOutput:
        """`choose` names the wanted classes once the scores (B, C) are known."""
        with _evaluation(self.model):
            if self.method == "cam":
                return self._activation_maps(images, choose)
            return self._gradient_maps(images, choose)

    @torch.inference_mode()
    def _activation_maps(self, images: Tensor, choose: ClassChoice) -> ClassifierOutput:
        with _recorded(self.model, self.layer) as outputs:
            scores = self.model(images)
        assert self.linear is not None
        features = outputs[self.layer]
        classes = tuple(choose(scores))
        index = torch.as_tensor(classes, device=images.device, dtype=torch.long)
        weight, bias = _matrix(self.linear)
        maps = torch.einsum("bdhw,kd->bkhw", features, weight[index])
        return ClassifierOutput(scores, maps + bias[index][:, None, None], classes)

    def _gradient_maps(self, images: Tensor, choose: ClassChoice) -> ClassifierOutput:
        with torch.enable_grad(), _recorded(self.model, self.layer) as outputs:
            scores = self.model(images.detach().requires_grad_())
            activation = outputs[self.layer]
            classes = tuple(choose(scores.detach()))
            starts = range(0, len(classes), CLASSES_PER_BACKWARD)
            parts = [classes[start : start + CLASSES_PER_BACKWARD] for start in starts]
            gradients = (_class_gradients(scores, activation, part) for part in parts)
            maps = [self._weighted(activation, of_part, images.shape) for of_part in gradients]
        return ClassifierOutput(scores.detach(), torch.cat(maps, dim=1), classes)

    def _weighted(
        self, activation: Tensor, gradients: Tensor, image_shape: Sequence[int]
    ) -> Tensor:
        features = _positions(activation.detach(), image_shape, self.layer)
        slopes = torch.stack(
            [_positions(gradient, image_shape, self.layer) for gradient in gradients]
        )  # (K, B, D, h, w)
        if self.method == "layer_cam":
            maps = (slopes.relu() * features).sum(dim=2)
        else:
            maps = (slopes.mean(dim=(3, 4), keepdim=True) * features).sum(dim=2)
        return maps.relu().transpose(0, 1)


def _class_gradients(scores: Tensor, activation: Tensor, classes: Sequence[int]) -> Tensor:
    """The gradients of several class scores in one batched backward pass: (K, *activation)."""
    index = torch.as_tensor(list(classes), device=scores.device)
    directions = one_hot(index, scores.shape[1]).to(scores.dtype)  # (K, C)
    directions = directions[:, None].expand(-1, len(scores), -1)
    (gradients,) = torch.autograd.grad(
        scores, activation, directions, retain_graph=True, is_grads_batched=True
    )
    return gradients


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode again outside."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _recorded(model: nn.Module, layer: str | None) -> Iterator[dict[str, Tensor]]:
    """The outputs of the named layer (None: of all) during the block, in order of execution."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.pop(name, None)
            outputs[name] = output

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name and layer in (None, name):
                hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        yield outputs


def _positions(activation: Tensor, image_shape: Sequence[int], layer: str) -> Tensor:
    grid = _as_grid(activation, image_shape)
    if grid is None:
        raise SettingError(
            f"layer {layer!r} gives a tensor of shape {tuple(activation.shape)}, "
            f"which has no positions of an image of shape {tuple(image_shape)}",
            remedy="Name another layer with --layer",
        )
    return grid


def _as_grid(activation: Tensor, image_shape: Sequence[int]) -> Tensor | None:
    """(B, D, rows, columns) of any activation that keeps the image's positions, else None.

    Channels first, channels last, or tokens (B, N, D) with up to eight extra tokens in front.
    """
    batch, _, height, width = image_shape
    if activation.shape[0] != batch or activation.ndim not in (3, 4):
        return None
    if activation.ndim == 3:
        shape = _cells_of_tokens(activation.shape[1], height, width)
        if shape is None:
            return None
        patches = activation[:, activation.shape[1] - shape[0] * shape[1] :]
        return patches.transpose(1, 2).reshape(batch, -1, *shape)
    if _is_image_like(activation.shape[2:], height, width):
        return activation
    if _is_image_like(activation.shape[1:3], height, width):
        return activation.permute(0, 3, 1, 2)
    return None


def _is_image_like(shape: Sequence[int], height: int, width: int) -> bool:
    rows, columns = shape
    stretch = (rows * width) / (columns * height)
    return rows * columns > 1 and 2 / 3 < stretch < 3 / 2


def _cells_of_tokens(num_tokens: int, height: int, width: int) -> tuple[int, int] | None:
    for patch in (4, 7, 8, 14, 16, 28, 32):
        rows, columns = height // patch, width // patch
        if rows * columns > 1 and 0 <= num_tokens - rows * columns <= MOST_EXTRA_TOKENS:
            return rows, columns
    return None


def _last_linear(model: nn.Module) -> nn.Linear | nn.Conv2d | None:
    last: nn.Linear | nn.Conv2d | None = None
    for module in model.modules():
        if isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
        ):
            last = module
    return last


def _matrix(linear: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    weight = linear.weight.flatten(start_dim=1)
    return weight, weight.new_zeros(len(weight)) if linear.bias is None else linear.bias


@torch.inference_mode()
def _cam_layer(
    model: nn.Module, linear: nn.Linear | nn.Conv2d, probe: Tensor, layer: str | None
) -> str | None:
    """The last layer whose averaged output, through the linear layer, gives the logits."""
    weight, bias = _matrix(linear)
    with _recorded(model, None) as outputs:
        scores = model(probe)
    candidates = [layer] if layer else list(reversed(outputs))
    tolerance = 1e-3 * float(scores.abs().max()) + 1e-6
    for name in candidates:
        output = outputs.get(name)
        if output is None or output.ndim != 4 or output.shape[1] != weight.shape[1]:
            continue
        logits = output.mean(dim=(2, 3)) @ weight.T + bias
        fits = _is_image_like(output.shape[2:], *probe.shape[2:]) and logits.shape == scores.shape
        if fits and float((logits - scores).abs().max()) <= tolerance:
            return name
    return None


def _gradient_layer(model: nn.Module, probe: Tensor, layer: str | None) -> str:
    """The last layer with positions through most of which the scores flow, else through some.

    After the last attention block of a ViT only the class token reaches the scores; there the
    gradient is zero at all patches, and the layer before is meant.
    """
    if layer is not None:
        names = [name for name, _ in model.named_modules() if name]
        if layer not in names:
            raise SettingError(
                f"the network has no layer {layer!r}", remedy=did_you_mean(layer, names)
            )
        return layer
    linear = _last_linear(model)
    width = None if linear is None else _matrix(linear)[0].shape[1]
    with torch.enable_grad(), _recorded(model, None) as outputs:
        scores = model(probe.detach().requires_grad_())
        top = scores.max(dim=1).values.sum()
        grids = {name: _as_grid(outputs[name], probe.shape) for name in reversed(outputs)}
        widths = {name: grid.shape[1] for name, grid in grids.items() if grid is not None}
        reached: dict[str, float] = {}
        # Features as wide as the classifier's input come first: a ViT's keys and queries are not.
        for name in sorted(widths, key=lambda name: widths[name] != width):
            (gradient,) = torch.autograd.grad(
                top, outputs[name], retain_graph=True, materialize_grads=True
            )
            changing = _positions(gradient, probe.shape, name).abs().amax(dim=1) > 0
            reached[name] = float(changing.float().mean())
            if reached[name] > 0.5:
                return name
    for name, share in reached.items():  # global max pooling: one position a channel
        if share > 0:
            return name
    raise SettingError(
        "no layer of this network keeps positions up to its scores",
        remedy="Name the layer yourself with --layer",
    )


class ClassifierSource:
    """Maps of the classes that are likely in a batch; those of all other classes are zero.

    Classes without names are called by their number.
    """

    map_kind: MapKind = "cam"
    geometry = CellGeometry(1, "uniform", 1.0)  # its maps tile the input, whatever their stride

    def __init__(
        self,
        model: nn.Module,
        places: Places,
        *,
        class_names: Sequence[str] | None,
        preprocessing: Preprocessing,
        activation: Activation,
        method: MapMethod = "auto",
        layer: str | None = None,
    ) -> None:
        self.preprocessing = preprocessing
        self.activation: Activation = activation
        self._places = replace(places, top=max(places.top, 1))
        width, height = preprocessing.fixed_size or (224, 224)
        device = next(model.parameters()).device
        # Ones would leave whole layers dead: the probe has to look like an image.
        probe = torch.linspace(-2, 2, 3 * width * height, device=device)
        probe = probe.view(1, 3, height, width).roll(width // 3, -1)
        self.maps = ClassifierMaps(model, probe, method=method, layer=layer)
        if class_names is None:
            class_names = [str(n) for n in range(self.maps(probe, lambda _: [0]).scores.shape[1])]
        self.class_names = tuple(class_names)

    def read(self, images: Tensor) -> RawMaps:
        device = next(self.maps.model.parameters()).device
        output = self.maps(images.to(device), self._likely)
        scores = output.scores.float().cpu().numpy()
        maps = np.zeros((*scores.shape, *output.maps.shape[2:]), dtype=np.float32)
        maps[:, list(output.classes)] = output.maps.detach().float().cpu().numpy()
        return RawMaps(scores, maps)

    def _likely(self, scores: Tensor) -> list[int]:
        values = probabilities(scores.float().cpu().numpy(), self.activation)
        return sorted({k for row in values for k in wanted_classes(row, None, self._places)})
