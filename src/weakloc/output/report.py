"""Predictions, and whatever is known of the run behind them -> one self-contained HTML page.

The page holds its pictures, its style and its script, asks no network for anything, and forbids
itself to: its content security policy allows the one script and the one style it was written
with, by their digests. Names reach it as escaped text or as JSON data, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from weakloc.files import open_whole
from weakloc.output.drawing import heat_colors
from weakloc.output.report_gallery import (
    ClassNumbers,
    ReportContent,
    ReportPicture,
    count_predictions,
    gallery_items,
)
from weakloc.output.report_summary import (
    curve_charts,
    map_warnings,
    metric_label,
    shown_metrics,
    summary_of,
    tag_warnings,
    training_charts,
)

SCHEMA = "weakloc.report/1"
PAGE_FOLDER = Path(__file__).parent / "report_page"
SCRIPTS = ("heat.js", "picture.js", "review.js", "gallery.js", "viewer.js", "page.js")


@dataclass(frozen=True)
class _Asset:
    """A script or style as it stands in the page, and the digest that allows it."""

    text: Markup
    digest: str


def write_report(path: Path, content: ReportContent) -> Path:
    """Writes the page whole; the most doubtful picture comes first."""
    pictures = tuple(sorted(content.pictures, key=lambda picture: -picture.prediction.doubt))
    environment = Environment(
        loader=FileSystemLoader(PAGE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=encodable,
    )
    environment.filters["label"] = metric_label
    template = environment.get_template("page.html")
    with open_whole(path) as stream:
        for piece in template.generate(**_context(replace(content, pictures=pictures), pictures)):
            stream.write(piece)
    return path


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
    numbers = ClassNumbers(content.class_names)
    items = gallery_items(pictures, content.truth_class_names or content.class_names, numbers)
    totals = content.totals or count_predictions(picture.prediction for picture in pictures)
    metrics = shown_metrics(content.metrics)
    texts = [(PAGE_FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = '(() => {\n"use strict";\n' + "\n".join(texts) + "})();\n"  # in a scope of its own
    images = [dict(item.index) for item in items]
    digest = hashlib.sha256(json.dumps([numbers.names, images]).encode()).hexdigest()[:16]
    palette = heat_colors(np.linspace(0.0, 1.0, 256)).tobytes()
    return {
        "version": version("weakloc"),
        "title": content.title,
        "style": _asset((PAGE_FOLDER / "page.css").read_text(encoding="utf-8")),
        "script": _asset(script),
        "summary": summary_of(content, totals, items, metrics, numbers.names),
        "metrics": metrics,
        "training": training_charts(content.run),
        "curves": curve_charts(metrics),
        "tag_pairs": tag_warnings(content.run),
        "map_pairs": map_warnings(picture.heat for picture in pictures),
        "index": embedded_json(
            {
                "schema": SCHEMA,
                "key": digest,
                "classes": list(numbers.names),
                "thresholds": [content.thresholds.get(name) for name in numbers.names],
                "minArea": content.min_area,
                "palette": base64.b64encode(palette).decode("ascii"),
                "images": images,
            }
        ),
        "blocks": (embedded_json(item.block) for item in items),
    }


def _asset(text: str) -> _Asset:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return _Asset(Markup(text), f"'sha256-{digest}'")
