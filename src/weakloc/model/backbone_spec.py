"""How a backbone is named: `resnet50`, `mobilenetv2_100[pad_type=same,mean=0.5,std=0.5]`.

NAME[key=value,...]: a value is a Python literal (number, True, tuple, quoted text) or a bare word.
`mean` and `std` replace the normalisation, everything else is an argument of the model.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from weakloc.errors import SettingError

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
        arguments = dict(_argument(item, text) for item in _split(match["arguments"] or "", text))
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


def _split(text: str, whole: str) -> list[str]:
    """Items between the commas that stand outside of brackets and quotes."""
    items, depth, quote, start = [], 0, "", 0
    for position, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif sign == "," and depth == 0:
            items.append(text[start:position])
            start = position + 1
    if quote or depth:
        raise _malformed(whole, "a bracket or quote is left open")
    return [item for item in [*items, text[start:]] if item.strip()]


def _argument(item: str, whole: str) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in item.partition("="))
    if not equals or not key.isidentifier() or not value:
        raise _malformed(whole, f"{item.strip()!r} is not key=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a bare word


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
