"""Predictions, and whatever is known of the run behind them -> one self-contained HTML page.

The page holds its pictures, its style and its script, asks no network for anything, and forbids
itself to: its content security policy allows the one script and the one style it was written
with, by their digests. Names reach it as escaped text or as JSON data, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import combinations, count
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from weakloc.files import open_whole
from weakloc.metrics.result import EvaluationRecord, MetricRecord
from weakloc.output.drawing import heat_colors
from weakloc.output.report_gallery import (
    ClassNumbers,
    CoarseHeat,
    ReportContent,
    ReportPicture,
    gallery_items,
)

SCHEMA = "weakloc.report/1"
PAGE_FOLDER = Path(__file__).parent / "report_page"
SCRIPTS = ("heat.js", "picture.js", "review.js", "gallery.js", "viewer.js", "page.js")
BASELINE_NAMES = {"center": "centre", "full_image": "full image"}
MOST_LEADING = 3  # numbers of the evaluation at a glance, and columns of bars
WIDTH, HEIGHT = 320.0, 180.0  # of a chart
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 12.0, 26.0
X_AXIS, Y_AXIS = (LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)  # from low to high
MOST_TICKS = 5
MOST_DOTS = 60
ALWAYS_SHARE = 0.9  # of a class's images that another class is in, from which it is a warning
FEWEST_IMAGES = 5
SAME_PLACE_OVERLAP = 0.6
MOST_WARNINGS = 12  # of each kind
_TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_HISTORY = {
    "loss": "Loss",
    "classification_map": "Classification mAP",
    "point_map": "Point mAP",
    "learning_rate": "Learning rate",
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


def write_report(path: Path, content: ReportContent) -> Path:
    """Writes the page whole; the most doubtful picture comes first."""
    pictures = tuple(sorted(content.pictures, key=lambda picture: -picture.prediction.doubt))
    context = _context(replace(content, pictures=pictures), pictures)
    with open_whole(path) as stream:
        for piece in _template("page.html").generate(context):
            stream.write(piece)
    return path


def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(PAGE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=encodable,
    )
    environment.filters |= {"label": metric_label, "embedded": embedded_json}
    return environment.get_template(name)


def encodable(value: Any) -> Any:
    """Text without half of a surrogate pair, which file names may hold and UTF-8 may not."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def embedded_json(value: Any) -> Markup:
    """JSON that is safe inside of a script element: ASCII, and without <, > and &."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # nothing is left in it that ends an element or starts one


def _context(content: ReportContent, pictures: Sequence[ReportPicture]) -> dict[str, Any]:
    run, known = content.run, dict.fromkeys(content.class_names)
    method = run.get("method", {})
    numbers = ClassNumbers(count(len(known)).__next__, zip(known, count()))
    items = gallery_items(pictures, content.truth_class_names or content.class_names, numbers)
    metrics = shown_metrics(content.metrics)
    texts = [(PAGE_FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = '(() => {\n"use strict";\n' + "\n".join(texts) + "})();\n"  # in a scope of its own
    images = [item["index"] for item in items]
    key = hashlib.sha256(json.dumps([list(numbers), images]).encode()).hexdigest()[:16]
    palette = heat_colors(np.linspace(0.0, 1.0, 256)).tobytes()
    tagged = zip(run.get("class_names", ()), run.get("labels", {}).get("present", ()), strict=False)
    return {
        "version": version("weakloc"),
        "content": content,
        "style": _asset((PAGE_FOLDER / "page.css").read_text(encoding="utf-8")),
        "script": _asset(script),
        "items": items,
        "totals": content.totals,
        "figures": _figures_of(content, len(items), metrics),
        "notes": run.get("notes", []),
        "facts": {**_run_facts(run), **content.facts},
        "settings": _flat(method.get("settings", {})) | _flat(run.get("settings", {})),
        "supervision": _supervision_of(run, metrics),
        "class_names": list(numbers),
        "class_metrics": _leading(metric for metric in metrics if metric.per_class),
        "tagged": dict(tagged),
        "metrics": metrics,
        "training": list(_training_charts(run)),
        "curves": list(_threshold_charts(metrics)),
        "tag_pairs": tag_warnings(run),
        "map_pairs": map_warnings(picture.heat for picture in pictures),
        "index": {
            "schema": SCHEMA,
            "key": key,
            "classes": list(numbers),
            "thresholds": [content.thresholds.get(name) for name in numbers],
            "minArea": content.min_area,
            "palette": base64.b64encode(palette).decode("ascii"),
            "images": images,
        },
    }


def _asset(text: str) -> dict[str, str]:
    """A script or style as it stands in the page, and the digest that allows it."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return {"text": Markup(text), "digest": f"'sha256-{digest}'"}


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


def _leading(metrics: Iterable[MetricRecord]) -> list[MetricRecord]:
    """The numbers to see first: one of each kind where they are there, else the first ones."""
    ranks = {name: rank for rank, name in enumerate(LEADING)}
    return sorted(metrics, key=lambda metric: ranks.get(metric.name, len(ranks)))[:MOST_LEADING]


def _figures_of(
    content: ReportContent, num_shown: int, metrics: Sequence[MetricRecord]
) -> Iterator[tuple[str, str, str]]:
    """Large numbers, what they count, and a remark or none."""
    totals, num_classes = content.totals, len(content.class_names)
    some = f"the {num_shown} most doubtful are shown" if num_shown < totals.num_images else ""
    yield f"{totals.num_images:,}", "image" if totals.num_images == 1 else "images", some
    yield f"{num_classes:,}", "class" if num_classes == 1 else "classes", ""
    yield f"{totals.num_disagreeing:,}", "at odds with their tags", ""
    for metric in _leading(metric for metric in metrics if metric.value is not None):
        best = metric.best_baseline
        remark = "" if best is None else f"best baseline {best[1]:.3f} ({best[0]})"
        yield f"{metric.value:.3f}", metric_label(metric.name), remark


def _run_facts(run: Mapping[str, Any]) -> dict[str, str]:
    backbone, selection = run.get("backbone", {}), run.get("selection", {})
    kept = f"of epoch {selection.get('epoch')} ({selection.get('by', 'last epoch')})"
    facts = {
        "Method": run.get("method", {}).get("name"),
        "Backbone": backbone.get("name"),
        "Backbone weights": backbone.get("loaded", backbone.get("weights")) or "none",
        "Weights made from": backbone.get("made_from"),
        "Training images": run.get("labels", {}).get("num_images"),
        "Epochs": len(run.get("history", ())) or None,
        "Weights kept": kept if "epoch" in selection else None,
        "Watched on": selection.get("watched"),
        "Seed": run.get("seed"),
        "Versions": ", ".join(map(" ".join, run.get("versions", {}).items())),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _flat(part: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Every setting by its path."""
    settings: dict[str, str] = {}
    for name, value in part.items():
        if isinstance(value, Mapping):
            settings |= _flat(value, f"{path}{name}.")
        else:
            settings[f"{path}{name}"] = "not given" if value is None else str(value)
    return settings


def _supervision_of(run: Mapping[str, Any], metrics: Sequence[MetricRecord]) -> str:
    """How many drawn boxes or masks had a hand in this, in a sentence or two."""
    among = [
        f"{metric.hidden_supervision} in {metric_label(metric.name)}"
        for metric in metrics
        if metric.hidden_supervision
    ]
    counts = run.get("hidden_supervision"), (run.get("thresholds") or {}).get("num_boxes_used")
    known = [int(count) for count in counts if isinstance(count, int)]
    if not known:
        first = "Of the model: not recorded."
    elif max(known) == 0:
        first = "Of the model: none, nothing but image tags."
    else:
        first = f"Of the model: {max(known)} drawn boxes or masks in training or thresholds."
    measured = f" Drawn boxes or masks that tuned a number itself: {', '.join(among)}."
    return first + measured if among else first


@dataclass(frozen=True)
class Chart:
    """One line; `description` is what a screen reader says."""

    title: str
    x_label: str
    path: str
    dots: tuple[tuple[float, float, str], ...]  # x, y, what is there
    x_ticks: tuple[tuple[float, str], ...]  # along its axis, what is there
    y_ticks: tuple[tuple[float, str], ...]
    description: str


def line_chart(title: str, xs: Sequence[float], ys: Sequence[float], *, x_label: str) -> Chart:
    """The values over their places, both axes with round ticks."""
    x_ends, y_ends = _ends(xs, margin=0.0), _ends(ys, margin=0.06)
    points = [
        (_on_axis(x, x_ends, X_AXIS), _on_axis(y, y_ends, Y_AXIS))
        for x, y in zip(xs, ys, strict=True)
    ]
    ticks = round_ticks(*x_ends)
    if all(x.is_integer() for x in xs):
        ticks = tuple(tick for tick in ticks if tick.is_integer())
    dots = tuple(
        (*point, f"{x_label} {x:g}: {y:.4g}") for point, x, y in zip(points, xs, ys, strict=True)
    )
    return Chart(
        title=title,
        x_label=x_label,
        path="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points),
        dots=dots if len(dots) <= MOST_DOTS else (),
        x_ticks=tuple((_on_axis(tick, x_ends, X_AXIS), f"{tick:g}") for tick in ticks),
        y_ticks=tuple(
            (_on_axis(tick, y_ends, Y_AXIS), f"{tick:g}") for tick in round_ticks(*y_ends)
        ),
        description=(
            f"{title}: from {ys[0]:.4g} to {ys[-1]:.4g}, "
            f"lowest {min(ys):.4g}, highest {max(ys):.4g}"
        ),
    )


def chart_picture(chart: Chart) -> str:
    """The chart as an SVG file of its own."""
    return _template("chart.svg").render(drawn=chart)


def _training_charts(run: Mapping[str, Any]) -> Iterator[Chart]:
    """One chart for each number of the run's history that was measured at least twice."""
    for key, title in _HISTORY.items():
        pairs = [
            (float(epoch["epoch"]), float(epoch[key]))
            for epoch in run.get("history", ())
            if epoch.get(key) is not None
        ]
        if len(pairs) > 1:
            numbers, values = zip(*pairs, strict=True)
            yield line_chart(title, numbers, values, x_label="epoch")


def _threshold_charts(metrics: Sequence[MetricRecord]) -> Iterator[Chart]:
    """One chart for each curve of a metric over its threshold."""
    for metric in metrics:
        for name, curve in metric.curves.items():
            more = "" if name == metric.name else f", {name.replace('_', ' ')}"
            title = metric_label(metric.name) + more
            yield line_chart(title, curve.thresholds, curve.values, x_label="threshold")


def round_ticks(low: float, high: float) -> tuple[float, ...]:
    """At most MOST_TICKS round numbers from low to high."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / MOST_TICKS))
    step = next(power * step for step in _TICK_STEPS if span / (power * step) <= MOST_TICKS)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(float(f"{number * step:.12g}") for number in range(first, last + 1))


def _ends(values: Sequence[float], *, margin: float) -> tuple[float, float]:
    """The least and greatest value, and a share of their distance beyond each."""
    low, high = min(values), max(values)
    beyond = margin * (high - low) if low < high else abs(low) / 2 or 0.5
    return low - beyond, high + beyond


def _on_axis(value: float, ends: tuple[float, float], axis: tuple[float, float]) -> float:
    share = (value - ends[0]) / (ends[1] - ends[0])
    return round(axis[0] + share * (axis[1] - axis[0]), 1)


@dataclass(frozen=True)
class ClassPair:
    """Two classes that cannot be told apart by `share` of what was counted."""

    first: str
    second: str
    share: float
    num_images: int
    num_together: int


def tag_warnings(run: Mapping[str, Any]) -> tuple[ClassPair, ...]:
    """Classes that hardly come without another, in the tags that were trained on.

    Of two classes that hardly come without each other the stronger pair is named, or the first.
    """
    labels, names = run.get("labels", {}), run.get("class_names", ())
    together = np.array(labels.get("co_occurrence") or np.zeros((0, 0)), dtype=np.int64)
    counts, num_images = together.diagonal(), labels.get("num_images", 0)
    shares = together / np.maximum(counts, 1)[:, None]  # of a row's images
    # A class that is nearly everywhere tells nothing.
    tells = (counts >= FEWEST_IMAGES)[:, None] & (counts < ALWAYS_SHARE * num_images)
    is_pair = tells & (shares >= ALWAYS_SHARE) & ~np.eye(len(counts), dtype=np.bool_)
    return _worst(
        ClassPair(*pair, float(shares[a, b]), int(counts[a]), int(together[a, b]))
        for a, b in np.argwhere(is_pair)
        for pair in [(str(names[a]), str(names[b]))]
        if not is_pair[b, a] or (shares[b, a], pair[0]) <= (shares[a, b], pair[1])
    )


def map_warnings(heats: Iterable[Mapping[str, CoarseHeat]]) -> tuple[ClassPair, ...]:
    """Pairs of classes whose maps overlap where both are shown.

    The overlap of two maps is the sum of their cells' lesser heat over that of the greater.
    """
    overlaps: dict[tuple[str, str], list[float]] = {}
    for heat in heats:
        for first, second in combinations(sorted(heat), 2):
            overlap = map_overlap(heat[first], heat[second])
            overlaps.setdefault((first, second), []).append(overlap)
    pairs = (
        ClassPair(*pair, float(np.mean(values)), len(values), len(values))
        for pair, values in overlaps.items()
        if len(values) >= FEWEST_IMAGES
    )
    return _worst(pair for pair in pairs if pair.share >= SAME_PLACE_OVERLAP)


def map_overlap(first: CoarseHeat, second: CoarseHeat) -> float:
    if first.shape != second.shape:
        return 0.0
    union = float(np.maximum(first, second).sum(dtype=np.int64))
    return float(np.minimum(first, second).sum(dtype=np.int64)) / union if union else 0.0


def _worst(pairs: Iterable[ClassPair]) -> tuple[ClassPair, ...]:
    ranked = sorted(pairs, key=lambda pair: (-pair.share, pair.first, pair.second))
    return tuple(ranked[:MOST_WARNINGS])
