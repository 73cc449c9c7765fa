"""Slow independent readings of the definitions, and small makers of samples and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weakloc.metrics.case import Case, ClassIndex, ClassMap, ImageTruth
from weakloc.structures import Box, Point, Prediction, Sample, Truth, TruthBox

LTRB = tuple[float, float, float, float]


def curve(scores, labels, num_positives, *, grouped):
    """(recall, precision) after every rank, or after every group of equal scores."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    order = [i for i in order if labels[i] != 0]
    points, found = [], 0
    for place, i in enumerate(order, start=1):
        found += labels[i] > 0
        last = place == len(order) or scores[order[place]] != scores[i]
        if last or not grouped:
            points.append((found / num_positives, found / place))
    return points


def slow_average_precision(scores, labels, num_positives, definition, *, grouped=False):
    points = curve(scores, labels, num_positives, grouped=grouped)
    if definition in ("voc07", "coco"):
        read = [k / 10 for k in range(11)] if definition == "voc07" else np.linspace(0, 1, 101)
        return sum(max([p for r, p in points if r >= t], default=0.0) for t in read) / len(read)
    area, last_recall = 0.0, 0.0
    for index, (recall, precision) in enumerate(points):
        height = precision
        if definition == "voc12":
            height = max(p for _, p in points[index:])
        area += (recall - last_recall) * height
        last_recall = recall
    return area


def slow_iou(first: LTRB, second: LTRB, *, extra: float = 0.0) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + extra
    height = min(first[3], second[3]) - max(first[1], second[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((b[2] - b[0] + extra) * (b[3] - b[1] + extra) for b in (first, second))
    return width * height / (area - width * height)


def sample(
    name: str, labels: Sequence[int], boxes: Sequence[TruthBox] | None = None, **truth
) -> Sample:
    drawn = None if boxes is None else Truth(boxes=tuple(boxes), **truth)
    return Sample(name, f"/nowhere/{name}", np.array(labels, dtype=np.int8), drawn)


def prediction(
    name: str,
    scores: Mapping[str, float] | None = None,
    *,
    points: Sequence[tuple[Any, ...]] = (),
    boxes: Sequence[tuple[str, LTRB, float]] = (),
    size: tuple[int, int] = (60, 40),
    **more,
) -> Prediction:
    return Prediction(
        image=name,
        width=size[0],
        height=size[1],
        scores=dict(scores or {}),
        points=tuple(Point(*each) for each in points),
        boxes=tuple(Box(*each) for each in boxes),
        **more,
    )


def case(
    known: Sample,
    said: Prediction,
    classes: ClassIndex,
    *,
    maps: Sequence[ClassMap] = (),
    resamples: int = 0,
) -> Case:
    return Case(ImageTruth(known), said, classes, tuple(maps), resamples)
