"""Proposals: how many drawn boxes some proposal meets, and what they cost.

    python -m benchmarks.bench_proposals RUN DATA [--split val] [--images 100]

Each image is asked for the proposals of its tagged classes (`weakloc predict --boxes proposals`).
Recall is the share of drawn boxes of a class that one of the best N proposals of the class meets,
by score, beside N boxes of a grid that knows nothing of the image (four sizes, three shapes,
shifted by a third of their sides), drawn at random, and where OpenCV's contributed modules are
installed beside selective search (its fast mode, in its own order).
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import weakloc
from benchmarks.measure import write_results
from weakloc.api.data_sets import opened
from weakloc.data.sources import ImageSource
from weakloc.geometry import box_ious
from weakloc.localize.places import PROPOSALS, BoxLimits, find_boxes
from weakloc.settings import DataSettings
from weakloc.structures import BrokenImage, Sample

COUNTS = (1, 10, 50, 100, 200, PROPOSALS)
IOUS = (0.5, 0.7)
Boxes = NDArray[np.float64]


def grid_boxes(width: float, height: float, random: np.random.Generator) -> Boxes:
    boxes = []
    for size, shape in itertools.product((0.15, 0.3, 0.5, 0.75), (0.5, 1.0, 2.0)):
        w, h = min(1.0, size * shape**0.5), min(1.0, size / shape**0.5)
        for x, y in itertools.product(np.arange(0, 1.01 - w, w / 3), np.arange(0, 1.01 - h, h / 3)):
            boxes.append((x * width, y * height, (x + w) * width, (y + h) * height))
    return np.array(boxes)[random.permutation(len(boxes))][:PROPOSALS]


def selective_search(picture: NDArray[np.uint8]) -> Boxes | None:
    if not hasattr(cv2, "ximgproc"):
        return None
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(picture[:, :, ::-1]))
    search.switchToSelectiveSearchFast()
    corners = search.process()[:PROPOSALS].astype(float)
    corners[:, 2:] += corners[:, :2]
    return np.asarray(corners)


class Recalls:
    """Whether each drawn box is met by the best N, for every N and IoU."""

    def __init__(self) -> None:
        self.met: list[list[list[bool]]] = []

    def add(self, boxes: Boxes, objects: Boxes) -> None:
        overlaps = box_ious(boxes, objects) if len(boxes) else np.zeros((1, len(objects)))
        best = [overlaps[:count].max(axis=0) for count in COUNTS]
        for number in range(len(objects)):
            self.met.append([[bool(row[number] >= iou) for row in best] for iou in IOUS])

    def rows(self, name: str) -> list[dict[str, Any]]:
        shares = np.mean(self.met, axis=0)  # (IoUs, counts)
        return [
            {"source": name, "IoU": iou}
            | {f"best {count}": f"{share:.3f}" for count, share in zip(COUNTS, row, strict=True)}
            for iou, row in zip(IOUS, shares.tolist(), strict=True)
        ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=100)
    chosen = parser.parse_args()
    data_set = opened(chosen.data, DataSettings())
    random = np.random.default_rng(0)
    samples: list[Sample] = [s for s in data_set.split(chosen.split) if s.drawn.boxes]
    samples = [samples[k] for k in sorted(random.permutation(len(samples))[: chosen.images])]
    predictor = weakloc.load(chosen.run).predictor()
    recalls: dict[str, Recalls] = {}
    milliseconds: list[float] = []
    began = time.process_time()
    for sample, seen in zip(samples, predictor.see(map(ImageSource.of, samples)), strict=True):
        if isinstance(seen, BrokenImage):
            continue
        width, height = seen.picture.size
        others = {"grid": grid_boxes(width, height, random)}
        if (found := selective_search(np.asarray(seen.picture))) is not None:
            others["selective search"] = found
        for index in sorted({drawn.class_index for drawn in sample.drawn.boxes}):
            objects = np.array([b.box for b in sample.drawn.boxes if b.class_index == index])
            heat = predictor.heat(seen, [index], predictor.look)
            start = time.thread_time()
            parts = find_boxes(
                heat.values[0],
                heat.transform,
                threshold=predictor.thresholds[index],
                threshold_mode=predictor.rules.threshold_mode,
                select="proposals",
                limits=BoxLimits(min_area=predictor.places.min_area),
                score=predictor.rules.box_score,
            )
            milliseconds.append(1e3 * (time.thread_time() - start))
            ours = np.array([part.box for part in parts]).reshape(-1, 4)
            for name, boxes in {"proposals": ours, **others}.items():
                recalls.setdefault(name, Recalls()).add(boxes, objects)
    write_results(
        "proposals",
        [row for name, recall in recalls.items() for row in recall.rows(name)],
        title="Proposals: how many drawn boxes one of the best N meets",
        notes=[
            f"{len(samples)} images of {data_set.root.name}, split {chosen.split}",
            f"proposals of one map take {np.median(milliseconds):.1f} ms of CPU time (median)",
            f"{sum(milliseconds) / (1e3 * (time.process_time() - began)):.0%} of all computed here",
        ],
    )


if __name__ == "__main__":
    main()
