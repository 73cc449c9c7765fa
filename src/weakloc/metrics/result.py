"""Numbers with all that is needed to judge them, and metrics.json, which holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from msgspec import Struct

from weakloc.errors import PredictionsError
from weakloc.files import fit_json, read_json
from weakloc.geometry import FloatArray

Detail: TypeAlias = float | int | str | None


class Interval(Struct, frozen=True, array_like=True):
    """The central 95 % of the bootstrap values."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


class Curve(Struct, frozen=True):
    """A metric against the threshold that it sweeps."""

    thresholds: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class MetricRecord:
    """One headline number, a share in [0, 1]; None, with the reason, where it is not defined.

    `hidden_supervision` counts the drawn boxes or masks that tuned anything. `left_out` lists the
    classes that the mean skips; `baselines` are the values of trivial answers.
    """

    schema: Literal["weakloc.metric/1"] = field(default="weakloc.metric/1", kw_only=True)
    name: str
    value: float | None
    interval: Interval | None = field(default=None, kw_only=True)
    convention: str
    num_images: int
    hidden_supervision: int = 0
    per_class: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    details: Mapping[str, Detail] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    unavailable: str | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)

    @property
    def best_baseline(self) -> tuple[str, float] | None:
        return max(self.baselines.items(), key=lambda baseline: baseline[1], default=None)

    def __post_init__(self) -> None:
        if self.value is None and self.unavailable is None:
            raise ValueError(f"{self.name} has neither a value nor a reason for having none")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.name} is {self.value}")


@dataclass(frozen=True)
class MetricResult(MetricRecord):
    """The same with what two runs are compared by, which is not written out.

    `replicates` are the bootstrap values and `image_digest` stands for the set of images.
    """

    replicates: FloatArray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    image_digest: int = field(default=0, repr=False, compare=False)

    @property
    def record(self) -> MetricRecord:
        return MetricRecord(
            **{part.name: getattr(self, part.name) for part in fields(MetricRecord)}
        )


@dataclass(frozen=True)
class EvaluationRecord:
    """All numbers of one run or file; `unavailable` says why others are missing.

    `thresholds_from` says what chose the thresholds of the places, `weights_from` what the weights
    that training began with were made from.
    """

    schema: Literal["weakloc.metrics/1"] = field(default="weakloc.metrics/1", kw_only=True)
    metrics: tuple[MetricRecord, ...]
    unavailable: Mapping[str, str]
    evaluated: str
    split: str
    thresholds_from: str
    num_images: int
    num_broken: int = 0
    weights_from: str = "unknown"


def evaluation_of(folder: Path, file: Path | None, run: str) -> EvaluationRecord | None:
    """What a metrics.json, the one in the folder if none is named, says: of several runs, of this.

    None where the folder has none.
    """
    if file is None and not (folder / "metrics.json").is_file():
        return None
    records = read_evaluations(file or folder / "metrics.json")
    same = (record for record in records if Path(record.evaluated).name == Path(run).name)
    return next(same, records[0])


def read_evaluations(path: Path) -> tuple[EvaluationRecord, ...]:
    """What metrics.json says of one run, or of several."""
    remedy = "Give what weakloc evaluate --out wrote"
    content = read_json(path, error=PredictionsError, remedy=remedy)
    try:
        if "runs" not in content:
            return (fit_json(content, EvaluationRecord),)
        records = fit_json(content["runs"], tuple[EvaluationRecord, ...])
    except ValueError as error:
        raise PredictionsError(f"{error}", location=str(path), remedy=remedy) from error
    if not records:
        raise PredictionsError("holds the metrics of no run", location=str(path), remedy=remedy)
    return records
