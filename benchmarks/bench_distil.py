"""What drawn boxes teach a run: a detector of them beside the run as it is, where nobody looked.

    python -m benchmarks.bench_distil NAME RUN DATA [--boxes 20 50] [--seed 0]

Measured on the split that the run keeps to judge; `told` is what the drawn images alone say of the
gain (mean overlap of first boxes, and its standard error) and `kept` what is decided
by it. The detector is measured whether it is kept or not. Rows of earlier calls stay, so that a
table of several runs is made one call at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import weakloc
from benchmarks.measure import kept_rows, write_results
from weakloc.settings import DistilSettings, EvaluateSettings
from weakloc.structures import DataSet

NUMBERS = ("point_map", "box_map_50", "corloc", "gt_known_loc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--boxes", type=int, nargs="+", default=[20])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = weakloc.read(given.data)
    rows = kept_rows("distil")
    undecided = {"told": "", "kept": "", "CPU s": ""}
    made = [{**key(given.name, 0, given.seed), **numbers(given.run, data), **undecided}]
    made += [distilled(given, data, boxes) for boxes in given.boxes]
    names = [named(row) for row in made]
    rows = sorted([*(row for row in rows if named(row) not in names), *made], key=named)
    write_results("distil", rows, title="What drawn boxes teach")


def key(name: str, boxes: int, seed: int) -> dict[str, Any]:
    return {"images": name, "boxes": boxes, "seed": seed}


def named(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["images"], row["boxes"], row["seed"]


def distilled(given: argparse.Namespace, data: DataSet, boxes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        settings = DistilSettings(boxes=boxes, seed=given.seed)
        made = weakloc.distil(given.run, data, Path(folder, "judged"), settings)
        seconds = round(time.process_time() - begin)
        run, told = made.run, made.comparison
        if told is not None and told.is_worse:
            settings = DistilSettings(boxes=boxes, seed=given.seed, folds=0)
            run = weakloc.distil(given.run, data, Path(folder, "kept"), settings).run
        gain = "" if told is None else f"{told.detector - told.run:+.2f} ± {told.error:.2f}"
        kept = "run" if told is not None and told.is_worse else "detector"
        decided = {"told": gain, "kept": kept, "CPU s": seconds}
        return {**key(given.name, boxes, given.seed), **numbers(str(run.path), data), **decided}


def numbers(run: str, data: DataSet) -> dict[str, float | None]:
    settings = EvaluateSettings(resamples=0)
    evaluated = weakloc.evaluate(run, data, settings, numbers=NUMBERS)
    values = {result.name: result.value and round(result.value, 3) for result in evaluated.metrics}
    return {name: values.get(name) for name in NUMBERS}


if __name__ == "__main__":
    main()
