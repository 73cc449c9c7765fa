"""Images with tags or drawn boxes in, the heat on which thresholds are tuned out.

One image at a time and on the capped grid of the settings, so that memory does not grow with the
size of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from PIL import Image

from weakloc.data.sources import ImageSource
from weakloc.geometry import BoxLTRB
from weakloc.localize.calibration import DrawnHeat, ViewedHeat
from weakloc.localize.maps import HeatMap
from weakloc.predictor.predictor import Predictor, fused_maps
from weakloc.predictor.views import SeenImage, ViewMaps, map_scales, see_images
from weakloc.settings import Look
from weakloc.structures import PRESENT, BrokenImage, Sample

OTHER_SCALES = (0.75, 1.25)  # besides a single usual one, to see which boxes stay
OnImage = Callable[[], None]


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
    boxes = () if sample.truth is None else sample.truth.boxes
    return [
        drawn.box
        for drawn in boxes
        if drawn.class_index == class_index and not drawn.difficult and not drawn.crowd
    ]


def choose_drawn(
    samples: Sequence[Sample], num_classes: int, num_boxes: int | None, random: Generator
) -> list[DrawnImage]:
    """Images with at most `num_boxes` boxes in all, the classes in turn; None takes every box.

    Of an image and class either all boxes are taken or none, as a person would draw them.
    """
    queues: list[list[int]] = [[] for _ in range(num_classes)]
    for index in random.permutation(len(samples)).tolist():
        for class_index in range(num_classes):
            if drawn_boxes(samples[index], class_index):
                queues[class_index].append(index)
    chosen: dict[int, list[int]] = {}
    left = sum(len(s.truth.boxes) for s in samples if s.truth) if num_boxes is None else num_boxes
    for turn in range(max(map(len, queues), default=0)):
        for class_index, queue in enumerate(queues):
            if turn < len(queue):
                needed = len(drawn_boxes(samples[queue[turn]], class_index))
                if needed <= left:
                    left -= needed
                    chosen.setdefault(queue[turn], []).append(class_index)
    return [DrawnImage(samples[index], tuple(chosen[index])) for index in sorted(chosen)]


def drawn_heat(
    predictor: Predictor, drawn: Sequence[DrawnImage], on_image: OnImage
) -> Iterator[DrawnHeat]:
    """The heat of each drawn class; images that cannot be read are left out."""
    looking = _for_maps_only(predictor.look)
    seen_images = see_images(_sources(image.sample for image in drawn), predictor.source, looking)
    for image, drawn_image in zip(seen_images, drawn, strict=True):
        on_image()
        if isinstance(image, BrokenImage):
            continue
        heat = predictor.heat(image, drawn_image.classes, looking)
        for row, class_index in enumerate(drawn_image.classes):
            boxes = drawn_boxes(drawn_image.sample, class_index)
            yield DrawnHeat(class_index, heat.values[row], heat.transform, boxes)


def viewed_heat(
    predictor: Predictor, samples: Sequence[Sample], on_image: OnImage
) -> Iterator[ViewedHeat]:
    """The heat of each tagged class as it is used, then as other sizes and the mirror show it."""
    used = _for_maps_only(predictor.look)
    searches = predictor.heat is not fused_maps
    scales = used.map_scales if searches or len(used.map_scales) > 1 else OTHER_SCALES
    every = tuple(sorted({*used.map_scales, *scales}))
    looking = replace(used, scales=every, map_scales=every, flip=not searches)
    seen_images = see_images(_sources(samples), predictor.source, looking)
    for image, sample in zip(seen_images, samples, strict=True):
        on_image()
        classes = np.flatnonzero(sample.labels == PRESENT).tolist()
        if isinstance(image, BrokenImage) or not classes:
            continue
        heat = predictor.heat(_as_used(image, used), classes, used)
        others = _others(image, classes, used, predictor, searches=searches)
        stacked = [heat.values, *others]
        for row, class_index in enumerate(classes):
            views: list[HeatMap] = [values[row] for values in stacked]
            yield ViewedHeat(class_index, views, heat.transform)


def _for_maps_only(look: Look) -> Look:
    """Tagged classes are looked for whatever their score, so sizes for scores are not needed."""
    scales = map_scales(look)
    return replace(look, scales=scales, map_scales=scales)


def _sources(samples: Iterable[Sample]) -> Iterator[ImageSource]:
    return (ImageSource(sample.name, sample.path) for sample in samples)


def _as_used(image: SeenImage, used: Look) -> SeenImage:
    views = tuple(
        view
        for view in image.views
        if view.view.scale in used.map_scales and (used.flip or not view.view.flip)
    )
    return replace(image, views=views)


def _others(
    image: SeenImage,
    classes: Sequence[int],
    used: Look,
    predictor: Predictor,
    *,
    searches: bool,
) -> list[HeatMap]:
    """(C, rows, columns) of each further way to look at the image."""
    if searches:
        mirrored = replace(image, picture=image.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        return [predictor.heat(mirrored, classes, used).values[:, :, ::-1]]
    ways: dict[tuple[float, bool], list[ViewMaps]] = {}
    for view in image.views:
        ways.setdefault((view.view.scale, view.view.flip), []).append(view)
    already = [view.view for view in _as_used(image, used).views]
    return [
        predictor.heat(
            replace(image, views=tuple(views)),
            classes,
            replace(used, scales=(scale,), map_scales=(scale,)),
        ).values
        for (scale, _), views in ways.items()
        if [view.view for view in views] != already
    ]
