"""Reports to test with: drawn scenes, and predictions made up from their truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from weakloc.geometry import BoxLTRB
from weakloc.metrics.result import Curve, EvaluationRecord, Interval, MetricRecord
from weakloc.output.report_gallery import (
    HEAT_CELLS,
    CoarseHeat,
    ReportContent,
    ReportPicture,
    Totals,
)
from weakloc.structures import (
    ABSENT,
    PRESENT,
    Box,
    Disagreement,
    Mask,
    Point,
    Prediction,
    Sample,
    Truth,
    TruthBox,
)
from weakloc.synthetic.scenery import CLUTTER_CLASSES, artist_of, draw_scene

NAMES = tuple(CLUTTER_CLASSES)
HOSTILE = (
    "<img src=x onerror=\"window.broken='image'\">",
    "\"</script><script>window.broken = 'script'</script>",
    "' onfocus='window.broken=1' autofocus x='",
    'it\'s "quoted" & <b>bold</b> {{ 7*7 }} ${7*7}',
    "日本 \u202egnp.exe",
    "קובץ עם שם.jpg",
    "half \ud83d a pair",
    "<!-- <script> --> ]]>",
)


def grey(size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.new("RGB", size, (90, 120, 150))


def counted(predictions: Iterable[Prediction]) -> Totals:
    totals = Totals()
    for prediction in predictions:
        totals.add(prediction)
    return totals


def named_report(names: tuple[str, ...]) -> ReportContent:
    """Whatever a report may name is named so: images, classes, facts, metrics, notes."""
    pictures = [
        ReportPicture(
            Prediction(
                name,
                60,
                40,
                dict.fromkeys(names, 0.8),
                boxes=tuple(Box(each, (1, 2, 30, 30), 0.5) for each in names),
                disagreements=(Disagreement(name, "missing", 0.1),),
            ),
            grey,
            heat={each: np.full((21, 32), 200, dtype=np.uint8) for each in names},
        )
        for name in names
    ]
    count = len(names)
    labels = {"num_images": 4 * count, "co_occurrence": (np.eye(count) * 5 + 5).tolist()}
    return ReportContent(
        names,
        pictures,
        title=names[1],
        totals=counted(picture.prediction for picture in pictures),
        facts=dict(zip(names, names, strict=True)),
        metrics=evaluation(
            [MetricRecord(name, 0.5, name, 1, per_class={name: 0.1}) for name in names],
            dict(zip(names, names, strict=True)),
        ),
        run={**run_record(), "class_names": list(names), "labels": labels, "notes": list(names)},
    )


def scene_samples(count: int) -> list[tuple[Image.Image, Sample]]:
    """Cluttered scenes with their truth, kept in memory."""
    samples = []
    for index in range(count):
        scene = draw_scene(artist_of("clutter"), split="val", index=index, seed=3)
        labels = np.full(len(NAMES), ABSENT, dtype=np.int8)
        labels[[drawn.class_index for drawn in scene.objects]] = PRESENT
        boxes = tuple(TruthBox(drawn.class_index, drawn.box) for drawn in scene.objects)
        sample = Sample(f"val_{index:05d}.jpg", "", labels, Truth(boxes))
        samples.append((Image.fromarray(scene.pixels), sample))
    return samples


def scene_report(count: int, *, side: int | None = None, **said: Any) -> ReportContent:
    """Scenes of which every box is a little, and every fifth one far, off its object."""
    random = np.random.default_rng(5)
    scenes = scene_samples(count)
    pictures = [
        scene_picture(
            index, picture if side is None else picture.resize((side, side * 3 // 4)), each, random
        )
        for index, (picture, each) in enumerate(scenes)
    ]
    return ReportContent(
        class_names=NAMES,
        pictures=pictures,
        thresholds={name: 0.3 + 0.02 * number for number, name in enumerate(NAMES)},
        **{"totals": counted(picture.prediction for picture in pictures), **said},
    )


def scene_picture(
    index: int, picture: Image.Image, sample: Sample, random: np.random.Generator
) -> ReportPicture:
    assert sample.truth is not None
    width, height = picture.size
    objects = sample.truth.boxes
    boxes, points, masks, heat, scores = [], [], [], {}, {}
    for number, name in enumerate(NAMES):
        own = [item.box for item in objects if item.class_index == number]
        scores[name] = float(random.uniform(0.55, 0.99) if own else random.uniform(0.0, 0.3))
        if not own:
            continue
        shift = 0.9 if index % 5 == 4 else random.uniform(0.0, 0.25)
        moved = [_moved(box, shift, (width, height)) for box in own]
        boxes += [Box(name, box, scores[name] * 0.8) for box in moved]
        left, top, right, bottom = moved[0]
        points.append(Point(name, (left + right) / 2, (top + bottom) / 2, scores[name]))
        masks.append(Mask(name, ellipse(moved[0], (width, height)), scores[name]))
        heat[name] = bumps(moved, (width, height))
    disagreements = ()
    if index % 7 == 3:
        disagreements = (Disagreement(NAMES[index % len(NAMES)], "missing", 0.04),)
    prediction = Prediction(
        sample.name, width, height, scores, tuple(points), tuple(boxes), tuple(masks),
        doubt=float(random.uniform(0, 1)), disagreements=disagreements,
    )  # fmt: skip
    return ReportPicture(prediction, lambda: picture, heat, sample)


def bumps(boxes: list[BoxLTRB], size: tuple[int, int]) -> CoarseHeat:
    """A round hill on each box, 255 at the highest cell."""
    width, height = size
    ratio = HEAT_CELLS / max(size)
    columns, rows = max(round(width * ratio), 1), max(round(height * ratio), 1)
    x = (np.arange(columns) + 0.5) * width / columns
    y = (np.arange(rows) + 0.5) * height / rows
    heat = np.zeros((rows, columns))
    for left, top, right, bottom in boxes:
        across = (x - (left + right) / 2) / (0.5 * (right - left) + 1)
        down = (y - (top + bottom) / 2) / (0.5 * (bottom - top) + 1)
        heat = np.maximum(heat, np.exp(-(down[:, None] ** 2 + across**2)))
    return np.rint(255 * heat / heat.max()).astype(np.uint8)


def ellipse(box: BoxLTRB, size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    left, top, right, bottom = box
    x = (np.arange(width) + 0.5 - (left + right) / 2) / max((right - left) / 2, 1)
    y = (np.arange(height) + 0.5 - (top + bottom) / 2) / max((bottom - top) / 2, 1)
    inside = (y[:, None] ** 2 + x**2 <= 1).astype(np.uint8)
    rle = coco_mask.encode(np.asfortranarray(inside))
    return {"size": [height, width], "counts": rle["counts"].decode()}


def run_record(*, num_epochs: int = 12) -> dict[str, Any]:
    """What `weakloc train` writes, with made-up numbers; two classes that hardly part."""
    count = len(NAMES)
    together = np.full((count, count), 30)
    np.fill_diagonal(together, 120)
    together[0, 1] = together[1, 0] = 117
    return {
        "method": {
            "name": "wildcat",
            "settings": {"maps_per_class": 4, "optimisation": {"kind": "sgd"}},
        },
        "settings": {"epochs": num_epochs, "backbone": None},
        "seed": 7,
        "backbone": {"name": "resnet50", "weights": "default", "output_stride": None},
        "class_names": list(NAMES),
        "labels": {"num_images": 400, "present": [120] * count, "co_occurrence": together.tolist()},
        "selection": {"epoch": num_epochs, "by": "last epoch", "watched": "val"},
        "hidden_supervision": 0,
        "thresholds": None,
        "notes": [],
        "versions": {"python": "3.12.0", "weakloc": "0.1.0"},
        "history": [
            {
                "epoch": epoch,
                "loss": 0.7 * math.exp(-epoch / 5) + 0.05,
                "learning_rate": 0.01 * (1 - epoch / (num_epochs + 1)),
                "classification_map": 0.9 - 0.5 * math.exp(-epoch / 4),
                "point_map": None if epoch == 1 else 0.7 - 0.4 * math.exp(-epoch / 4),
                "seconds": 3.0,
            }
            for epoch in range(1, num_epochs + 1)
        ],
    }


def evaluation(metrics: Sequence[MetricRecord], unavailable: Mapping[str, str]) -> EvaluationRecord:
    return EvaluationRecord(tuple(metrics), unavailable, "runs/a", "val", "the tags", 300)


def metrics_record() -> EvaluationRecord:
    """What `weakloc evaluate` writes, with made-up numbers."""
    per_class = {name: 0.3 + 0.1 * number % 0.6 for number, name in enumerate(NAMES)}
    sweep = tuple(step / 50 for step in range(50))
    heights = tuple(math.exp(-(((at - 0.3) / 0.2) ** 2)) * 0.6 for at in sweep)
    return evaluation(
        [
            MetricRecord(
                "classification_map",
                0.913,
                "VOC average precision, all points",
                300,
                interval=Interval(0.894, 0.929),
                baselines={"chance": 0.31},
                per_class={name: 0.95 - value / 3 for name, value in per_class.items()},
            ),
            MetricRecord(
                "point_map",
                0.782,
                "points inside objects, no tolerance",
                300,
                interval=Interval(0.75, 0.811),
                baselines={"center": 0.33, "full_image": 0.33, "random": 0.21},
                per_class=per_class,
            ),
            MetricRecord(
                "box_map_50",
                0.411,
                "IoU above 0.5, VOC 2010",
                300,
                hidden_supervision=20,
                interval=Interval(0.377, 0.44),
                baselines={"center": 0.07, "full_image": 0.02, "random": 0.01},
                per_class={name: value * 0.7 for name, value in per_class.items()},
            ),
            MetricRecord(
                "max_box_acc_v2",
                0.52,
                "largest component, mean of IoU 0.3, 0.5 and 0.7",
                300,
                curves={"iou_50": Curve(sweep, heights)},
            ),
        ],
        {"mean_iou": "no masks are drawn in this data set"},
    )


def _enlarged(picture: Image.Image, sample: Sample, side: int | None) -> tuple[Image.Image, Sample]:
    """The scene as a photograph of so many pixels across; its truth comes along."""
    if side is None:
        return picture, sample
    assert sample.truth is not None
    ratio = side / picture.width
    boxes = tuple(
        replace(item, box=tuple(edge * ratio for edge in item.box)) for item in sample.truth.boxes
    )
    large = picture.resize((side, round(picture.height * ratio)))
    return large, replace(sample, truth=Truth(boxes))


def _moved(box: BoxLTRB, share: float, size: tuple[int, int]) -> BoxLTRB:
    left, top, right, bottom = box
    across = share * (right - left)
    across = across if right + across <= size[0] else -across
    return max(left + across, 0.0), top, min(right + across, float(size[0])), bottom
