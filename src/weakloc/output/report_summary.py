"""What stands above the gallery: figures at a glance, facts about the run, a row per class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from weakloc.metrics.result import EvaluationRecord, MetricRecord
from weakloc.output.report_content import CoarseHeat, ReportContent, Totals
from weakloc.output.report_gallery import GalleryItem

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


def shown_metrics(record: EvaluationRecord | None) -> tuple[MetricRecord, ...]:
    """Every number in its order, beside baselines as people spell them; then the missing ones."""
    if record is None:
        return ()
    measured = [
        replace(
            metric,
            baselines={BASELINE_NAMES.get(name, name): v for name, v in metric.baselines.items()},
        )
        for metric in record.metrics
    ]
    missing = [
        MetricRecord(name, None, "", 0, unavailable=reason)
        for name, reason in record.unavailable.items()
    ]
    return (*measured, *missing)


def metric_label(name: str) -> str:
    """The name as people write it: Point mAP for point_map."""
    words = [_SPELT.get(word, word) for word in name.replace("_", " ").split()]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]]) if words else name


def leading(metrics: Sequence[MetricRecord], *, most: int) -> tuple[MetricRecord, ...]:
    """The numbers to see first: one of each kind where they are there, else the first ones."""
    known = [each for each in metrics if each.name in LEADING]
    ranked = sorted(known, key=lambda each: LEADING.index(each.name))
    return tuple([*ranked, *(each for each in metrics if each.name not in LEADING)][:most])


MOST_FIGURES = 3  # numbers of the evaluation among the figures at a glance
MOST_BARS = 3  # columns of bars in the table of classes


@dataclass(frozen=True)
class Figure:
    """A large number and what it counts."""

    value: str
    label: str
    remark: str = ""


@dataclass(frozen=True)
class ClassRow:
    number: int
    name: str
    tagged: int | None  # training images
    present: int
    boxes: int
    disagreements: int
    threshold: float | None
    values: tuple[float | None, ...]  # one for each of Summary.class_metrics


@dataclass(frozen=True)
class Summary:
    figures: tuple[Figure, ...]
    facts: Mapping[str, str]
    settings: Mapping[str, str]  # every setting by its path
    supervision: str
    notes: tuple[str, ...]
    class_metrics: tuple[MetricRecord, ...]
    class_rows: tuple[ClassRow, ...]
    has_truth: bool
    has_heat: bool
    has_masks: bool
    num_shown: int
    num_images: int


def summary_of(
    content: ReportContent,
    totals: Totals,
    items: Sequence[GalleryItem],
    metrics: Sequence[MetricRecord],
    class_names: Sequence[str],
) -> Summary:
    with_classes = leading([each for each in metrics if each.per_class], most=MOST_BARS)
    return Summary(
        figures=_figures(totals, len(items), len(content.class_names), metrics),
        facts={**_run_facts(content.run), **content.facts},
        settings=_settings(content.run),
        supervision=_supervision(content.run, metrics),
        notes=_notes(content.run, items),
        class_metrics=with_classes,
        class_rows=_class_rows(content, totals, with_classes, class_names),
        has_truth=any(item.index["truth"] for item in items),
        has_heat=any(item.block["heat"] for item in items),
        has_masks=any(item.block["masks"] for item in items),
        num_shown=len(items),
        num_images=totals.num_images,
    )


def _figures(
    totals: Totals, num_shown: int, num_classes: int, metrics: Sequence[MetricRecord]
) -> tuple[Figure, ...]:
    some = f"the {num_shown} most doubtful are shown" if num_shown < totals.num_images else ""
    found = [
        Figure(f"{totals.num_images:,}", "image" if totals.num_images == 1 else "images", some),
        Figure(f"{num_classes:,}", "class" if num_classes == 1 else "classes"),
        Figure(f"{totals.num_disagreeing:,}", "at odds with their tags"),
    ]
    for metric in leading([each for each in metrics if each.value is not None], most=MOST_FIGURES):
        best = max(metric.baselines.items(), key=lambda baseline: baseline[1], default=None)
        remark = "" if best is None else f"best baseline {best[1]:.3f} ({best[0]})"
        found.append(Figure(f"{metric.value:.3f}", metric_label(metric.name), remark))
    return tuple(found)


def _run_facts(run: Mapping[str, Any] | None) -> dict[str, str]:
    if run is None:
        return {}
    method, backbone = _part(run, "method"), _part(run, "backbone")
    selection, labels = _part(run, "selection"), _part(run, "labels")
    history = run.get("history")
    facts = {
        "Method": method.get("name"),
        "Backbone": backbone.get("name"),
        "Backbone weights": backbone.get("weights"),
        "Training images": labels.get("num_images"),
        "Epochs": len(history) if isinstance(history, list) else None,
        "Weights kept": _kept(selection),
        "Watched on": selection.get("watched"),
        "Seed": run.get("seed"),
        "Versions": ", ".join(f"{name} {each}" for name, each in _part(run, "versions").items()),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _kept(selection: Mapping[str, Any]) -> str | None:
    if "epoch" not in selection:
        return None
    return f"of epoch {selection['epoch']} ({selection.get('by', 'last epoch')})"


def _settings(run: Mapping[str, Any] | None) -> dict[str, str]:
    """Every choice of the method and every setting, by its path."""
    if run is None:
        return {}
    found: dict[str, str] = {}
    for part in (_part(_part(run, "method"), "settings"), _part(run, "settings")):
        _flatten(part, "", found)
    return found


def _flatten(part: Mapping[str, Any], path: str, found: dict[str, str]) -> None:
    for name, value in part.items():
        if isinstance(value, Mapping):
            _flatten(value, f"{path}{name}.", found)
        else:
            found[f"{path}{name}"] = "not given" if value is None else str(value)


def _supervision(run: Mapping[str, Any] | None, metrics: Sequence[MetricRecord]) -> str:
    """How many drawn boxes or masks had a hand in this, in a sentence or two."""
    told = [(each, each.hidden_supervision) for each in metrics if each.hidden_supervision]
    among = [f"{count} in {metric_label(each.name)}" for each, count in told]
    measured = f" Drawn boxes or masks that tuned a number itself: {', '.join(among)}."
    counts = [(run or {}).get("hidden_supervision")]
    counts.append(_part(run or {}, "thresholds").get("num_boxes_used"))
    known = [int(count) for count in counts if isinstance(count, int)]
    if not known:
        first = "Of the model: not recorded."
    elif max(known) == 0:
        first = "Of the model: none, nothing but image tags."
    else:
        first = f"Of the model: {max(known)} drawn boxes or masks in training or thresholds."
    return first + measured if among else first


def _notes(run: Mapping[str, Any] | None, items: Sequence[GalleryItem]) -> tuple[str, ...]:
    listed = (run or {}).get("notes")
    notes = [str(note) for note in listed] if isinstance(listed, list) else []
    num_broken = sum(item.is_broken for item in items)
    if num_broken:
        notes.append(f"{num_broken} of the shown pictures could not be opened.")
    return tuple(notes)


def _class_rows(
    content: ReportContent,
    totals: Totals,
    metrics: Sequence[MetricRecord],
    class_names: Sequence[str],
) -> tuple[ClassRow, ...]:
    tagged = _tagged(content.run)
    return tuple(
        ClassRow(
            number=number,
            name=name,
            tagged=tagged.get(name),
            present=totals.present.get(name, 0),
            boxes=totals.boxes.get(name, 0),
            disagreements=totals.disagreements.get(name, 0),
            threshold=content.thresholds.get(name),
            values=tuple(metric.per_class.get(name) for metric in metrics),
        )
        for number, name in enumerate(class_names)
    )


def _tagged(run: Mapping[str, Any] | None) -> dict[str, int]:
    names, counts = (run or {}).get("class_names"), _part(run or {}, "labels").get("present")
    if not isinstance(names, list) or not isinstance(counts, list) or len(names) != len(counts):
        return {}
    return dict(zip(map(str, names), map(int, counts), strict=True))


def _part(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = record.get(key)
    return found if isinstance(found, Mapping) else {}


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


def curve_charts(metrics: Sequence[MetricRecord]) -> tuple[Chart, ...]:
    """One chart for each curve of a metric over its threshold."""
    charts = []
    for metric in metrics:
        for name, curve in metric.curves.items():
            more = "" if name == metric.name else f", {name.replace('_', ' ')}"
            title = metric_label(metric.name) + more
            charts.append(line_chart(title, curve.thresholds, curve.values, x_label="threshold"))
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


ALWAYS_SHARE = 0.9  # of a class's images that another class is in, from which it is a warning
FEWEST_IMAGES = 5
SAME_PLACE_OVERLAP = 0.6
MOST_WARNINGS = 12  # of each kind


@dataclass(frozen=True)
class ClassPair:
    """Two classes that cannot be told apart by `share` of what was counted."""

    first: str
    second: str
    share: float
    num_images: int
    num_together: int


def tag_warnings(run: Mapping[str, Any] | None) -> tuple[ClassPair, ...]:
    """Classes that hardly come without another, in the tags that were trained on."""
    labels = (run or {}).get("labels")
    names = (run or {}).get("class_names")
    if not isinstance(labels, Mapping) or not isinstance(names, list):
        return ()
    together = np.asarray(labels.get("co_occurrence", ()), dtype=np.int64)
    if together.shape != (len(names), len(names)):
        return ()
    num_images = int(labels.get("num_images", 0))
    found = []
    for first, second in zip(*np.nonzero(together), strict=True):
        own, other = int(together[first, first]), int(together[second, second])
        if first == second or own < FEWEST_IMAGES or other >= ALWAYS_SHARE * num_images:
            continue  # a class that is nearly everywhere tells nothing
        share = int(together[first, second]) / own
        if share >= ALWAYS_SHARE:
            pair = str(names[first]), str(names[second])
            found.append(ClassPair(*pair, share, own, int(together[first, second])))
    return _worst([pair for pair in found if not _is_said(pair, found)])


def _is_said(pair: ClassPair, pairs: list[ClassPair]) -> bool:
    """Whether the same two classes are named the other way round, and more strongly or first."""
    names = pair.second, pair.first
    other = next((each for each in pairs if (each.first, each.second) == names), None)
    return other is not None and (other.share, pair.first) > (pair.share, other.first)


def map_warnings(heats: Iterable[Mapping[str, CoarseHeat]]) -> tuple[ClassPair, ...]:
    """Pairs of classes whose maps overlap where both are shown.

    The overlap of two maps is the sum of their cells' lesser heat over that of the greater.
    """
    overlaps: dict[tuple[str, str], list[float]] = {}
    for heat in heats:
        for first, second in combinations(sorted(heat), 2):
            overlap = map_overlap(heat[first], heat[second])
            overlaps.setdefault((first, second), []).append(overlap)
    found = [
        ClassPair(*pair, float(np.mean(values)), len(values), len(values))
        for pair, values in overlaps.items()
        if len(values) >= FEWEST_IMAGES and float(np.mean(values)) >= SAME_PLACE_OVERLAP
    ]
    return _worst(found)


def map_overlap(first: CoarseHeat, second: CoarseHeat) -> float:
    if first.shape != second.shape:
        return 0.0
    union = float(np.maximum(first, second).sum(dtype=np.int64))
    return float(np.minimum(first, second).sum(dtype=np.int64)) / union if union else 0.0


def _worst(found: list[ClassPair]) -> tuple[ClassPair, ...]:
    ranked = sorted(found, key=lambda item: (-item.share, item.first, item.second))
    return tuple(ranked[:MOST_WARNINGS])
