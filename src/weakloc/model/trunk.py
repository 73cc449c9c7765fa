"""What every family of trunks tells the backbone that wraps it, and weakloc's own small trunks.

`tiny` is to train from scratch in minutes without a GPU: its blocks narrow the features before
their 3x3 convolution, twice as deep for the same time. Stride-2 convolutions with 4x4 kernels and
one pixel of padding keep every cell centred on the square of pixels that it stands for, so the
score map tiles the input exactly.
"""

from __future__ import annotations

import ast
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from weakloc.errors import SettingError, did_you_mean
from weakloc.geometry import GridTransform
from weakloc.model.weights import load_file_into

Statistics: TypeAlias = tuple[float, float, float]
OUTPUT_STRIDES = (8, 16, 32)
_FORM = re.compile(r"^\s*(?P<name>[^\[\]\s]+)\s*(?:\[(?P<arguments>.*)\])?\s*$", re.DOTALL)


_PLACES = re.compile("cache|checkpoint|dir|file|hub|path|pretrained|url")  # in names of arguments
_MOST = 10_000


@dataclass(frozen=True)
class BackboneSpec:
    """`weights` is "default" (published ones), "none", a file, or a hub id `hf-hub:owner/name`."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mean: Statistics | None = None  # None: the backbone's own
    std: Statistics | None = None
    weights: str = "default"
    output_stride: int | None = None  # None: the backbone's own

    def __post_init__(self) -> None:
        if self.output_stride not in (None, *OUTPUT_STRIDES):
            raise SettingError(
                f"output stride {self.output_stride} is not possible",
                location="--output-stride",
                remedy="Choose 8, 16 or 32",
            )

    @classmethod
    def parse(
        cls, text: str, *, weights: str = "default", output_stride: int | None = None
    ) -> BackboneSpec:
        match = _FORM.match(text)
        if match is None:
            raise _malformed(text, "it is not NAME or NAME[key=value,...]")
        arguments = _parsed_arguments(match["arguments"] or "", text)
        return cls(
            match["name"],
            mean=_statistics(arguments.pop("mean", None), "mean", text),
            std=_statistics(arguments.pop("std", None), "std", text),
            arguments=arguments,
            weights=weights,
            output_stride=output_stride,
        )

    def require_plain(self) -> None:
        """ValueError where a part may be a place to read from: a record may be anybody's."""
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"backbone {self.name!r} is a place, not a name")
        for key, value in self.arguments.items():
            parts = value if isinstance(value, (tuple, list)) else (value,)
            is_word = isinstance(value, str) and value.isidentifier() and not _PLACES.search(key)
            numbers = [part for part in parts if isinstance(part, (int, float))]
            if not is_word and (len(numbers) < len(parts) or max(map(abs, numbers)) > _MOST):
                reason = f"is neither a word nor a number up to {_MOST:,}"
                raise ValueError(f"backbone argument {key}={value!r} {reason}")

    def __str__(self) -> str:
        """The text that `parse` reads back."""
        shown = dict(self.arguments)
        shown.update({key: value for key in ("mean", "std") if (value := getattr(self, key))})
        inner = ",".join(f"{key}={value!r}" for key, value in shown.items())
        return f"{self.name}[{inner}]" if inner else self.name


def _parsed_arguments(inner: str, whole: str) -> dict[str, Any]:
    """`key=value,...` as Python reads a call, and nothing of it is run: literals or plain text."""
    source = f"_({inner})"
    try:
        call = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        is_open = re.search("never closed|unterminated|does not match|unmatched", error.msg)
        no_pairs = f"{inner!r} is not key=value, with quotes around what is no plain word"
        reason = "a bracket or quote is left open" if is_open else no_pairs
        raise _malformed(whole, reason) from error
    if not isinstance(call, ast.Call) or call.args or not all(key.arg for key in call.keywords):
        raise _malformed(whole, f"{inner!r} is not key=value")
    arguments = {}
    for key in call.keywords:
        try:
            arguments[str(key.arg)] = ast.literal_eval(key.value)
        except ValueError:
            arguments[str(key.arg)] = ast.get_source_segment(source, key.value)  # a plain word
    return arguments


def _statistics(value: Any, key: str, whole: str) -> Statistics | None:
    if value is None:
        return None
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 3
    if len(values) != 3 or not all(isinstance(part, (int, float)) for part in values):
        raise _malformed(whole, f"{key} must be a number or three of them")
    if key == "std" and min(values) <= 0:
        raise _malformed(whole, "std must be positive")
    return float(values[0]), float(values[1]), float(values[2])


def _malformed(text: str, reason: str) -> SettingError:
    return SettingError(
        f"backbone {text!r} cannot be read: {reason}",
        location="--backbone",
        remedy="Write for example 'mobilenetv2_100[pad_type=same,mean=0.5,std=0.5]'",
    )


IMAGENET_MEAN: Statistics = (0.485, 0.456, 0.406)
IMAGENET_STD: Statistics = (0.229, 0.224, 0.225)
FirstCenter: TypeAlias = float | Literal["uniform"]


@dataclass(frozen=True, slots=True)
class TrunkFacts:
    """Strides and centres as in `CellGeometry`."""

    stride: int
    out_channels: int
    level_strides: tuple[int, ...]
    mean: Statistics = IMAGENET_MEAN
    std: Statistics = IMAGENET_STD
    input_multiple: int = 1
    first_center: FirstCenter = "uniform"
    window: float | None = None  # None: the stride


@dataclass(frozen=True)
class CellGeometry:
    """Where the cells of a map lie, in pixels of the network's input.

    Cell (0, 0) is centred at `first_center` both ways, neighbours are `stride` apart, each stands
    for a square of `window`. "uniform": the cells tile the input, whatever its size.
    """

    stride: int
    first_center: FirstCenter
    window: float

    def cell_transform(
        self, input_transform: GridTransform, rows: int, columns: int
    ) -> GridTransform:
        """From image pixels to the cells of a map, given the way to the network's input."""
        if self.first_center == "uniform":
            return input_transform.resize((float(columns), float(rows)))
        cells = columns, rows
        return input_transform.to_cells(cells, stride=self.stride, first_center=self.first_center)


class Trunk(nn.Module, ABC):
    """Images -> feature maps by stride; the last level is always among them."""

    facts: TrunkFacts
    loaded_weights: str | None = None  # as their source names them; None: random ones
    licence: str | None = None  # of published weights, as their source has it
    pretrained_layers: tuple[nn.Linear, ...] = ()  # fully connected ones, for a fixed-grid head

    @abstractmethod
    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]: ...

    def early(self, images: Tensor, levels: Sequence[int]) -> dict[int, Tensor]:
        """These levels alone; a trunk that can stops after the last of them."""
        features = self(images, levels)
        return {level: features[level] for level in levels}


def run_stages(
    images: Tensor, stages: Iterable[nn.Module], strides: Sequence[int], levels: Sequence[int]
) -> dict[int, Tensor]:
    """What comes out of the last stage of each stride that is asked for, and of the last of all."""
    features, outputs = images, {}
    for stage, stride in zip(stages, strides, strict=True):
        features = stage(features)
        if stride in (*levels, strides[-1]):
            outputs[stride] = features
    return outputs


def arguments_of(spec: BackboneSpec, known: Sequence[str]) -> dict[str, Any]:
    """The arguments in the brackets of a spec, after checking their names."""
    for key in spec.arguments:
        if key not in known:
            raise SettingError(
                f"{spec.name} has no argument {key!r}",
                location="--backbone",
                remedy=did_you_mean(key, known),
            )
    return dict(spec.arguments)


def with_weights(trunk: Trunk, spec: BackboneSpec) -> Trunk:
    """The trunk, where it has the stride that is asked for, with the spec's file of weights.

    Without published ones, "default" is random.
    """
    if spec.output_stride not in (None, trunk.facts.stride):
        raise SettingError(
            f"{spec.name} has a stride of {trunk.facts.stride}, not {spec.output_stride}",
            location="--output-stride",
            remedy="Leave it out",
        )
    if spec.weights not in ("default", "none"):
        load_file_into(trunk, spec.weights, ignored=("fc.", "classifier.", "head."))
        trunk.loaded_weights = spec.weights
    return trunk


HALF = (0.5, 0.5, 0.5)


class TinyTrunk(Trunk):
    """Features of stride 8, most of the work done there; 0.4 million parameters."""

    def __init__(self, *, width: int = 32) -> None:
        super().__init__()
        first, middle, wide = 3 * width // 4, 2 * width, 4 * width
        self.stages = nn.ModuleDict(
            {
                "2": _halve(3, first),
                "4": nn.Sequential(_halve(first, middle), _Bottleneck(middle)),
                "8": nn.Sequential(_halve(middle, wide), *(_Bottleneck(wide) for _ in range(4))),
            }
        )
        self.facts = TrunkFacts(
            stride=8,
            out_channels=wide,
            level_strides=(2, 4, 8),
            mean=HALF,
            std=HALF,
            first_center=4.0,
        )

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]:
        return run_stages(images, self.stages.values(), self.facts.level_strides, levels)


def _layers(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution of 1x1, 3x3 or, of stride 2, 4x4 with its batch norm and ReLU."""
    padding = (kernel - 1) // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_layers(inputs, outputs, 4, stride=2))


class _Bottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 2
        last_norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(last_norm.weight)  # Each block starts as the identity.
        self.body = nn.Sequential(
            *_layers(channels, narrow, 1),
            *_layers(narrow, narrow, 3),
            nn.Conv2d(narrow, channels, 1, bias=False),
            last_norm,
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features + self.body(features))


DEPTHS = {"preact18": (2, 2, 2, 2), "preact34": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
# stem -> (kernel, stride, max pooling, stride of every group); 64 px give 8, 4, 4 and 2 cells.
STEMS = {
    "cifar": (3, 1, False, (1, 2, 2, 2)),
    "s2": (3, 2, False, (1, 2, 2, 2)),
    "cam": (7, 2, True, (1, 2, 2, 1)),
    "imagenet": (7, 2, True, (1, 2, 2, 2)),
}


class PreactTrunk(Trunk):
    def __init__(self, name: str, *, stem: str = "cifar") -> None:
        super().__init__()
        if stem not in STEMS:
            raise SettingError(
                f"stem {stem!r} is not known",
                location="--backbone",
                remedy=did_you_mean(stem, STEMS),
            )
        kernel, stride, has_pool, steps = STEMS[stem]
        layers: list[nn.Module] = [nn.Conv2d(3, 64, kernel, stride, kernel // 2, bias=False)]
        if has_pool:
            layers += [nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
            stride *= 2
        self.stem = nn.Sequential(*layers)
        self.groups = nn.ModuleList()
        for inputs, width, depth, step in zip(
            (64, *WIDTHS[:-1]), WIDTHS, DEPTHS[name], steps, strict=True
        ):
            blocks = [_Block(inputs, width, step, leading_norm=False)]
            blocks += [_Block(width, width, 1, leading_norm=True) for _ in range(depth - 1)]
            norm = nn.BatchNorm2d(width)
            self.groups.append(nn.Sequential(*blocks, norm, nn.ReLU(inplace=True)))
        self.group_strides = [stride * factor for factor in accumulate(steps, mul)]
        self.facts = TrunkFacts(
            stride=self.group_strides[-1],
            out_channels=WIDTHS[-1],
            level_strides=tuple(sorted({*self.group_strides})),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]:
        return run_stages(self.stem(images), self.groups, self.group_strides, levels)


class _Block(nn.Module):
    def __init__(self, in_channels: int, width: int, step: int, *, leading_norm: bool) -> None:
        super().__init__()
        self.lead: nn.Module = nn.Identity()
        if leading_norm:
            self.lead = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, step, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != width:
            self.shortcut = nn.Conv2d(in_channels, width, 1, step, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        change: Tensor = self.body(self.lead(features))
        return change + self.shortcut(features)  # type: ignore[no-any-return]


def build_tiny(spec: BackboneSpec) -> Trunk:
    return with_weights(TinyTrunk(**arguments_of(spec, ("width",))), spec)


def build_preact(spec: BackboneSpec) -> Trunk:
    return with_weights(PreactTrunk(spec.name, **arguments_of(spec, ("stem",))), spec)
