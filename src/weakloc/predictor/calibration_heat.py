"""Images with drawn boxes in, the heat on which thresholds are tuned out.

One image at a time and on the capped grid of the settings, so that memory does not grow with the
size of the images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from numpy.random import Generator

from weakloc.data.sources import ImageSource
from weakloc.geometry import BoxLTRB
from weakloc.localize.calibration import DrawnHeat
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import map_scales, see_images
from weakloc.structures import BrokenImage, Sample
from weakloc.work import Progress


@dataclass(frozen=True)
class DrawnImage:
    """An image and those of its classes whose boxes may be looked at."""

    sample: Sample
    classes: tuple[int, ...]

    @property
    def num_boxes(self) -> int:
        return sum(len(drawn_boxes(self.sample, index)) for index in self.classes)


def drawn_boxes(sample: Sample, class_index: int) -> list[BoxLTRB]:
    """The boxes drawn around single objects of a class that are plain to see."""
    return [
        drawn.box
        for drawn in sample.drawn.boxes
        if drawn.class_index == class_index and not drawn.difficult and not drawn.crowd
    ]


def choose_drawn(
    samples: Sequence[Sample],
    num_classes: int,
    random: Generator,
    *,
    most_boxes: float = math.inf,
    most_of_class: float = math.inf,
) -> list[DrawnImage]:
    """Images with no more boxes than allowed in all and of each class, the classes in turn.

    Of an image and class either all boxes are taken or none, as a person would draw them.
    """
    queues: list[list[int]] = [[] for _ in range(num_classes)]
    for index in random.permutation(len(samples)).tolist():
        for class_index in range(num_classes):
            if drawn_boxes(samples[index], class_index):
                queues[class_index].append(index)
    chosen: dict[int, list[int]] = {}
    left, left_of_class = most_boxes, [most_of_class] * num_classes
    for turn in range(max(map(len, queues), default=0)):
        for class_index, queue in enumerate(queues):
            if turn < len(queue):
                needed = len(drawn_boxes(samples[queue[turn]], class_index))
                if needed <= min(left, left_of_class[class_index]):
                    left -= needed
                    left_of_class[class_index] -= needed
                    chosen.setdefault(queue[turn], []).append(class_index)
    return [DrawnImage(samples[index], tuple(chosen[index])) for index in sorted(chosen)]


def drawn_heat(
    predictor: Predictor, drawn: Sequence[DrawnImage], on_progress: Progress
) -> Iterator[DrawnHeat]:
    """The heat of each drawn class; images that cannot be read are left out."""
    # Tagged classes are looked for whatever their score, so sizes for scores are not needed.
    scales = map_scales(predictor.look)
    looking = replace(predictor.look, scales=scales, map_scales=scales)
    sources = (ImageSource(image.sample.name, image.sample.path) for image in drawn)
    seen_images = see_images(sources, predictor.source, looking)
    for done, (image, drawn_image) in enumerate(zip(seen_images, drawn, strict=True), start=1):
        on_progress(done, len(drawn))
        if isinstance(image, BrokenImage):
            continue
        heat = predictor.heat(image, drawn_image.classes, looking)
        for row, class_index in enumerate(drawn_image.classes):
            boxes = drawn_boxes(drawn_image.sample, class_index)
            yield DrawnHeat(class_index, heat.values[row], heat.transform, boxes)
