"""Predictions and samples in any order in; checked pairs of them out, one at a time.

Every metric relies on what is checked here: known images, each once, known classes, finite
scores, boxes that are not inside out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from weakloc.errors import PredictionsError, did_you_mean
from weakloc.geometry import BoxLTRB
from weakloc.metrics.arrays import ClassIndex
from weakloc.structures import Box, Mask, Point, Prediction, Sample

WhenMissing: TypeAlias = Literal["error", "empty"]


def pair_predictions(
    predictions: Iterable[Prediction],
    samples: Iterable[Sample],
    classes: ClassIndex,
    *,
    when_missing: WhenMissing = "error",
) -> Iterator[tuple[Sample, Prediction]]:
    """Each prediction with its sample, in the order of the predictions.

    An image without a prediction is an error, or with "empty" (COCO result files do not list
    images without detections) one on which nothing was found; those come last.
    """
    waiting = {sample.name: sample for sample in samples}
    if not waiting:
        raise PredictionsError("there are no images to evaluate", remedy="Choose another split")
    done: set[str] = set()
    for prediction in predictions:
        if prediction.image in done:
            raise PredictionsError("this image is predicted twice", where=prediction.image)
        if prediction.image not in waiting:
            raise PredictionsError(
                f"image {prediction.image!r} is not in the data set",
                remedy=did_you_mean(prediction.image, waiting),
            )
        check_prediction(prediction, classes)
        done.add(prediction.image)
        yield waiting.pop(prediction.image), prediction
    if waiting and when_missing == "error":
        raise PredictionsError(
            f"{len(waiting)} of {len(waiting) + len(done)} images have no prediction, "
            f"the first is {next(iter(waiting))!r}",
            remedy="Predict them too, or count them as images on which nothing was found",
        )
    for sample in waiting.values():
        yield sample, Prediction(image=sample.name, width=0, height=0, scores={})


def check_prediction(prediction: Prediction, classes: ClassIndex) -> None:
    where = prediction.image
    for name, score in prediction.scores.items():
        _check_score(score, name, where, classes)
    everything: list[Point | Box | Mask] = []
    everything += [*prediction.points, *prediction.boxes, *prediction.masks]
    for found in everything:
        _check_score(found.score, found.class_name, where, classes)
    for point in prediction.points:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            raise PredictionsError(f"a point lies at ({point.x}, {point.y})", where=where)
    for box in prediction.boxes:
        _check_box(box.box, where)
    for mask in prediction.masks:
        if list(mask.rle["size"]) != [prediction.height, prediction.width]:
            raise PredictionsError(
                f"a mask of {mask.class_name!r} has the size {list(mask.rle['size'])}, "
                f"the image is [{prediction.height}, {prediction.width}]",
                where=where,
            )


def _check_score(score: float, class_name: str, where: str, classes: ClassIndex) -> None:
    classes.index_of(class_name, where=where)
    if not math.isfinite(score):
        raise PredictionsError(
            f"the score of class {class_name!r} is {score}",
            where=where,
            remedy="Scores must be finite numbers",
        )


def _check_box(box: BoxLTRB, where: str) -> None:
    if not all(math.isfinite(side) for side in box):
        raise PredictionsError(f"box {list(box)} is not finite", where=where)
    if box[2] < box[0] or box[3] < box[1]:
        raise PredictionsError(
            f"box {list(box)} is inside out",
            where=where,
            remedy="Boxes are (left, top, right, bottom), not (left, top, width, height)",
        )
