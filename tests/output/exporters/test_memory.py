"""Streams stay streams: no exporter gathers the predictions."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.output.exporters.conftest import CLASS_NAMES
from weakloc.output.exporters import Content, export_format
from weakloc.structures import Prediction

FORMATS = ["jsonl", "coco", "coco-results", "yolo", "voc", "cvat", "csv"]
MEMORY_PER_IMAGE = {"yolo": 160, "voc": 160, "labelme": 160}  # bytes: one number an image is kept


def peak_memory(name: str, prediction: Prediction, count: int, out: Path) -> int:
    def stream() -> Iterator[Prediction]:
        for number in range(count):
            if number % 10 == 0:
                gc.collect()  # XML trees are circles: when they go must not be left to chance
            yield replace(prediction, image=f"a/{number}.jpg")

    tracemalloc.start()
    try:
        export_format(name, Content(stream(), class_names=CLASS_NAMES), out)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def peaks(name: str, prediction: Prediction, folder: Path) -> tuple[int, int]:
    """Of 50 and of 200 predictions."""
    peak_memory(name, prediction, 200, folder / "first")  # imports, caches, interned names
    # Python's table of interned names, which holds the parts of paths, may double in any one run.
    larges = (peak_memory(name, prediction, 200, folder / which) for which in ("large", "again"))
    return peak_memory(name, prediction, 50, folder / "small"), min(larges)


def test_memory_does_not_grow_with_the_number_of_predictions(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    (tmp_path / "prediction").write_bytes(pickle.dumps(predictions[0]))
    # In a process of its own: what else the tests' process lets go of is not the exporters'.
    command = [sys.executable, "-m", "tests.output.exporters.test_memory", str(tmp_path)]
    root = Path(__file__).parents[3]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    growth = {name: large - small for name, (small, large) in json.loads(answer.stdout).items()}
    room = {name: 24 * 1024 + 150 * MEMORY_PER_IMAGE.get(name, 0) for name in growth}
    assert {name: more for name, more in growth.items() if more >= room[name]} == {}
    assert list(growth) == FORMATS


if __name__ == "__main__":
    place = Path(sys.argv[1])
    sample = pickle.loads((place / "prediction").read_bytes())
    gc.freeze()
    found = {name: peaks(name, sample, place / name) for name in FORMATS}
    sys.stdout.write(json.dumps(found))
