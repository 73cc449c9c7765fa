"""Writing predictions in every format: speed beside a bare JSON dump, and memory.

    python -m benchmarks.bench_exporters [--predictions 100000] [--rounds 5]

First table: COCO from predictions in memory, beside `json.dumps` of the very same document and
one write; with boxes alone (two an image) and with a run-length mask to every second box. Second
table: predictions a second from predictions.jsonl, and the peak of the memory that Python
allocates (tracemalloc) while a stream of N and of 4 N predictions is written.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from benchmarks.measure import paired_ratio, time_interleaved, write_results
from weakloc.output.exporters import (
    EXPORTERS,
    Content,
    ExportOptions,
    export_format,
    read_predictions,
    write_predictions,
)
from weakloc.structures import Box, Mask, Point, Prediction

CLASS_NAMES = tuple(f"class {number}" for number in range(20))
GOAL = 0.5


@cache
def round_mask() -> dict[str, Any]:
    rows, columns = np.ogrid[:375, :500]
    inside = (rows - 160) ** 2 + (columns - 240) ** 2 < 100**2
    encoded = coco_mask.encode(np.asfortranarray(inside, dtype=np.uint8))
    return {"size": [375, 500], "counts": encoded["counts"].decode()}


def made_predictions(*, has_masks: bool) -> Iterator[Prediction]:
    """Two boxes an image without end; the same ones each time."""
    random, rle = np.random.default_rng(0), round_mask()
    number = 0
    while True:
        numbers = random.random((2, 6)).tolist()
        boxes, points = [], []
        for left, top, width, height, score, name in numbers:
            class_name = CLASS_NAMES[int(name * len(CLASS_NAMES))]
            x, y = left * 300, top * 200
            box = (x, y, x + width * 200, y + height * 175)
            boxes.append(Box(class_name, box, score))
            points.append(Point(class_name, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, score))
        masks = (Mask(boxes[0].class_name, rle, boxes[0].score),) if has_masks else ()
        yield Prediction(
            f"folder {number % 50}/image {number:07}.jpg",
            500,
            375,
            {point.class_name: point.score for point in points},
            tuple(points),
            tuple(boxes),
            masks,
            doubt=0.25,
        )
        number += 1


def export(name: str, predictions: Iterator[Prediction], out: Path) -> Path:
    anywhere = ExportOptions(image_prefix="")
    return export_format(name, Content(predictions, class_names=CLASS_NAMES, options=anywhere), out)


def compare_with_json(num_predictions: int, rounds: int) -> tuple[list[dict[str, Any]], Any]:
    rows, all_timings = [], {}
    for has_masks in (False, True):
        predictions = list(islice(made_predictions(has_masks=has_masks), num_predictions))
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            path = export("coco", iter(predictions), out)
            document = json.loads(path.read_text("utf-8"))
            timings = time_interleaved(
                {
                    "weakloc": lambda out=out, them=predictions: export("coco", iter(them), out),
                    "json.dumps": lambda out=out, it=document: (out / "bare.json").write_text(
                        json.dumps(it), encoding="utf-8"
                    ),
                },
                rounds=rounds,
            )
            size = path.stat().st_size
        content = "boxes and masks" if has_masks else "boxes"
        ratio = paired_ratio(timings["json.dumps"], timings["weakloc"])
        cpu_ratio = paired_ratio(timings["json.dumps"], timings["weakloc"], clock="cpu")
        rows.append(
            {
                "COCO of": f"{num_predictions:,} images, {content}",
                "MB": size / 1e6,
                "weakloc s": timings["weakloc"].wall,
                "json.dumps s": timings["json.dumps"].wall,
                "speed / json.dumps": ratio,
                "by CPU time": cpu_ratio,
                "goal": GOAL,
                "met": "yes" if cpu_ratio >= GOAL else "no",
            }
        )
        all_timings |= {f"{content}, {name}": timing for name, timing in timings.items()}
    return rows, all_timings


def measure_formats(num_predictions: int) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "predictions.jsonl"
        write_predictions(source, islice(made_predictions(has_masks=True), num_predictions))
        for name in EXPORTERS:
            start = time.perf_counter()
            export(name, read_predictions(source), Path(folder) / "timed" / name)
            seconds = time.perf_counter() - start
            small, large = (
                _peak_memory(name, count, Path(folder) / f"{count}" / name)
                for count in (num_predictions // 4, num_predictions)
            )
            rows.append(
                {
                    "format": name,
                    "predictions/s": round(num_predictions / seconds),
                    f"peak KiB at {num_predictions // 4:,}": small / 1024,
                    f"at {num_predictions:,}": large / 1024,
                    "bytes a prediction": (large - small) / (num_predictions * 3 / 4),
                }
            )
    return rows


def _peak_memory(name: str, count: int, out: Path) -> int:
    predictions = islice(made_predictions(has_masks=True), count)
    tracemalloc.start()
    try:
        export(name, predictions, out)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=100_000)
    parser.add_argument("--streamed", type=int, default=4_000, help="for the second table")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows, timings = compare_with_json(arguments.predictions, arguments.rounds)
    write_results(
        "exporters_coco",
        rows,
        title="COCO beside a bare JSON dump",
        notes=["the dump is `json.dumps` of the finished document and one write"],
        timings=timings,
    )
    write_results(
        "exporters",
        measure_formats(arguments.streamed),
        title="Every export format",
        notes=[
            "from predictions.jsonl: two boxes, two points and a mask an image",
            "memory is Python's own allocations; YOLO, VOC and LabelMe keep a number an image",
        ],
    )


if __name__ == "__main__":
    main()
