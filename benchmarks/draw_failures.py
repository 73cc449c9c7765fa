"""The largest failures of a run, to look at: the objects that its first box of their class misses.

    python -m benchmarks.draw_failures RUN DATA failures.jpg [--split val] [--number 6]

Each picture holds the run's point and first box of one class, which is known to be there, and the
drawn object of it that lies nearest; the number behind `drawn` is the IoU of both.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from PIL import Image

import weakloc
from weakloc.api.data_sets import opened
from weakloc.data.sources import ImageSource
from weakloc.geometry import box_ious
from weakloc.output.drawing import draw_grid, draw_prediction
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import SeenImage
from weakloc.settings import DataSettings
from weakloc.structures import Box, BrokenImage, Prediction, Sample

CELL = 320  # pixels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--split", default="val")
    parser.add_argument("--number", type=int, default=6)
    chosen = parser.parse_args()
    samples = [s for s in opened(chosen.data, DataSettings()).split(chosen.split) if s.drawn.boxes]
    predictor = weakloc.load(chosen.run).predictor()
    judged = [
        answer
        for sample, seen in zip(samples, predictor.see(map(ImageSource.of, samples)), strict=True)
        if not isinstance(seen, BrokenImage)
        for answer in judged_classes(predictor, sample, seen)
    ]
    judged.sort(key=lambda answer: answer[0])
    missed = sum(overlap < 0.5 for overlap, _, _ in judged)
    print(f"{missed} of {len(judged)} first boxes overlap no object by half")
    worst, pictures = judged[: chosen.number], []
    for overlap, sample, prediction in worst:
        print(f"{overlap:.2f} {sample.name}: {prediction.boxes[-1].class_name}")
        with Image.open(sample.path) as image:
            pictures.append(draw_prediction(image, prediction))
    draw_grid(pictures, num_columns=3, cell_size=(CELL, CELL)).save(chosen.out)


def judged_classes(
    predictor: Predictor, sample: Sample, seen: SeenImage
) -> list[tuple[float, Sample, Prediction]]:
    """(IoU, sample, what is drawn of it) for every class with drawn objects."""
    answers = []
    for index in sorted({drawn.class_index for drawn in sample.drawn.boxes}):
        said = predictor.measurable(seen, [index], [])
        objects = [drawn.box for drawn in sample.drawn.boxes if drawn.class_index == index]
        first = max(said.boxes, key=lambda box: box.score, default=None)
        found = np.array([first.box if first else (0.0, 0.0, 0.0, 0.0)])
        overlaps = box_ious(found, np.array(objects))[0]
        nearest = Box("drawn", objects[int(overlaps.argmax())], float(overlaps.max()))
        boxes = (nearest, first) if first else (nearest,)
        answers.append((nearest.score, sample, replace(said, boxes=boxes)))
    return answers


if __name__ == "__main__":
    main()
