"""What reviewed images teach a run: 20, 50 and 200 corrected by a simulated person.

    python -m benchmarks.bench_reviews NAME RUN DATA [--reviewed 20 50 200] [--seeds 0 1 2]
                                       [--accepts 0.5] [--order random]

The run looks at tagged images of the split that it learned from. The person leaves a box that fits
a drawn object by so much IoU as it is, deletes the other boxes of the tags, draws the objects that
are left, and so never sees an image of the split that is kept to judge. The review goes the way of
`weakloc label --drawn`: a detector learns it, unless the reviewed images say that it is worse.
Measured on the split that is kept to judge, beside the run as it was and the best trivial answer;
the detector is measured whether it is kept or not. `corrected` counts images where something was
drawn or deleted, `drawn` boxes that were drawn, of all in the review. Rows of earlier calls stay.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import weakloc
from benchmarks.measure import kept_rows, write_results
from weakloc.api.calibration import drawn_boxes
from weakloc.data.readers.review import Decision, Review, ReviewedImage, write_review
from weakloc.data.sources import ImageSource
from weakloc.files import ByName
from weakloc.geometry import BoxLTRB, box_ious
from weakloc.metrics.result import MetricResult
from weakloc.settings import DataSettings, DistilSettings, EvaluateSettings
from weakloc.structures import PRESENT, DataSet, Prediction, Sample

NUMBERS = ("point_map", "box_map_50", "corloc", "gt_known_loc")
KEY = ("images", "reviewed", "order", "accepts", "seed")
BESIDE = ("corrected", "drawn", *NUMBERS, "told", "kept", "CPU s")


@dataclass(frozen=True)
class Corrected:
    """An image after the person looked at it."""

    image: ReviewedImage
    num_drawn: int
    num_deleted: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--reviewed", type=int, nargs="+", default=[20, 50, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--accepts", type=float, nargs="+", default=[0.5])
    parser.add_argument("--order", choices=("random", "doubt"), default="random")
    given = parser.parse_args()
    data, run = weakloc.read(given.data), weakloc.load(given.run)
    if of(given.name, 0) not in [of(*(row[name] for name in KEY)) for row in kept_rows("reviews")]:
        untaught, trivial = numbers(run, data)
        keep({**of(given.name, "trivial"), **trivial, "kept": "the best of the trivial answers"})
        keep({**of(given.name, 0), **untaught, "kept": "run"})
    for seed in given.seeds:
        samples = in_order(run, data, max(given.reviewed), given.order, seed)
        said = predicted(run, samples)
        for accepts in given.accepts:
            looked_at = [
                corrected(sample, prediction, run.class_names, accepts)
                for sample, prediction in zip(samples, said, strict=True)
            ]
            for count in given.reviewed:
                row = of(given.name, count, given.order, accepts, seed)
                keep({**row, **taught(run, data, looked_at[:count], seed)})


def of(*key: object) -> dict[str, Any]:
    given = dict(zip(KEY, key, strict=False))
    return {**dict.fromkeys((*KEY, *BESIDE), ""), **given}


def keep(row: Mapping[str, Any]) -> None:
    """Adds it to the table, in the place of an earlier one of the same key."""
    others = [old for old in kept_rows("reviews") if any(old[name] != row[name] for name in KEY)]
    rows = sorted([*others, row], key=place)
    write_results("reviews", rows, title="What reviewed images teach")


def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """By the number of reviewed images and the seed, after the trivial answers."""
    counts = [row[name] if isinstance(row[name], int) else -1 for name in ("reviewed", "seed")]
    return row["images"], *counts, row["order"], row["accepts"]


def numbers(
    run: weakloc.TrainedRun, data: DataSet
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Of a run, and of the best answer that looks at no image."""
    settings = EvaluateSettings(resamples=0)
    evaluated = weakloc.evaluate(run, data, settings, numbers=NUMBERS)
    results = {result.name: result for result in evaluated.metrics if result.name in NUMBERS}

    def best(result: MetricResult) -> float | None:
        return None if result.best_baseline is None else round(result.best_baseline[1], 3)

    own = {name: result.value and round(result.value, 3) for name, result in results.items()}
    return own, {name: best(result) for name, result in results.items()}


def in_order(
    run: weakloc.TrainedRun, data: DataSet, most: int, order: str, seed: int
) -> list[Sample]:
    """The images with tags that are looked at first: in any order, or by doubt as in a report."""
    learned = data.split(run.run.settings.train_split)
    tagged = [sample for sample in learned if (sample.labels == PRESENT).any()]
    numbers = np.random.default_rng(seed).permutation(len(tagged)).tolist()
    if order == "doubt":
        said = predicted(run, tagged)
        numbers = sorted(range(len(tagged)), key=lambda number: -said[number].doubt)
    return [tagged[number] for number in numbers[:most]]


def predicted(run: weakloc.TrainedRun, samples: Sequence[Sample]) -> list[Prediction]:
    """Places of the tagged classes, as `weakloc label` names them."""
    tags = ByName({sample.name: sample.labels for sample in samples})
    answers = run.predictor().predict(map(ImageSource.of, samples), tags)
    return [answer for answer in answers if isinstance(answer, Prediction)]


def corrected(
    sample: Sample, prediction: Prediction, names: Sequence[str], accepts: float
) -> Corrected:
    decisions, num_drawn, num_deleted = [], 0, 0
    for index in np.flatnonzero(sample.labels == PRESENT).tolist():
        boxes = [box.box for box in prediction.boxes if box.class_name == names[index]]
        left, drawn = fitting(boxes, drawn_boxes(sample, index), accepts)
        num_drawn += len(drawn)
        num_deleted += len(boxes) - len(left)
        decisions.append(Decision(names[index], "accepted", boxes=(*left, *drawn)))
    size = prediction.width, prediction.height
    return Corrected(ReviewedImage(sample.name, *size, tuple(decisions)), num_drawn, num_deleted)


def fitting(
    boxes: Sequence[BoxLTRB], true: Sequence[BoxLTRB], accepts: float
) -> tuple[list[BoxLTRB], list[BoxLTRB]]:
    """Boxes that stay, at most one an object, and the objects that none of them fits."""
    left, missing = list[BoxLTRB](), [*true]
    for box in boxes:
        if missing:
            ious = box_ious(np.array([box]), np.array(missing))[0]
            if ious.max() >= accepts:
                left.append(box)
                del missing[int(ious.argmax())]
    return left, missing


def taught(
    run: weakloc.TrainedRun, data: DataSet, looked_at: Sequence[Corrected], seed: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        began, file = time.process_time(), Path(folder, "review.json")
        images = tuple(item.image for item in looked_at)
        write_review(file, Review(run.class_names, images))
        reading = DataSettings(labels=file, class_names=run.class_names)
        drawn = weakloc.read(data.root, reading)
        count = sum(len(sample.drawn.boxes) for sample in drawn.samples())
        settings = DistilSettings(boxes=count, seed=seed)
        made = weakloc.distil(run, drawn, Path(folder, "judged"), settings)
        taught, told, seconds = made.run, made.comparison, round(time.process_time() - began)
        assert told is not None
        if told.is_worse:
            settings = replace(settings, folds=0)
            taught = weakloc.distil(run, drawn, Path(folder, "kept"), settings).run
        result, _ = numbers(taught, data)
    return {
        "corrected": sum(bool(item.num_drawn + item.num_deleted) for item in looked_at),
        "drawn": f"{sum(item.num_drawn for item in looked_at)} of {count}",
        **result,
        "told": f"{told.detector - told.run:+.2f} ± {told.error:.2f}",
        "kept": "run" if told.is_worse else "detector",
        "CPU s": seconds,
    }


if __name__ == "__main__":
    main()
