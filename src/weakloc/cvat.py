"""A run as an auto-annotation function of CVAT: an image in, its tags and shapes out.

    cvat-cli task auto-annotate TASK --function-module weakloc.cvat -p run=str:RUN

The classes of the run are the function's labels; CVAT's coordinates are ours.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.masks import encode_mask
from PIL import Image

from weakloc.api.fused_runs import predictor_with
from weakloc.data.sources import ImageSource
from weakloc.errors import SettingError, did_you_mean
from weakloc.output.exporters.objects import outlines_of
from weakloc.output.exporters.selection import selected
from weakloc.output.settings import ExportOptions
from weakloc.predictor.predictor import Predictor
from weakloc.rle import decode_mask
from weakloc.structures import BrokenImage, PlacedObject, Prediction, objects_of

LOG = logging.getLogger(__name__)
TYPES = {  # what is asked for -> what CVAT calls it
    "boxes": "rectangle",
    "points": "points",
    "polygons": "polygon",
    "masks": "mask",
    "tags": "tag",
}


def create(run: str, *, shapes: str = "boxes", **settings: str | float | bool) -> RunFunction:
    """The function of a run, with one network for all images; `-p NAME=TYPE:VALUE` gives the rest.

    `shapes` are some of `TYPES`, as in "boxes,points"; `settings` the flags of `weakloc predict`
    by name, such as `min_score`, `threshold` or `masks`.
    """
    kinds = frozenset(shapes.split(","))
    for kind in kinds.difference(TYPES):
        raise SettingError(f"shapes is {shapes!r}", remedy=did_you_mean(kind, TYPES))
    if kinds & {"masks", "polygons"}:
        settings = {"masks": "threshold", **settings}
    return RunFunction(predictor_with(run, settings), kinds)


@dataclass(frozen=True)
class RunFunction:
    """What CVAT's driver is given: `spec`, and `detect` for one image after the other."""

    predictor: Predictor
    kinds: frozenset[str]
    groups: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @cached_property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """The classes as labels, of one type where one kind of shape is asked for."""
        kind = TYPES[min(self.kinds)] if len(self.kinds) == 1 else "any"
        names = enumerate(self.predictor.source.class_names)
        return cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(name, number, type=kind) for number, name in names]
        )

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[cvataa.DetectionAnnotation]:
        """What is found in an image that CVAT has turned upright; nothing where it is broken."""
        source = ImageSource.of_picture(context.frame_name, image)
        (answer,) = self.predictor.predict([source])
        if isinstance(answer, BrokenImage):
            LOG.warning("%s is left out: %s", answer.name, answer.reason)
            return []
        names = self.predictor.source.class_names
        options = ExportOptions(score_threshold=context.conf_threshold or 0.0)
        (prediction,) = selected([answer], class_names=names, options=options)
        return list(self._annotations(prediction, options, context.conv_mask_to_poly))

    def _annotations(
        self, prediction: Prediction, options: ExportOptions, conv_mask_to_poly: bool
    ) -> Iterator[cvataa.DetectionAnnotation]:
        """The shapes of one object share a group, which no other object has."""
        numbers = {name: number for number, name in enumerate(prediction.scores)}
        least = max(options.score_threshold, self.predictor.places.min_score)
        for name, score in prediction.scores.items():
            if "tags" in self.kinds and score >= least:
                yield cvataa.tag(numbers[name])
        for item in objects_of(prediction):
            shapes = list(self._shapes_of(item, conv_mask_to_poly))
            shared = {"score": item.score, "group": next(self.groups) if len(shapes) > 1 else 0}
            for kind, points in shapes:
                yield cvataa.shape(numbers[item.class_name], type=kind, points=[*points], **shared)
        for point in prediction.points if "points" in self.kinds else ():
            number, corner = numbers[point.class_name], [point.x, point.y]
            yield cvataa.shape(number, type="points", points=corner, score=point.score)

    def _shapes_of(
        self, item: PlacedObject, conv_mask_to_poly: bool
    ) -> Iterator[tuple[str, Sequence[float]]]:
        """The type and the coordinates of each."""
        if "boxes" in self.kinds:
            yield "rectangle", item.box
        if item.rle is not None:
            mask, is_mask = decode_mask(item.rle), "masks" in self.kinds
            if is_mask and not conv_mask_to_poly:
                yield "mask", encode_mask(mask)
            if "polygons" in self.kinds or (is_mask and conv_mask_to_poly):
                yield from (("polygon", line.ravel().tolist()) for line in outlines_of(mask))
