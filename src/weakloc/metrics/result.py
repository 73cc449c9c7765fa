"""What a metric answers: one named number with its convention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

SCHEMA = "weakloc.metric/1"
Detail: TypeAlias = float | int | str | Mapping[str, float] | tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Interval:
    """The central 95 % of the bootstrap values."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric against the threshold that it sweeps."""

    thresholds: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class MetricResult:
    """One headline number, a share in [0, 1]; None, with the reason, where it is not defined.

    `hidden_supervision` counts the drawn boxes or masks that tuned anything. `left_out` lists the
    classes that the mean skips. `replicates` are the bootstrap values and `image_digest` stands
    for the set of images, both for comparing two runs; neither is written out.
    """

    name: str
    value: float | None
    convention: str
    num_images: int
    hidden_supervision: int = 0
    interval: Interval | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    details: Mapping[str, Detail] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    unavailable: str | None = None
    replicates: NDArray[np.float64] = field(
        default_factory=lambda: np.empty(0), repr=False, compare=False
    )
    image_digest: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.value is None and self.unavailable is None:
            raise ValueError(f"{self.name} has neither a value nor a reason for having none")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.name} is {self.value}")

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, ready for `json.dumps(..., allow_nan=False)`."""
        interval = None if self.interval is None else [self.interval.low, self.interval.high]
        return {
            "schema": SCHEMA,
            "name": self.name,
            "value": self.value,
            "interval": interval,
            "convention": self.convention,
            "num_images": self.num_images,
            "hidden_supervision": self.hidden_supervision,
            "per_class": dict(self.per_class),
            "left_out": list(self.left_out),
            "details": {name: _plain(detail) for name, detail in self.details.items()},
            "curves": {
                name: {"thresholds": list(curve.thresholds), "values": list(curve.values)}
                for name, curve in self.curves.items()
            },
            "unavailable": self.unavailable,
        }


def _plain(detail: Detail) -> Any:
    if isinstance(detail, Mapping):
        return dict(detail)
    return list(detail) if isinstance(detail, tuple) else detail
