"""What every family of trunks tells the backbone that wraps it."""

from __future__ import annotations

import ast
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from weakloc.errors import SettingError, did_you_mean
from weakloc.geometry import GridTransform
from weakloc.model.weights import load_file_into

Statistics: TypeAlias = tuple[float, float, float]
OUTPUT_STRIDES = (8, 16, 32)
_FORM = re.compile(r"^\s*(?P<name>[^\[\]\s]+)\s*(?:\[(?P<arguments>.*)\])?\s*$", re.DOTALL)


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
                where="--output-stride",
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

    def with_argument(self, key: str, value: Any) -> BackboneSpec:
        return replace(self, arguments={**self.arguments, key: value})

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
        where="--backbone",
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
        return input_transform.to_cells(
            (columns, rows), stride=self.stride, first_center=self.first_center, window=self.window
        )


class Trunk(nn.Module, ABC):
    """Images -> feature maps by stride; the last level is always among them."""

    facts: TrunkFacts
    is_pretrained = False
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
                where="--backbone",
                remedy=did_you_mean(key, known),
            )
    return dict(spec.arguments)


def with_weights(trunk: Trunk, spec: BackboneSpec) -> Trunk:
    """The trunk with the spec's file of weights; without published ones, "default" is random."""
    if spec.weights not in ("default", "none"):
        load_file_into(trunk, spec.weights, ignored=("fc.", "classifier.", "head."))
        trunk.is_pretrained = True
    return trunk
