"""Name -> backbone: images in, feature maps out, with all that a caller must know of it.

Where a cell looks. Networks whose strided layers are not padded (AlexNet and VGG-16 with their
224 px window, SqueezeNet) state the centre of cell 0 by arithmetic. All others say "uniform": cell
j of w is centred at (j + 0.5) W / w. Arithmetic would put a padded chain of 3x3 convolutions of
stride 2 almost half a cell beside that: at 32 j + 0.5 (ResNet, padding 1) or 32 j + 31.5
(TensorFlow's "same"). Measured as the centre of mass of a cell's squared input gradient, a
ResNet-18 of random weights does look at 32 j + 0.5, but MobileNetV2 ("same") with trained weights
looks at 32 j + 22.4, nearer to uniform (32 j + 16): training undoes most of the shift. `tiny`,
ConvNeXt and vision transformers tile their input, so that both answers agree.

A transformer's patch tokens become a grid again; its position embedding is interpolated to the
input, whose sides must be multiples of the patch.

`fully_connected="convolution"` reads FC6 and FC7 of AlexNet and VGG-16 as convolutions: a 224 px
window moves over the image in steps of 32 px (max-MIL). "head" stops at the last pooling and keeps
FC6 and FC7 aside for a fixed-grid head (BEAM); "none" stops there without them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from weakloc.errors import ExtensionError, SettingError, did_you_mean
from weakloc.extensions import Choices, package_of
from weakloc.model.trunk import (
    DEPTHS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneSpec,
    CellGeometry,
    FirstCenter,
    Trunk,
    TrunkFacts,
    arguments_of,
    build_preact,
    build_tiny,
    run_stages,
)
from weakloc.model.weights import (
    EMBEDDED,
    hub_cache_when_unreachable,
    load_file_into,
    require_answer,
    weights_not_at_hand,
)

_LARGEST_MINIMUM = 512


class Backbone(nn.Module):
    """A trunk and its facts; strides, centres and sizes are in pixels of the network's input."""

    def __init__(self, trunk: Trunk, spec: BackboneSpec) -> None:
        super().__init__()
        facts = trunk.facts
        self.trunk = trunk
        self.name = spec.name
        self.spec = spec
        self.out_channels = facts.out_channels
        self.stride = facts.stride
        window = facts.window or float(facts.stride)
        self.geometry = CellGeometry(facts.stride, facts.first_center, window)
        self.mean = spec.mean or facts.mean
        self.std = spec.std or facts.std
        self.input_multiple = facts.input_multiple
        self.level_strides = facts.level_strides
        self.loaded_weights, self.licence = trunk.loaded_weights, trunk.licence
        self.pretrained_layers = trunk.pretrained_layers
        self.min_input = _smallest_input(trunk)

    @property
    def is_pretrained(self) -> bool:
        return self.loaded_weights is not None

    @property
    def probe_side(self) -> int:
        """A side that leaves cells on every level: whole strides of 32, at least two."""
        return 32 * max(math.ceil(self.min_input / 32), 2)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.trunk(images)[self.stride]
        return features

    def early_levels(self, images: Tensor, levels: Sequence[int]) -> dict[int, Tensor]:
        """Feature maps by stride, without computing what comes after them."""
        parts = [images]
        if images.device.type == "cpu" and not torch.compiler.is_compiling():  # nor exported
            parts = [*torch.split(images, 2)]  # what its caches hold: eight take half as long again
        maps = [self.trunk.early(part, tuple(levels)) for part in parts]
        return {stride: torch.cat([part[stride] for part in maps]) for stride in levels}

    def map_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of an input -> (columns, rows) of its map, by running the network."""
        features = _map_of_nothing(self.trunk, input_size)
        return features.shape[3], features.shape[2]

    def weights_digest(self) -> str:
        """Of their names and values, as hexadecimal digits."""
        digest = sha256()
        for name, value in sorted(self.trunk.state_dict().items()):
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def build_backbone(spec: BackboneSpec) -> Backbone:
    """The backbone that a spec names, with its weights."""
    if spec.name.startswith(HUB):
        spec = architecture_of(spec)
    name, package = spec.name, package_of("backbones", spec.name)
    if package or name not in BACKBONES:
        import timm

        if timm.is_model(name) and package:
            raise ExtensionError(
                f"timm and {package} have the same name among their backbones",
                location=repr(name),
                remedy=f"Uninstall {package}",
            )
        if timm.is_model(name):
            return Backbone(build_timm_trunk(spec), spec)
        if not package:
            raise SettingError(
                f"backbone {name!r} is not known",
                location="--backbone",
                remedy=did_you_mean(name, [*BACKBONES, *timm.list_models()]),
            )
    return Backbone(BACKBONES[name](spec), spec)


def _smallest_input(trunk: Trunk) -> int:
    """The smallest side, in steps of the stride, that leaves a cell."""
    step = max(trunk.facts.stride, trunk.facts.input_multiple)
    for side in range(step, _LARGEST_MINIMUM + 1, step):
        try:
            features = _map_of_nothing(trunk, (side, side))
        except RuntimeError:  # a kernel is larger than its map
            continue
        if features.numel() > 0:
            return side
    raise SettingError("this network gives no feature map", location="--backbone")


def _map_of_nothing(trunk: Trunk, input_size: tuple[int, int]) -> Tensor:
    """The last map of an input of zeros; no trace in batch statistics, modes or random state."""
    was_training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad():
            outputs: dict[int, Tensor] = trunk(torch.zeros(1, 3, *reversed(input_size)))
        return outputs[trunk.facts.stride]
    finally:
        trunk.train(was_training)


HUB = "hf-hub:"
# What lets a transformer take any input size, by the argument that its family understands.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmTrunk(Trunk):
    def __init__(self, model: Any, facts: TrunkFacts) -> None:
        super().__init__()
        self.model: nn.Module = model
        self.facts = facts
        self.level_indices = {
            level["reduction"]: index for index, level in enumerate(model.feature_info)
        }

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]:
        model: Any = self.model
        extra = [level for level in levels if level != self.facts.stride]
        if not extra:
            return {self.facts.stride: self._as_grid(model.forward_features(images), images)}
        last, kept = self._intermediates(images, extra)
        outputs = dict(zip(extra, kept, strict=True))
        return {**outputs, self.facts.stride: self._as_grid(last, images)}

    def early(self, images: Tensor, levels: Sequence[int]) -> dict[int, Tensor]:
        if self.facts.stride in levels:
            return super().early(images, levels)
        kept = self._intermediates(images, levels, stop_early=True, intermediates_only=True)
        return dict(zip(levels, kept, strict=True))

    def _intermediates(self, images: Tensor, levels: Sequence[int], **options: bool) -> Any:
        model: Any = self.model
        indices = [self.level_indices[level] for level in levels]
        return model.forward_intermediates(images, indices=indices, output_fmt="NCHW", **options)

    def _as_grid(self, features: Tensor, images: Tensor) -> Tensor:
        """Tokens (B, prefix + h * w, D) or channels-last maps (B, h, w, D) -> (B, D, h, w)."""
        if features.ndim == 3:
            rows = images.shape[2] // self.facts.stride
            tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            features = tokens.reshape(tokens.shape[0], rows, -1, tokens.shape[2])
        elif getattr(self.model, "output_fmt", "NCHW") != "NHWC":
            return features
        return features.permute(0, 3, 1, 2)


def architecture_of(spec: BackboneSpec) -> BackboneSpec:
    """What the id of a hub stands for: a run's record is to name a network, not a place."""
    from timm.models import load_model_config_from_hf

    try:
        with hub_cache_when_unreachable():
            facts, name, arguments = load_model_config_from_hf(spec.name.removeprefix(HUB))
    except (OSError, RuntimeError, ValueError) as error:
        raise weights_not_at_hand(spec.name, error) from error
    return replace(
        spec,
        name=name,
        arguments={**(arguments or {}), **spec.arguments},
        mean=spec.mean or (tuple(facts["mean"]) if "mean" in facts else None),
        std=spec.std or (tuple(facts["std"]) if "std" in facts else None),
        weights=spec.name if spec.weights == "default" else spec.weights,
    )


def build_timm_trunk(spec: BackboneSpec) -> TimmTrunk:
    model = _create(spec)
    config = model.pretrained_cfg or {}
    classifier = config.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    keys = tuple(f"{name}." for name in (*names, "fc", "classifier", "head", "head_dist"))
    if spec.weights not in ("default", "none"):
        load_file_into(model, spec.weights, ignored=keys)
    strides = [int(level["reduction"]) for level in model.feature_info]
    if spec.output_stride not in (None, strides[-1]):
        raise _no_output_stride(spec)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    facts = TrunkFacts(
        stride=strides[-1],
        out_channels=int(model.num_features),
        level_strides=tuple(sorted(set(strides))),
        mean=tuple(config.get("mean", IMAGENET_MEAN)),
        std=tuple(config.get("std", IMAGENET_STD)),
        input_multiple=int(patch[0]) if patch and patch[0] == strides[-1] else 1,
    )
    trunk = TimmTrunk(model, facts)
    if spec.weights == "default" or spec.weights.startswith(HUB):
        trunk.loaded_weights = config.get("hf_hub_id") or spec.name
        trunk.licence = config.get("license") if spec.weights == "default" else None
    elif spec.weights != "none":
        trunk.loaded_weights = spec.weights
    _release_unused(trunk)
    return trunk


def build_embedded_trunk(spec: BackboneSpec) -> TimmTrunk:
    """A network of timm by a name of ours; its published weights come with an installed package."""
    embedded = EMBEDDED[spec.name]
    if spec.weights != "default":
        return build_timm_trunk(replace(spec, name=embedded.timm_name))
    trunk = build_timm_trunk(replace(spec, name=embedded.timm_name, weights="none"))
    trunk.loaded_weights = embedded.load_into(trunk.model, name=spec.name)
    return trunk


def _release_unused(trunk: TimmTrunk) -> None:
    """Parameters that the features do not depend on (a classifier's) are not trained.

    They would otherwise halt training on several devices.
    """
    trunk.eval()
    side = trunk.facts.stride * math.ceil(96 / trunk.facts.stride)
    features = trunk(torch.zeros(1, 3, side, side))[trunk.facts.stride]
    trained = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(features.sum(), trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    trunk.train()


def _create(spec: BackboneSpec) -> Any:
    overlay: dict[str, Any] | None = None
    if spec.weights.startswith(HUB):
        overlay = {"hf_hub_id": spec.weights.removeprefix(HUB), "url": "", "file": ""}
    is_published = overlay is not None or spec.weights == "default"
    try:
        with hub_cache_when_unreachable() if is_published else nullcontext():
            return _of_any_size(spec, pretrained=is_published, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError, ValueError) as error:
        if not is_published:
            raise
        raise weights_not_at_hand(spec.name, error) from error


def _of_any_size(spec: BackboneSpec, **source: Any) -> Any:
    import timm

    arguments = {**spec.arguments, "num_classes": 0}
    if spec.output_stride is not None and spec.output_stride != 32:
        arguments["output_stride"] = spec.output_stride
    for any_size in _ANY_SIZE:
        try:
            return timm.create_model(spec.name, **source, **{**any_size, **arguments})
        except TypeError as error:
            match = re.search(r"unexpected keyword argument\D*?'(\w+)'", str(error))
            refused = match[1] if match else None
            if refused == "output_stride":
                raise _no_output_stride(spec) from error
            if refused in spec.arguments:
                raise SettingError(
                    f"{spec.name} has no argument {refused!r}",
                    location="--backbone",
                    remedy="See the model's page in timm for what it takes",
                ) from error
            if refused not in any_size:
                raise
        except (AssertionError, NotImplementedError) as error:
            if "output_stride" in arguments:
                raise _no_output_stride(spec) from error
            raise
    raise AssertionError("an empty set of arguments cannot be refused")


def _no_output_stride(spec: BackboneSpec) -> SettingError:
    return SettingError(
        f"{spec.name} cannot have an output stride of {spec.output_stride}",
        location="--output-stride",
        remedy="Leave it out, or choose a ResNet, EfficientNet or MobileNet",
    )


FullyConnected: TypeAlias = Literal["convolution", "head", "none"]


@dataclass(frozen=True, slots=True)
class _Architecture:
    grid_side: int | None  # of the map that FC6 takes; None: fully convolutional
    channels: int
    stride: int
    first_center: FirstCenter = "uniform"


# SqueezeNet pads none of its strided layers: cell 0 looks at 1 + 2 + 4 + 8 + 0.5.
ARCHITECTURES = {
    "alexnet": _Architecture(6, 256, 32),
    "vgg16": _Architecture(7, 512, 32),
    "squeezenet1_1": _Architecture(None, 512, 16, first_center=15.5),
}
_WINDOW, _FIRST_CENTER = 224.0, 112.0


class TorchvisionTrunk(Trunk):
    """The feature layers in a row, then (alexnet, vgg16) FC6 and FC7 as convolutions."""

    def __init__(
        self,
        layers: nn.Module,
        facts: TrunkFacts,
        strides: Sequence[int],
        kept: Sequence[nn.Linear],
    ) -> None:
        super().__init__()
        self.layers = layers
        self.facts = facts
        self.strides = tuple(strides)
        self.pretrained_layers = tuple(kept)  # not registered: they belong to the head

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]:
        return run_stages(images, self.layers.children(), self.strides, levels)


def build_torchvision_trunk(spec: BackboneSpec) -> TorchvisionTrunk:
    architecture = ARCHITECTURES[spec.name]
    arguments = arguments_of(spec, ["fully_connected"])
    default = "none" if architecture.grid_side is None else "convolution"
    mode: Any = arguments.get("fully_connected", default)
    if mode not in get_args(FullyConnected) or (architecture.grid_side is None and mode != "none"):
        raise SettingError(
            f"fully_connected={mode!r} is not possible for {spec.name}",
            location="--backbone",
            remedy=did_you_mean(str(mode), get_args(FullyConnected)),
        )
    model, loaded_weights = _load(spec)
    layers = list(model.features.children())
    strides, dilation = _dilate(layers, spec.output_stride or architecture.stride)
    linear = [layer for layer in model.classifier.modules() if isinstance(layer, nn.Linear)]
    channels, window, first_center = architecture.channels, None, architecture.first_center
    if mode == "convolution":
        layers += _as_convolutions(linear, architecture, dilation)
        strides += [strides[-1]] * 4
        channels, window, first_center = linear[-1].out_features, _WINDOW, _FIRST_CENTER
    facts = TrunkFacts(
        stride=strides[-1],
        out_channels=channels,
        level_strides=tuple(sorted(set(strides))),
        first_center=first_center,
        window=window,
    )
    kept = linear if mode == "head" else []
    trunk = TorchvisionTrunk(nn.Sequential(*layers), facts, strides, kept)
    trunk.loaded_weights = loaded_weights
    return trunk


def _load(spec: BackboneSpec) -> tuple[Any, str | None]:
    """The whole torchvision classifier without its last layer, and the name of its weights."""
    import torchvision

    model = torchvision.models.get_model(spec.name, weights=None)
    if ARCHITECTURES[spec.name].grid_side is None:
        model.classifier, ignored = nn.Identity(), ("classifier.",)
    else:
        model.classifier[6], ignored = nn.Identity(), ("classifier.6.",)
    if spec.weights == "default":
        # Those of the first publication, which papers of the time used.
        weights = torchvision.models.get_model_weights(spec.name)["IMAGENET1K_V1"]
        try:
            cached = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
            if not cached.is_file():
                require_answer(weights.url)
            tensors = weights.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise weights_not_at_hand(spec.name, error) from error
        model.load_state_dict(tensors, strict=False)
        return model, str(weights)
    if spec.weights == "none":
        return model, None
    load_file_into(model, spec.weights, ignored=ignored)
    return model, spec.weights


def _dilate(layers: Sequence[Any], output_stride: int) -> tuple[list[int], int]:
    """Strides beyond `output_stride` become dilation of all that follows (in place).

    The same function is then evaluated on a denser grid. Gives the stride after every layer.
    """
    stride, dilation, strides = 1, 1, []
    for layer in layers:
        for part in layer.modules():
            if isinstance(part, nn.Conv2d):
                part.padding = tuple(int(side) * dilation for side in part.padding)
                part.dilation = (dilation, dilation)
            elif isinstance(part, nn.MaxPool2d) and isinstance(part.padding, int):
                part.padding, part.dilation = part.padding * dilation, dilation
        is_strided = isinstance(layer, (nn.Conv2d, nn.MaxPool2d))
        step = layer.stride if is_strided else 1
        step = int(step[0] if isinstance(step, tuple) else step)
        if stride * step <= output_stride:
            stride *= step
        else:
            layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1
            dilation *= step
        strides.append(stride)
    return strides, dilation


def _as_convolutions(
    linear: Sequence[nn.Linear], architecture: _Architecture, dilation: int
) -> list[nn.Module]:
    """FC6 (O, D * L * L) -> (O, D, L, L) and FC7 (O, I) -> (O, I, 1, 1), each with its ReLU."""
    layers: list[nn.Module] = []
    for layer, side, spread in zip(
        linear, (architecture.grid_side or 1, 1), (dilation, 1), strict=True
    ):
        channels = layer.in_features // side**2
        convolution: nn.Conv2d = skip_init(  # type: ignore[no-untyped-call]
            nn.Conv2d, channels, layer.out_features, side, dilation=spread
        )
        weight = layer.weight.detach().view(-1, channels, side, side)
        convolution.load_state_dict({"weight": weight, "bias": layer.bias.detach()})
        layers += [convolution, nn.ReLU(inplace=True)]
    return layers


BACKBONES: Mapping[str, Callable[[BackboneSpec], Trunk]] = Choices(
    "backbones",
    {
        "tiny": build_tiny,
        **dict.fromkeys(DEPTHS, build_preact),
        **dict.fromkeys(ARCHITECTURES, build_torchvision_trunk),
        **dict.fromkeys(EMBEDDED, build_embedded_trunk),
    },
)
