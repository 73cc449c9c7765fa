"""What stands above the gallery: figures at a glance, facts about the run, a row per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weakloc.output.report_content import ReportContent, Totals
from weakloc.output.report_gallery import GalleryItem
from weakloc.output.report_metrics import ShownMetric, leading

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
    class_metrics: tuple[ShownMetric, ...]
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
    metrics: Sequence[ShownMetric],
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
    totals: Totals, num_shown: int, num_classes: int, metrics: Sequence[ShownMetric]
) -> tuple[Figure, ...]:
    some = f"the {num_shown} most doubtful are shown" if num_shown < totals.num_images else ""
    found = [
        Figure(f"{totals.num_images:,}", "image" if totals.num_images == 1 else "images", some),
        Figure(f"{num_classes:,}", "class" if num_classes == 1 else "classes"),
        Figure(f"{totals.num_disagreeing:,}", "at odds with their tags"),
    ]
    for metric in leading([each for each in metrics if each.value is not None], most=MOST_FIGURES):
        best = metric.best_baseline
        remark = "" if best is None else f"best baseline {best[1]:.3f} ({best[0]})"
        found.append(Figure(f"{metric.value:.3f}", metric.label, remark))
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


def _supervision(run: Mapping[str, Any] | None, metrics: Sequence[ShownMetric]) -> str:
    """How many drawn boxes or masks had a hand in this, in a sentence or two."""
    told = [(each, each.hidden_supervision) for each in metrics if each.hidden_supervision]
    among = [f"{count} in {each.label}" for each, count in told]
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
    metrics: Sequence[ShownMetric],
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
