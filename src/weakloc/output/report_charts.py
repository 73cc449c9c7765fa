"""Numbers -> lines of inline SVG charts: coordinates only, the page's template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weakloc.output.report_metrics import ShownMetric

WIDTH, HEIGHT = 320.0, 180.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 12.0, 26.0
_TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_HISTORY = {
    "loss": "Loss",
    "classification_map": "Classification mAP",
    "point_map": "Point mAP",
    "learning_rate": "Learning rate",
}


@dataclass(frozen=True)
class Tick:
    place: float  # along its axis, in the chart's units
    text: str


@dataclass(frozen=True)
class Chart:
    """One line; `description` is what a screen reader says."""

    title: str
    x_label: str
    path: str
    dots: tuple[tuple[float, float, str], ...]  # x, y, what is there
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    description: str


def line_chart(
    title: str, places: Sequence[float], values: Sequence[float], *, x_label: str
) -> Chart:
    """The values over the places, both axes with round ticks."""
    x_ends, y_ends = _ends(places), _ends(values, pad=True)
    points = [
        (_across(place, x_ends), _down(value, y_ends))
        for place, value in zip(places, values, strict=True)
    ]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    shown = len(points) <= 60
    ticks = round_ticks(*x_ends)
    if all(place.is_integer() for place in places):
        ticks = tuple(tick for tick in ticks if tick.is_integer())
    return Chart(
        title=title,
        x_label=x_label,
        path=path,
        dots=tuple(
            (round(x, 1), round(y, 1), f"{x_label} {place:g}: {value:.4g}")
            for (x, y), place, value in zip(points, places, values, strict=True)
        )
        if shown
        else (),
        x_ticks=tuple(Tick(_across(tick, x_ends), f"{tick:g}") for tick in ticks),
        y_ticks=tuple(Tick(_down(tick, y_ends), f"{tick:g}") for tick in round_ticks(*y_ends)),
        description=(
            f"{title}: from {values[0]:.4g} to {values[-1]:.4g}, "
            f"lowest {min(values):.4g}, highest {max(values):.4g}"
        ),
    )


def training_charts(run: Mapping[str, Any] | None) -> tuple[Chart, ...]:
    """One chart for each number of the run's history that was measured at least twice."""
    history = (run or {}).get("history")
    epochs = [each for each in history if isinstance(each, Mapping)] if history else []
    charts = []
    for key, title in _HISTORY.items():
        pairs = [
            (float(each["epoch"]), float(each[key]))
            for each in epochs
            if _is_number(each.get("epoch")) and _is_number(each.get(key))
        ]
        if len(pairs) > 1:
            places, values = zip(*pairs, strict=True)
            charts.append(line_chart(title, places, values, x_label="epoch"))
    return tuple(charts)


def curve_charts(metrics: Sequence[ShownMetric]) -> tuple[Chart, ...]:
    """One chart for each curve of a metric over its threshold."""
    charts = []
    for metric in metrics:
        for curve in metric.curves:
            more = "" if curve.name == metric.name else f", {curve.name.replace('_', ' ')}"
            title = metric.label + more
            charts.append(line_chart(title, curve.places, curve.values, x_label="threshold"))
    return tuple(charts)


def round_ticks(low: float, high: float, *, most: int = 5) -> tuple[float, ...]:
    """At most so many round numbers from low to high."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * step for step in _TICK_STEPS if span / (power * step) <= most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(float(f"{number * step:.12g}") for number in range(first, last + 1))


def _ends(values: Sequence[float], *, pad: bool = False) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        margin = abs(low) / 2 or 0.5
        return low - margin, high + margin
    margin = 0.06 * (high - low) if pad else 0.0
    return low - margin, high + margin


def _across(place: float, ends: tuple[float, float]) -> float:
    share = (place - ends[0]) / (ends[1] - ends[0])
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _down(value: float, ends: tuple[float, float]) -> float:
    share = (value - ends[0]) / (ends[1] - ends[0])
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
