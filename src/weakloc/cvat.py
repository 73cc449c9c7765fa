"""A run as an auto-annotation function of CVAT: an image in, its tags and shapes out.

    cvat-cli task auto-annotate TASK --function-module weakloc.cvat -p run=str:RUN

The classes of the run are the function's labels; CVAT's coordinates are ours.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import cvat_sdk.auto_annotation as cvataa
from PIL import Image

from weakloc.api.fused_runs import predictor_with
from weakloc.data.sources import ImageSource
from weakloc.errors import SettingError, did_you_mean
from weakloc.output.exporters.cvat import shapes_of
from weakloc.output.exporters.selection import selected
from weakloc.output.settings import ExportOptions
from weakloc.predictor.predictor import Predictor
from weakloc.structures import BrokenImage

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
        names, least = self.predictor.source.class_names, context.conf_threshold or 0.0
        options = ExportOptions(score_threshold=least)
        (prediction,) = selected([answer], class_names=names, options=options)
        annotations = [
            cvataa.tag(names.index(name))
            for name, score in prediction.scores.items()
            if "tags" in self.kinds and score >= max(least, self.predictor.places.min_score)
        ]
        kinds = {TYPES[kind] for kind in self.kinds}
        if context.conv_mask_to_poly and "mask" in kinds:
            kinds = {*kinds, "polygon"} - {"mask"}
        for shape in shapes_of(prediction, kinds):
            number, group = names.index(shape.class_name), shape.group if len(kinds) > 1 else 0
            given = {"type": shape.kind, "points": [*shape.values], "score": shape.score}
            annotations.append(cvataa.shape(number, group=group, **given))
        return annotations
