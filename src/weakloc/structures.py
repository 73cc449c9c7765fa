"""What flows between the stages: samples in, score maps between, predictions out.

Every box and point is in the image frame of `geometry`. Truth is for evaluation only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from weakloc.errors import DataError, did_you_mean, needing
from weakloc.geometry import BoxLTRB, GridTransform, box_iou
from weakloc.rle import RunLengths, compressed, decode_mask, filling_runs, tight_box

if TYPE_CHECKING:
    from supervision import Detections

ABSENT, UNKNOWN, PRESENT = -1, 0, 1
LabelVector: TypeAlias = NDArray[np.int8]  # (C,) of ABSENT, UNKNOWN, PRESENT
Severity: TypeAlias = Literal["note", "warning", "error"]
Activation: TypeAlias = Literal["sigmoid", "softmax"]  # scores -> probabilities
MapKind: TypeAlias = Literal["logit", "probability", "cam"]
NumPixels: TypeAlias = Annotated[int, Meta(ge=1, le=2**31)]
Real: TypeAlias = Annotated[float, Meta(ge=-1e100, le=1e100)]  # what follows from it is finite
# A whole number stays one, so that what is read is written again as it was.
Number: TypeAlias = Real | Annotated[int, Meta(ge=-(2**53), le=2**53)]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something odd in the data: reported and counted, fatal only under --strict."""

    kind: str  # a short fixed name, for counting: "missing image", "box outside the image"
    message: str
    location: str  # "labels.csv, line 14"
    severity: Severity = "warning"


@dataclass(frozen=True, slots=True)
class TruthBox:
    """One drawn object."""

    class_index: int
    box: BoxLTRB
    difficult: bool = False
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class TruthMask:
    """Pixels of one object (`class_index`), as COCO run lengths."""

    class_index: int
    rle: Mapping[str, Any]  # {"size": [height, width], "counts": str}
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """What people drew on one image; never reaches training unless asked for by name.

    `segmentation_path` names a palette PNG: value 0 is background, 255 void, and value v is the
    class `segmentation_values[v]` of the data set.
    """

    boxes: tuple[TruthBox, ...] = ()
    masks: tuple[TruthMask, ...] = ()
    segmentation_path: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it. `name` is its path below the data set's root, with
    forward slashes; `path` opens it; label vectors may be shared and are read-only."""

    name: str
    path: str
    labels: LabelVector
    truth: Truth | None = None

    @property
    def drawn(self) -> Truth:
        """Its truth; empty where there is none."""
        return self.truth or Truth()

    @property
    def fingerprint(self) -> bytes:
        """What digests take of it: its name and its tags."""
        return self.name.encode("utf-8", "surrogateescape") + self.labels.tobytes()


@dataclass(frozen=True)
class DataSet:
    """What a reader found: class names, the samples of every split, and all that was odd."""

    root: Path
    layout: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]
    problems: tuple[Problem, ...] = ()
    segmentation_values: Mapping[int, int] = field(default_factory=dict)

    def split(self, name: str, *, flag: str = "--split") -> Sequence[Sample]:
        """The samples of a split, or of several as `train+val`, each image once.

        There is at least one; `flag` is what an error says to name the split with.
        """
        parts = [name] if name in self.splits else [part.strip() for part in name.split("+")]
        for part in parts:
            if not self.splits.get(part):
                flaw = "no image in" if part in self.splits else "no"
                remedy = f"{did_you_mean(part, self.splits)} ({flag})"
                raise DataError(
                    f"there is {flaw} split {part!r}", location=str(self.root), remedy=remedy
                )
        return self.splits[parts[0]] if len(parts) == 1 else list(self._each_once(parts))

    def samples(self) -> Iterator[Sample]:
        """Every image once, in however many splits it is."""
        return self._each_once(self.splits)

    def _each_once(self, splits: Iterable[str]) -> Iterator[Sample]:
        names: set[str] = set()
        for split in splits:
            for sample in self.splits[split]:
                if sample.name not in names:
                    names.add(sample.name)
                    yield sample


@dataclass(frozen=True, slots=True)
class BrokenImage:
    """An image that could not be read; a record, not a crash."""

    name: str
    reason: str


@dataclass(frozen=True)
class ScoreMaps:
    """One map of scores per class, (C, rows, columns) float32, with its place in the image."""

    values: NDArray[np.float32]
    transform: GridTransform
    kind: MapKind = "logit"

    def __post_init__(self) -> None:
        columns, rows = self.transform.grid_size
        if self.values.ndim != 3 or self.values.shape[1:] != (rows, columns):
            raise ValueError(f"maps of shape {self.values.shape} do not fill {self.transform}")


class Said(Struct, frozen=True, rename={"class_name": "class"}, omit_defaults=True):
    """What is said of a class; in files its fields stand in their order."""

    class_name: str


class Point(Said, frozen=True):
    """Where a class is; `heat` is its map's value there, None in files that do not say."""

    x: Real
    y: Real
    score: Real
    heat: Real | None = None


class Box(Said, frozen=True):
    box: tuple[Number, Number, Number, Number]  # left, top, right, bottom
    score: Real


class Mask(Said, frozen=True):
    rle: RunLengths
    score: Real


class Disagreement(Said, frozen=True):
    """A tag the model does not see ("missing"), or no tag where it is sure ("unexpected")."""

    kind: Literal["missing", "unexpected"]
    score: Real


@dataclass(frozen=True)
class Prediction:
    """Everything said about one image; `image` is relative to the folder that was given."""

    image: str
    width: NumPixels
    height: NumPixels
    scores: Mapping[str, Number]
    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    masks: tuple[Mask, ...] = ()
    doubt: Real = 0.0
    disagreements: tuple[Disagreement, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_supervision(self) -> Detections:
        """Its boxes with their masks, and masks without a box, for the package supervision.

        `class_id` is a class's number in the run. In an image with masks, a box that has none has
        an empty one.
        """
        with needing("supervision"):
            from supervision import Detections
        objects, numbers = objects_of(self), list(self.scores)
        names = [item.class_name for item in objects]
        pixels = np.zeros((len(objects), self.height, self.width), dtype=bool)
        for mask, item in zip(pixels, objects, strict=True):
            mask[:] = False if item.rle is None else decode_mask(item.rle)
        return Detections(
            xyxy=np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4),
            mask=pixels if self.masks else None,
            confidence=np.array([item.score for item in objects], dtype=np.float64),
            class_id=np.array([numbers.index(name) for name in names], dtype=np.int64),
            data={"class_name": np.array(names, dtype=str)},
        )


def require_fitting(prediction: Prediction) -> None:
    """ValueError where a box is inside out, or a mask does not fill the image."""
    size = [prediction.height, prediction.width]
    for item in prediction.boxes:
        left, top, right, bottom = item.box
        if left > right or top > bottom:
            raise ValueError(f"has the box {list(item.box)}, whose sides are exchanged")
    for mask in prediction.masks:
        if mask.rle["size"] != size:
            raise ValueError(f"has a mask of size {mask.rle['size']!s:.60}, not {size}")
        try:
            filling_runs(mask.rle)
        except ValueError as error:
            raise ValueError(f"has a mask that cannot be read ({error})") from error


SAME_OBJECT = 0.5  # overlap of a box with the tight box of a mask


class PlacedObject(NamedTuple):
    """One thing of a class: its box, and its pixels (as COCO's text) where there is a mask."""

    class_name: str
    box: BoxLTRB
    score: float
    rle: RunLengths | None


def objects_of(prediction: Prediction) -> list[PlacedObject]:
    """The boxes in their order, each with the mask it belongs to, then the masks left over.

    A mask belongs to the box of its class that overlaps its tight box most, by half at least;
    the object has the box and the score of the box. Empty masks are no objects.
    """
    owned: dict[int, RunLengths] = {}
    left_over = []
    for mask in prediction.masks:
        rle = compressed(mask.rle)
        tight = tight_box(rle)
        owner = _owner(mask.class_name, tight, prediction.boxes, owned)
        if owner is not None:
            owned[owner] = rle
        elif tight[2] > tight[0]:
            left_over.append(PlacedObject(mask.class_name, tight, mask.score, rle))
    objects = [
        PlacedObject(box.class_name, box.box, box.score, owned.get(index))
        for index, box in enumerate(prediction.boxes)
    ]
    return objects + left_over


def _owner(
    class_name: str, tight: BoxLTRB, boxes: Sequence[Box], owned: Mapping[int, RunLengths]
) -> int | None:
    overlaps = {
        index: box_iou(box.box, tight)
        for index, box in enumerate(boxes)
        if box.class_name == class_name and index not in owned
    }
    best = max(overlaps, key=overlaps.__getitem__, default=None)
    return None if best is None or overlaps[best] < SAME_OBJECT else best


LabelMatrix: TypeAlias = NDArray[np.int8]  # (N, C) of ABSENT, UNKNOWN, PRESENT


class LabelStatistics(Struct, frozen=True):
    """Counts over the training images; `co_occurrence[i][j]` counts images with both i and j."""

    num_images: int
    present: list[int]  # (C,)
    absent: list[int]  # (C,)
    unknown: list[int]  # (C,)
    co_occurrence: list[list[int]]  # (C, C), the diagonal is `present`

    @property
    def is_single_label(self) -> bool:
        """Whether every image has exactly one present class and all others absent."""
        num_present = sum(self.present)
        has_pairs = sum(map(sum, self.co_occurrence)) > num_present
        return num_present == self.num_images and not has_pairs and not any(self.unknown)

    def odd_classes(self, class_names: Sequence[str]) -> list[str]:
        """The classes from whose tags little can be learned, and why."""
        counts = zip(self.present, self.absent, self.unknown, strict=True)
        notes = []
        for name, (present, absent, unknown) in zip(class_names, counts, strict=True):
            if unknown == self.num_images:
                oddity = "is unknown on every image: nothing will be learned for it"
            elif present == 0:
                oddity = "is on no image: its scores will only say 'absent'"
            elif absent == 0 and len(class_names) > 1:
                oddity = "is absent from no image: its scores will only say 'present'"
            else:
                continue
            notes.append(f"class {name!r} {oddity}")
        return notes
