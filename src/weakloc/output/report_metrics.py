"""The content of metrics.json -> the numbers that a report shows, whatever wrote it.

Taken are `{"metrics": [{"name": ..., "value": ...}, ...]}`, the same as a mapping by name, with
or without the outer key, plain numbers as values, and `{"runs": [...]}`, of which the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BASELINE_NAMES = {
    "center": "centre",
    "full_image": "full image",
    "random": "random",
    "chance": "chance",
}

LEADING = ("classification_map", "point_map", "box_map_50", "corloc", "max_box_acc_v2")
_SPELT = {
    "acc": "accuracy",
    "ap": "AP",
    "ar": "AR",
    "coco": "COCO",
    "corloc": "CorLoc",
    "gt": "GT",
    "iou": "IoU",
    "map": "mAP",
    "v2": "V2",
    "18px": "18 px",
}


@dataclass(frozen=True)
class ShownCurve:
    name: str
    places: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class ShownMetric:
    """One number with all that is needed to judge it."""

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    convention: str = ""
    num_images: int | None = None
    hidden_supervision: int | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    curves: tuple[ShownCurve, ...] = ()
    unavailable: str | None = None

    @property
    def label(self) -> str:
        words = [_SPELT.get(word, word) for word in self.name.replace("_", " ").split()]
        return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]]) if words else self.name

    @property
    def is_share(self) -> bool:
        return self.value is not None and 0.0 <= self.value <= 1.0

    @property
    def best_baseline(self) -> tuple[str, float] | None:
        if not self.baselines:
            return None
        return max(self.baselines.items(), key=lambda pair: pair[1])


def read_metrics(record: Mapping[str, Any] | None) -> tuple[ShownMetric, ...]:
    """Every number of the record, in its order; then those that could not be computed."""
    if record is None:
        return ()
    runs = record.get("runs")
    if isinstance(runs, Sequence) and runs and isinstance(runs[0], Mapping):
        record = runs[0]
    listed = record.get("metrics", record)
    found = _from_list(listed) if isinstance(listed, list) else _from_mapping(listed)
    reasons = record.get("unavailable")
    missing = reasons if isinstance(reasons, Mapping) else {}
    known = {metric.name for metric in found}
    found += [
        ShownMetric(str(name), None, unavailable=str(reason))
        for name, reason in missing.items()
        if name not in known
    ]
    return tuple(found)


def leading(metrics: Sequence[ShownMetric], *, most: int) -> tuple[ShownMetric, ...]:
    """The numbers to see first: one of each kind where they are there, else the first ones."""
    known = [each for each in metrics if each.name in LEADING]
    ranked = sorted(known, key=lambda each: LEADING.index(each.name))
    return tuple([*ranked, *(each for each in metrics if each.name not in LEADING)][:most])


def _from_list(items: Sequence[Any]) -> list[ShownMetric]:
    return [_metric(str(item.get("name", "")), item) for item in items if isinstance(item, Mapping)]


def _from_mapping(items: Any) -> list[ShownMetric]:
    if not isinstance(items, Mapping):
        return []
    return [
        _metric(str(name), item if isinstance(item, Mapping) else {"value": item})
        for name, item in items.items()
        if _number(item) is not None or (isinstance(item, Mapping) and "value" in item)
    ]


def _metric(name: str, item: Mapping[str, Any]) -> ShownMetric:
    return ShownMetric(
        name=name,
        value=_number(item.get("value")),
        interval=_interval(item.get("interval")),
        baselines=_baselines(item),
        convention=str(item.get("convention") or ""),
        num_images=_count(item.get("num_images")),
        hidden_supervision=_count(item.get("hidden_supervision")),
        per_class=_numbers(item.get("per_class")),
        curves=_curves(item.get("curves")),
        unavailable=None if item.get("unavailable") is None else str(item["unavailable"]),
    )


def _baselines(item: Mapping[str, Any]) -> dict[str, float]:
    found = item.get("baselines", item.get("baseline"))
    alone = _number(found)
    named = {"baseline": alone} if alone is not None else _numbers(found)
    return {BASELINE_NAMES.get(name, name): value for name, value in named.items()}


def _interval(found: Any) -> tuple[float, float] | None:
    if isinstance(found, Mapping):
        found = [found.get("low"), found.get("high")]
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != 2:
        return None
    low, high = _number(found[0]), _number(found[1])
    return None if low is None or high is None else (low, high)


def _curves(found: Any) -> tuple[ShownCurve, ...]:
    if not isinstance(found, Mapping):
        return ()
    curves = []
    for name, curve in found.items():
        if not isinstance(curve, Mapping):
            continue
        pairs = [
            (x, y)
            for x, y in zip(curve.get("thresholds", ()), curve.get("values", ()), strict=False)
            if _number(x) is not None and _number(y) is not None
        ]
        if len(pairs) > 1:
            places, values = zip(*pairs, strict=True)
            curves.append(ShownCurve(str(name), places, values))
    return tuple(curves)


def _numbers(found: Any) -> dict[str, float]:
    if not isinstance(found, Mapping):
        return {}
    numbers = {str(name): _number(value) for name, value in found.items()}
    return {name: value for name, value in numbers.items() if value is not None}


def _count(found: Any) -> int | None:
    number = _number(found)
    return None if number is None else int(number)


def _number(found: Any) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)
