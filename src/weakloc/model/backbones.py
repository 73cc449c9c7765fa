"""Name -> backbone: images in, feature maps out, with all that a caller must know of it.

Where a cell looks. Networks whose strided layers are not padded (AlexNet and VGG-16 with their
224 px window, SqueezeNet) state the centre of cell 0 by arithmetic. All others say "uniform": cell
j of w is centred at (j + 0.5) W / w. Arithmetic would put a padded chain of 3x3 convolutions of
stride 2 almost half a cell beside that: at 32 j + 0.5 (ResNet, padding 1) or 32 j + 31.5
(TensorFlow's "same"). Measured as the centre of mass of a cell's squared input gradient, a
ResNet-18 of random weights does look at 32 j + 0.5, but MobileNetV2 ("same") with trained weights
looks at 32 j + 22.4, nearer to uniform (32 j + 16): training undoes most of the shift. `tiny`,
ConvNeXt and vision transformers tile their input, so that both answers agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import torch
from torch import Tensor, nn

from weakloc.errors import ExtensionError, SettingError, did_you_mean
from weakloc.extensions import Choices, package_of
from weakloc.model.timm_trunk import architecture_of, build_embedded_trunk, build_timm_trunk
from weakloc.model.torchvision_trunks import ARCHITECTURES, build_torchvision_trunk
from weakloc.model.trunk import DEPTHS, BackboneSpec, CellGeometry, Trunk, build_preact, build_tiny
from weakloc.model.weights import EMBEDDED

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
        self.loaded_weights = trunk.loaded_weights
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
        outputs: dict[int, Tensor] = self.trunk.early(images, tuple(levels))
        return outputs

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
    spec = architecture_of(spec)
    return Backbone(_builder(spec.name)(spec), spec)


def _builder(name: str) -> Callable[[BackboneSpec], Trunk]:
    package = package_of("backbones", name)
    if name in BACKBONES and not package:
        return BACKBONES[name]
    import timm

    is_timm = timm.is_model(name)
    if is_timm and package:
        raise ExtensionError(
            f"timm and {package} have the same name among their backbones",
            location=repr(name),
            remedy=f"Uninstall {package}",
        )
    if is_timm:
        return build_timm_trunk
    if package:
        return BACKBONES[name]
    raise SettingError(
        f"backbone {name!r} is not known",
        location="--backbone",
        remedy=did_you_mean(name, [*BACKBONES, *timm.list_models()]),
    )


BACKBONES: Mapping[str, Callable[[BackboneSpec], Trunk]] = Choices(
    "backbones",
    {
        "tiny": build_tiny,
        **dict.fromkeys(DEPTHS, build_preact),
        **dict.fromkeys(ARCHITECTURES, build_torchvision_trunk),
        **dict.fromkeys(EMBEDDED, build_embedded_trunk),
    },
)


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
