"""What each work costs as there is more of something: the exponent of the cost, and memory.

    python -m benchmarks.bench_growth [--only WORK]... [--many] [--rounds 2]

A cost that grows as n^k has the exponent k; that between the two largest amounts is judged, where
what is paid once counts least, and the one fitted to all is beside it. The network is as small as
can be, so that what is measured is everything else. Each amount is done in a process of its own,
after a little of the same as a warm-up: CPU seconds, and the peak of memory beyond what was there
before. Whatever grows faster than n^1.1 in images is a finding. --many adds 100,000 images.
With --only the other rows stay as an earlier call left them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.bench_component_tree import smooth_map
from benchmarks.bench_heat_maps import write_photographs
from benchmarks.measure import kept_rows, write_results
from benchmarks.own_processes import own_processes

MOST_IN_IMAGES = 1.1  # the exponent above which a cost is a finding
NUM_DISTINCT = 32
SIZE = (48, 36)  # of the images where their size is not what is measured

Work = Callable[[], object]


def fitted_exponent(amounts: Sequence[float], costs: Sequence[float]) -> float:
    """k of the line log cost = k log amount + c with the least squares."""
    return float(np.polyfit(np.log(amounts), np.log(costs), 1)[0])


@dataclass(frozen=True)
class Amount:
    """One cell: how much there is of everything."""

    images: int = 256
    classes: int = 2
    side: int = 48
    boxes: int = 1  # predicted in an image
    thresholds: int = 100


@dataclass(frozen=True)
class Cost:
    seconds: float  # of the processor
    mebibytes: float  # at the peak, beyond what was there before


@dataclass(frozen=True)
class Material:
    """What a work is given: COCO with one drawn box an image, and predictions of it."""

    folder: Path
    amount: Amount

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.jsonl"


def write_data(folder: Path, amount: Amount) -> None:
    """Few files, many links to them."""
    originals = folder / "originals"
    originals.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(NUM_DISTINCT):
        pixels = random.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(originals / f"{number}.png")
    paths = sorted(originals.iterdir())
    names = [f"class {number:04}" for number in range(amount.classes)]
    images, annotations, lines = [], [], []
    for number in range(amount.images):
        name = f"{number // 1000:04}/{number:07}.png"
        (folder / "data/images" / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(paths[number % NUM_DISTINCT], folder / "data/images" / name)
        images.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        annotation = {"id": number + 1, "image_id": number, "bbox": [4, 4, 30, 20], "area": 600}
        shown = number % amount.classes
        annotations.append(annotation | {"iscrowd": 0, "category_id": shown})
        lines.append(json.dumps(_prediction(name, names, shown, amount.boxes, random)) + "\n")
    written = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
    }
    (folder / "data/annotations").mkdir()
    for split in ("train", "val"):
        (folder / f"data/annotations/instances_{split}.json").write_text(json.dumps(written))
    (folder / "predictions.jsonl").write_text("".join(lines))


def _prediction(
    name: str, names: Sequence[str], shown: int, num_boxes: int, random: np.random.Generator
) -> dict[str, Any]:
    lefts, tops = random.random(num_boxes) * 10, random.random(num_boxes) * 10
    scores = random.random(num_boxes)
    boxes = [
        {"class": names[shown], "box": [left, top, left + 30, top + 20], "score": score}
        for left, top, score in zip(lefts.tolist(), tops.tolist(), scores.tolist(), strict=True)
    ]
    return {
        "schema": "weakloc.predictions/1",
        "image": name,
        "width": SIZE[0],
        "height": SIZE[1],
        "scores": dict(zip(names, random.random(len(names)).round(4).tolist(), strict=True)),
        "points": [{"class": names[shown], "x": 20.0, "y": 15.0, "score": 0.5, "heat": 1.0}],
        "boxes": boxes,
        "masks": [],
        "doubt": 0.5,
        "disagreements": [],
    }


def run_in(material: Material) -> Path:
    """A run of the least network on the classes of the data, trained for one short epoch."""
    from weakloc.api.training import train
    from weakloc.settings import TrainSettings

    out = material.folder / "run"
    if not out.exists():
        settings = TrainSettings(
            backbone="tiny[width=4]",
            image_size=64,
            epochs=1,
            batch_size=64,
            workers=0,
            precision="fp32",
            devices=1,
        )
        train(material.data, out=out, settings=settings)
    return out


def predict(material: Material) -> Work:
    from weakloc.api.predictions import predict_to_folder
    from weakloc.settings import Look, Places

    run, photographs = run_in(material), material.folder / "data/images"
    if material.amount.side != SIZE[0]:
        photographs, amount = material.folder / "photographs", material.amount
        if not photographs.exists():
            photographs.mkdir()
            write_photographs(photographs, amount.images, (amount.side, amount.side * 3 // 4))
    one_class = Places(min_score=1.0, top=1)
    return lambda: predict_to_folder(
        run, str(photographs), material.folder / "found", look=Look(workers=0), places=one_class
    )


def evaluate_file(material: Material) -> Work:
    from weakloc.api.evaluation import evaluate

    return lambda: evaluate(material.predictions, material.data)


def evaluate_run(material: Material) -> Work:
    from weakloc.api.evaluation import evaluate
    from weakloc.settings import Look

    run = run_in(material)
    return lambda: evaluate(run, material.data, look=Look(workers=0))


def calibrate(material: Material) -> Work:
    from weakloc.api.calibration import oracle
    from weakloc.api.data_sets import read
    from weakloc.api.runs import load_folder
    from weakloc.settings import CalibrateSettings, Look

    run, data_set = load_folder(run_in(material)), read(material.data)
    return lambda: oracle(run, data_set, CalibrateSettings(), look=Look(workers=0))


def export(material: Material) -> Work:
    from weakloc.api.predictions import export_predictions

    source, formats = material.predictions, ("coco", "voc", "yolo", "csv")
    return lambda: export_predictions(source, formats, material.folder / "exported")


def report(material: Material) -> Work:
    from weakloc.api.reports import report

    source, data = material.predictions, material.data
    return lambda: report(source, material.folder / "report.html", data=data)


def read_data_set(material: Material) -> Work:
    from weakloc.api.data_sets import read

    return lambda: read(material.data)


def best_boxes(material: Material) -> Work:
    """MaxBoxAcc of 200 maps; only its thresholds grow."""
    from dataclasses import replace

    from weakloc.metrics.max_box import MAX_BOX_ACC_V2, best_overlaps, read_levels

    random = np.random.default_rng(0)
    maps = [smooth_map(random, 14, 224).astype(np.float64) / 255 for _ in range(200)]
    convention = replace(MAX_BOX_ACC_V2, step=1 / material.amount.thresholds)
    truth = np.array([[40.0, 60.0, 160.0, 200.0]])
    return lambda: [
        best_overlaps(read_levels(each, convention), truth, convention) for each in maps
    ]


@dataclass(frozen=True)
class Growth:
    """A work, what there is more of, and the amounts."""

    prepare: Callable[[Material], Work]
    grows: str
    amounts: tuple[int, ...]
    fixed: dict[str, int]
    many: int | None = None  # where there is an amount that takes minutes


_CLASSES, _IMAGES = (20, 200, 1000), (1000, 10_000)
GROWTHS = {
    "predict by images": Growth(predict, "images", _IMAGES, {}, 100_000),
    "predict by classes": Growth(predict, "classes", _CLASSES, {"images": 1000}),
    "predict by side": Growth(predict, "side", (256, 512, 1024, 2048), {"images": 8}),
    "evaluate a file by images": Growth(evaluate_file, "images", _IMAGES, {}, 100_000),
    "evaluate a file by classes": Growth(evaluate_file, "classes", _CLASSES, {"images": 1000}),
    "evaluate a file by boxes": Growth(evaluate_file, "boxes", (1, 10, 100), {"images": 1000}),
    "evaluate a run by images": Growth(evaluate_run, "images", (300, 3000), {}),
    "evaluate a run by classes": Growth(evaluate_run, "classes", _CLASSES, {"images": 1000}),
    "calibrate by images": Growth(calibrate, "images", (300, 3000), {}),
    "export by images": Growth(export, "images", _IMAGES, {}, 100_000),
    "export by boxes": Growth(export, "boxes", (1, 10, 100), {"images": 1000}),
    "report by images": Growth(report, "images", (300, 3000), {}),
    "read a data set by images": Growth(read_data_set, "images", _IMAGES, {}, 100_000),
    "best boxes by thresholds": Growth(best_boxes, "thresholds", (10, 50, 250), {"images": 1}),
}


def set_up(name: str, cells: dict[str, Amount], scratch: str) -> Work:
    """Makes all files that the work needs, in a process whose memory is not looked at."""

    def make() -> None:
        for part, cell in cells.items():
            write_data(Path(scratch, part), cell)
            GROWTHS[name].prepare(Material(Path(scratch, part), cell))

    return make


def prepared(name: str, cells: dict[str, Amount], scratch: str) -> Callable[[], Cost]:
    """The work gives what it cost; a little of it is done before."""
    works = [GROWTHS[name].prepare(Material(Path(scratch, part), cells[part])) for part in cells]
    for work in works[:-1]:
        work()

    def timed() -> Cost:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, began = memory("VmRSS"), time.process_time()
        works[-1]()
        return Cost(time.process_time() - began, memory("VmHWM") - before)

    return timed


def memory(kind: str) -> float:
    """MiB of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def measured(name: str, amount: int, rounds: int) -> Cost:
    """Medians over the rounds."""
    growth = GROWTHS[name]
    cell = Amount(**{**growth.fixed, growth.grows: amount})
    cells = {"few": Amount(min(cell.images, 24)), "all": cell}
    costs: list[Cost] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            for prepare in (set_up, prepared):
                with own_processes({"work": (prepare, (name, cells, scratch))}) as processes:
                    cost = processes["work"]()
            costs.append(cost)
    median = statistics.median
    return Cost(median(cost.seconds for cost in costs), median(cost.mebibytes for cost in costs))


def row_of(name: str, amounts: Sequence[int], costs: Sequence[Cost]) -> dict[str, Any]:
    seconds, peaks = [cost.seconds for cost in costs], [cost.mebibytes for cost in costs]
    last = fitted_exponent(amounts[-2:], seconds[-2:])
    row = {
        "work": name,
        "amounts": ", ".join(f"{amount:,}" for amount in amounts),
        "CPU s": ", ".join(f"{taken:.2f}" for taken in seconds),
        "exponent, last two": round(last, 2),
        "exponent, all": round(fitted_exponent(amounts, seconds), 2),
        "MiB": ", ".join(f"{peak:.0f}" for peak in peaks),
        "bytes more for each": round((peaks[-1] - peaks[0]) * 2**20 / (amounts[-1] - amounts[0])),
    }
    is_finding = GROWTHS[name].grows == "images" and last > MOST_IN_IMAGES
    return {**row, "finding": "yes" if is_finding else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=GROWTHS)
    parser.add_argument("--many", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1"}
    rows = {row["work"]: row for row in kept_rows("growth")}
    for name in chosen.only or GROWTHS:
        growth = GROWTHS[name]
        amounts = growth.amounts + ((growth.many,) if chosen.many and growth.many else ())
        fewer = [1 if amount >= 10_000 else chosen.rounds for amount in amounts]
        costs = [measured(name, *pair) for pair in zip(amounts, fewer, strict=True)]
        rows[name] = row_of(name, amounts, costs) | {"load": round(os.getloadavg()[0], 1)}
        write_results(
            "growth",
            [rows[name] for name in GROWTHS if name in rows],
            title="What costs grow with",
            notes=[
                "CPU seconds of one process, without imports and a first call of the same",
                "tiny[width=4] at 64 pixels; images of 48 x 36, in the rows by side JPEGs of 4 : 3",
                f"finding: in images more than n^{MOST_IN_IMAGES}",
            ],
        )


if __name__ == "__main__":
    main()
