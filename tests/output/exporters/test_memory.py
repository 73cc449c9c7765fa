"""Streams stay streams: no exporter gathers the predictions."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.output.exporters.conftest import CLASS_NAMES
from weakloc.output.exporters import export_format
from weakloc.structures import Prediction

MEMORY_PER_IMAGE = {"yolo": 160, "voc": 160, "labelme": 160}  # bytes: one number an image is kept


def peak_memory(name: str, prediction: Prediction, count: int, out: Path) -> int:
    def stream() -> Iterator[Prediction]:
        for number in range(count):
            if number % 10 == 0:
                gc.collect()  # XML trees are circles: when they go must not be left to chance
            yield replace(prediction, image=f"a/{number}.jpg")

    tracemalloc.start()
    try:
        export_format(name, stream(), out, class_names=CLASS_NAMES)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["jsonl", "coco", "coco-results", "yolo", "voc", "cvat", "csv"])
def test_memory_does_not_grow_with_the_number_of_predictions(
    tmp_path: Path, predictions: list[Prediction], name: str
) -> None:
    peak_memory(name, predictions[0], 100, tmp_path / "first")  # imports and caches
    small = peak_memory(name, predictions[0], 100, tmp_path / "small")
    # The smaller of two: whatever else the process lets go of meanwhile is not the exporter's.
    large = min(peak_memory(name, predictions[0], 400, tmp_path / part) for part in ("a", "b"))
    assert large - small < 24 * 1024 + 300 * MEMORY_PER_IMAGE.get(name, 0)
