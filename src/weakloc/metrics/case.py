"""One image's truth and prediction in; both as arrays, made once for all that is measured, out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weakloc.component_tree import ComponentTree
from weakloc.errors import DataError, PredictionsError, did_you_mean
from weakloc.files import path_of
from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.average_precision import RankingConvention
from weakloc.metrics.uncertainty import ImageDraw, draw_image
from weakloc.rle import decode_mask
from weakloc.structures import ABSENT, PRESENT, Point, Prediction, Sample, TruthMask

LabelPixels: TypeAlias = NDArray[np.uint8]  # (height, width)
ScoreMap: TypeAlias = NDArray[np.floating[Any]]  # (height, width)
Edges: TypeAlias = Literal["half-open", "inclusive"]
MapReading: TypeAlias = Literal["clean", "compatible"]
BACKGROUND, VOID = 0, 255
DEFAULT_RESAMPLES = 1000
FOUND, IGNORED, FALSE_ALARM = 1, 0, -1


class ClassIndex:
    """The data set's class names, with the way back from a name to its index."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._index: Mapping[str, int] = {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def index_of(self, name: str, *, image: str) -> int:
        index = self._index.get(name)
        if index is None:
            raise PredictionsError(
                f"class {name!r} is not a class of the data set",
                location=image,
                remedy=did_you_mean(name, self.names),
            )
        return index


@dataclass(frozen=True, slots=True)
class OverlapConvention:
    """When two boxes are the same object.

    "inclusive" edges add one pixel to every width and height, as evaluators do that take right
    and bottom for the last pixels inside; boxes are compared as they are given.
    """

    iou: float = 0.5
    edges: Edges = "half-open"

    @property
    def is_inclusive(self) -> bool:
        return self.edges == "inclusive"

    def __str__(self) -> str:
        return f"IoU >= {self.iou:g}, {self.edges} boxes"

    @property
    def suffix(self) -> str:
        """Of the names of what is counted by it."""
        return "_inclusive" if self.is_inclusive else ""


class TruthArrays(NamedTuple):
    """Drawn objects; `ignored` ones, difficult or crowds, may be found without gain or loss."""

    classes: IntArray  # (G,)
    images: IntArray  # (G,) the number of the image
    boxes: FloatArray  # (G, 4)
    ignored: NDArray[np.bool_]  # (G,)
    crowd: NDArray[np.bool_]  # (G,)

    def boxes_of(self, class_index: int) -> FloatArray:
        return np.asarray(self.boxes[self.classes == class_index])


class DetectionArrays(NamedTuple):
    """Predicted boxes; `judged` is false where the truth cannot tell right from wrong."""

    classes: IntArray  # (D,)
    images: IntArray  # (D,) the number of the image
    boxes: FloatArray  # (D, 4)
    scores: FloatArray  # (D,)
    judged: NDArray[np.bool_]  # (D,)


@dataclass(frozen=True)
class ImageTruth:
    """What is known of one image; whatever answers are measured share these arrays.

    `segmentation_values` leads from a palette index of label images to its class.
    """

    sample: Sample
    segmentation_values: Mapping[int, int] = field(default_factory=dict)

    @cached_property
    def objects(self) -> TruthArrays:
        objects = self.sample.drawn.boxes
        return TruthArrays(
            classes=np.array([drawn.class_index for drawn in objects], dtype=np.int64),
            images=np.zeros(len(objects), dtype=np.int64),
            boxes=np.array([drawn.box for drawn in objects], dtype=np.float64).reshape(-1, 4),
            ignored=np.array([drawn.difficult or drawn.crowd for drawn in objects], dtype=np.bool_),
            crowd=np.array([drawn.crowd for drawn in objects], dtype=np.bool_),
        )

    @cached_property
    def labels(self) -> LabelPixels | None:
        """Of the drawn label image, else of the drawn objects; None without either.

        0 is background, 1 + c the class c, 255 void; later objects lie over earlier ones.
        """
        path = self.sample.drawn.segmentation_path
        if path is not None:
            return read_labels(path, self.segmentation_values)
        return paint_truth(self.sample.drawn.masks)

    @cached_property
    def only_class(self) -> int:
        """The class of an image with one tag, for the metrics that are defined for such alone."""
        present = np.flatnonzero(self.sample.labels == PRESENT)
        if present.size != 1:
            raise DataError(
                f"{present.size} classes are present, but this metric needs exactly one",
                location=self.sample.name,
                remedy="Use mean average precision for images with several tags",
            )
        return int(present[0])


class Levels(NamedTuple):
    """A score map as threshold levels, with the components of all of them."""

    of_cells: NDArray[np.uint8]  # (height, width)
    tree: ComponentTree


@dataclass(frozen=True)
class ClassMap:
    """One class's score map over the whole image, at the size of the published definitions.

    `levels` keep what was made of it, by reading and step between thresholds.
    """

    class_index: int
    scores: ScoreMap
    levels: dict[tuple[MapReading, float], Levels] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Case:
    """One image in evaluation: what is said of it beside what is known.

    `maps` are of the classes that are present, if a run was asked for them; each counts for itself.
    """

    truth: ImageTruth
    prediction: Prediction
    classes: ClassIndex
    maps: tuple[ClassMap, ...] = ()
    resamples: int = DEFAULT_RESAMPLES

    @property
    def name(self) -> str:
        return self.truth.sample.name

    @property
    def tags(self) -> NDArray[np.int8]:
        return self.truth.sample.labels

    @cached_property
    def draw(self) -> ImageDraw:
        return draw_image(self.name, self.resamples)

    @cached_property
    def map_draws(self) -> tuple[ImageDraw, ...]:
        """One for each of the maps."""
        names = [f"{self.name} ({class_map.class_index})" for class_map in self.maps]
        return tuple(draw_image(name, self.resamples) for name in names)

    @cached_property
    def detections(self) -> DetectionArrays:
        """In the order of the prediction; classes that are drawn or absent can be judged."""
        boxes = self.prediction.boxes
        indices = [self.classes.index_of(box.class_name, image=self.name) for box in boxes]
        classes = np.array(indices, dtype=np.int64)
        is_drawn = np.isin(classes, self.truth.objects.classes)
        return DetectionArrays(
            classes=classes,
            images=np.zeros(len(boxes), dtype=np.int64),
            boxes=np.array([box.box for box in boxes], dtype=np.float64).reshape(-1, 4),
            scores=np.array([box.score for box in boxes], dtype=np.float64),
            judged=is_drawn | (self.tags[classes] == ABSENT),
        )

    @cached_property
    def best_points(self) -> Mapping[int, Point]:
        """The first of the highest-scored points of each class that has one."""
        best: dict[int, Point] = {}
        for point in self.prediction.points:
            c = self.classes.index_of(point.class_name, image=self.name)
            if c not in best or point.score > best[c].score:
                best[c] = point
        return best

    @cached_property
    def scores(self) -> FloatArray:
        """(C,) in the order of the classes; each class must have one."""
        values = np.full(len(self.classes), np.nan)
        for name, score in self.prediction.scores.items():
            values[self.classes.index_of(name, image=self.name)] = score
        if np.isnan(values).any():
            missing = self.classes.names[int(np.flatnonzero(np.isnan(values))[0])]
            raise PredictionsError(
                f"class {missing!r} has no score, or not a number",
                location=self.name,
                remedy="Ranking needs the scores of every class on every image",
            )
        return values

    @cached_property
    def rank_of_class(self) -> int:
        """Of the only class present, 0 for the first; of equal scores the earlier is ahead."""
        c = self.truth.only_class
        score = self.scores[c]
        return int((self.scores > score).sum() + (self.scores[:c] == score).sum())


@dataclass(frozen=True)
class MetricSetup:
    """What accumulators and cases are made from."""

    classes: ClassIndex
    ranking: RankingConvention = RankingConvention()
    overlap: OverlapConvention = OverlapConvention()
    segmentation_values: Mapping[int, int] = field(default_factory=dict)
    resamples: int = DEFAULT_RESAMPLES

    def case(self, sample: Sample, prediction: Prediction, maps: Iterable[ClassMap] = ()) -> Case:
        truth = ImageTruth(sample, self.segmentation_values)
        return Case(truth, prediction, self.classes, tuple(maps), self.resamples)


def paint_truth(masks: Sequence[TruthMask]) -> LabelPixels | None:
    if not masks:
        return None
    labels = np.zeros(tuple(masks[0].rle["size"]), dtype=np.uint8)
    for mask in sorted(masks, key=lambda drawn: not drawn.crowd):  # objects over crowds
        if mask.class_index + 1 >= VOID:
            raise DataError(f"label arrays hold at most {VOID - 1} classes", remedy="Choose some")
        labels[decode_mask(mask.rle)] = VOID if mask.crowd else 1 + mask.class_index
    return labels


def read_labels(path: str, segmentation_values: Mapping[int, int]) -> LabelPixels:
    """A palette image's indices as labels."""
    try:
        with path_of(path).open("rb") as file, Image.open(file) as image:
            values = np.asarray(image)
    except OSError as reason:
        raise DataError(f"the label image cannot be read ({reason})", location=path) from reason
    if values.ndim != 2:
        raise DataError(
            f"a label image holds one index a pixel, this one has shape {values.shape}",
            location=path,
            remedy="Use the palette image, not its colours",
        )
    table = np.full(256, -1)
    table[[BACKGROUND, VOID]] = BACKGROUND, VOID
    for value, class_index in segmentation_values.items():
        table[value] = 1 + class_index
    labels = table[values]
    if (labels < 0).any():
        raise DataError(f"index {int(values[labels < 0][0])} stands for no class", location=path)
    return np.asarray(labels, dtype=np.uint8)


def pair_predictions(
    predictions: Iterable[Prediction],
    samples: Iterable[Sample],
    classes: ClassIndex,
    *,
    when_missing: Literal["error", "empty"] = "error",
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
            raise PredictionsError("this image is predicted twice", location=prediction.image)
        if prediction.image not in waiting:
            raise PredictionsError(
                f"image {prediction.image!r} is not in the data set",
                remedy=did_you_mean(prediction.image, {*waiting, *done}),
            )
        places = (*prediction.points, *prediction.boxes, *prediction.masks)
        for name in (*prediction.scores, *(item.class_name for item in places)):
            classes.index_of(name, image=prediction.image)
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
