"""weakloc as a model of FiftyOne's zoo: images in, boxes, points, classes, heat and doubt out.

    foz.load_zoo_model("weakloc", run="RUN", top=1, masks="crf")

FiftyOne's zoo copies this folder among its models; weakloc itself must be installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

import fiftyone as fo
from fiftyone.core.models import Model
from weakloc.api.fused_runs import predictor_with
from weakloc.data.sources import ImageSource
from weakloc.errors import ImageError
from weakloc.localize.maps import minmax
from weakloc.output.exporters.fiftyone import fields_of
from weakloc.predictor.predictor import Located
from weakloc.structures import BrokenImage

LABELS = ("boxes", "points", "classes", "doubt")  # there are no tags to disagree with


def load_model(
    model_name: str,  # noqa: ARG001 (there is one, and it has no file of its own)
    model_path: str,  # noqa: ARG001
    *,
    run: str,
    **settings: Any,
) -> RunModel:
    """The model of a run; `settings` are the flags of `weakloc predict` by name."""
    return RunModel(run, settings)


class RunModel(Model):
    """What `apply_model` calls; it takes images of any size, and many at once."""

    media_type = "image"
    ragged_batches = False  # no images are turned into tensors before they come here
    transforms = None
    preprocess = False
    config = None

    def __init__(self, run: str, settings: Mapping[str, Any]) -> None:
        self.predictor = predictor_with(run, settings)

    def predict(self, arg: np.ndarray) -> dict[str, Any]:
        """The labels of an image, uint8 (rows, columns, 3)."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[np.ndarray]) -> list[dict[str, Any]]:
        sources = (ImageSource.of_picture("image", Image.fromarray(image)) for image in args)
        answers, least = self.predictor.predict_with_heat(sources), self.predictor.places.min_score
        return [labels_of(answer, tag_threshold=least) for answer in answers]


def labels_of(located: Located | BrokenImage, *, tag_threshold: float) -> dict[str, Any]:
    """Fields of a sample; `heat` is the greatest of the classes that were looked for."""
    if isinstance(located, BrokenImage):
        raise ImageError(located.reason)
    fields = fields_of(located.prediction, tag_threshold)
    sample = fo.Sample.from_dict({"filepath": "image", **fields})
    labels = {name: sample[name] for name in LABELS}
    if located.classes:
        heat = minmax(located.heat.values).max(axis=0)
        labels["heat"] = fo.Heatmap(map=np.rint(255 * heat).astype(np.uint8), range=[0, 255])
    return labels
