"""Predictions -> one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from weakloc.structures import Prediction


def write_report(
    path: Path,
    images: Sequence[Image.Image],
    predictions: Sequence[Prediction],
    metrics: Mapping[str, float],
) -> None:
    rows = "".join(f"<li>{html.escape(name)}: {value:.3f}</li>" for name, value in metrics.items())
    figures = "".join(map(_figure, images, predictions))
    path.write_text(f"<!doctype html><title>weakloc</title><ul>{rows}</ul>{figures}\n")


def _figure(image: Image.Image, prediction: Prediction) -> str:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG")
    source = "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
    present = [point for point in prediction.points if point.score > 0.5]
    marks = "".join(
        f'<circle cx="{point.x:.1f}" cy="{point.y:.1f}" r="3" fill="red"/>'
        f'<text x="{point.x:.1f}" y="{point.y:.1f}">{html.escape(point.class_name)}</text>'
        for point in present
    )
    size = f'width="{prediction.width}" height="{prediction.height}"'
    return f'<svg {size}><image href="{source}" {size}/>{marks}</svg>'
