"""What is said of each image in, one checked data set out; every reader ends here."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from weakloc.data.readers.file_tree import FileIndex
from weakloc.errors import DataError, ImageError, did_you_mean
from weakloc.files import is_text, leads_out, path_of, plain
from weakloc.geometry import BoxLTRB, Size, box_area, clip_box
from weakloc.rle import encode_mask, encode_polygons
from weakloc.settings import ReaderOptions
from weakloc.structures import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    DataSet,
    LabelVector,
    Problem,
    Sample,
    Severity,
    Truth,
    TruthBox,
    TruthMask,
)


class Oddity(StrEnum):
    """What is odd in a data set, by the names that problems are counted under."""

    MISSING_IMAGE = "missing image"
    LABEL_FOR_NO_IMAGE = "label for no image"
    IMAGE_WITHOUT_LABELS = "image without labels"
    IMAGE_NOT_LISTED = "image in no split"
    DUPLICATE_IMAGE = "duplicate image"
    DUPLICATE_LABEL = "duplicate label"
    IMAGE_IN_TWO_SPLITS = "image in two splits"
    SPLIT_IN_SPLIT = "split within another"
    CLASS_MISSING_IN_SPLIT = "class in one split only"
    CLASS_WITHOUT_IMAGES = "class without images"
    UNKNOWN_CLASS = "unknown class"
    UNREADABLE_LABEL = "unreadable label"
    LABELS_DISAGREE = "labels disagree"
    BROKEN_IMAGE = "broken image"
    ZERO_AREA_BOX = "zero-area box"
    BOX_OUTSIDE_IMAGE = "box outside the image"
    UNREADABLE_BOX = "unreadable box"
    UNREADABLE_MASK = "unreadable mask"
    BROKEN_SHARD = "broken shard"
    NOT_A_CLASS = "split folder among class folders"


ALL = "all"  # the split of data that has no splits
SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT_ORDER = ("train", "val", "test", ALL)
_APART = frozenset(_SPLIT_ORDER)  # none of them is meant to hold another
_NUM_PROBES = 20  # images that decide which folder is meant
_FARTHEST, _LONGEST_EDGES = 10, 5_000_000  # of polygons: in image sides, in pixels
MOST_CLASSES = 22_000  # those of ImageNet-21k; pairs of classes are counted
_TOLERANCE = 0.5  # pixels that a box may stick out without a word: rounding of other tools


@dataclass(frozen=True, slots=True)
class LabelClaim:
    """What is said of one image's classes, each with its state; those not named get `rest`."""

    states: frozenset[tuple[str, int]]
    rest: int

    @classmethod
    def of(cls, states: Mapping[str, int], rest: int) -> Self:
        return cls(frozenset(states.items()), rest)

    @classmethod
    def showing(cls, *class_names: str) -> Self:
        """These are present, all others absent."""
        return cls.of(dict.fromkeys(class_names, PRESENT), ABSENT)

    def merge(self, other: LabelClaim) -> LabelClaim:
        """Both claims about one image: present wins over unknown, unknown over absent."""
        rising = sorted((*self.states, *other.states), key=itemgetter(1))  # the last one counts
        return LabelClaim.of(dict(rising), max(self.rest, other.rest))

    @property
    def present(self) -> frozenset[str]:
        return frozenset(name for name, state in self.states if state == PRESENT)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.states)


NOTHING_KNOWN = LabelClaim.of({}, UNKNOWN)


def split_name(written: str) -> str:
    """The one name of a split, however it is spelt: "valid" is "val"."""
    return SPLIT_NAMES.get(written.strip().lower(), written.strip())


def chosen_classes(names: Iterable[str], options: ReaderOptions) -> tuple[str, ...]:
    """The classes asked for, else the names found, in the order given."""
    chosen = options.class_names or tuple(dict.fromkeys(names))
    if len(chosen) > MOST_CLASSES:
        raise DataError(
            f"there are {len(chosen):,} classes, and {MOST_CLASSES:,} are the most",
            remedy="Check that classes are what is read as such, or choose some of them",
        )
    return chosen


@dataclass(frozen=True, slots=True)
class Problems:
    """Collects what is odd in a data set; `location` is the file and line that are being read."""

    location: str = ""
    listed: MutableSequence[Problem] = field(default_factory=list)

    def at(self, location: str) -> Problems:
        """The same collection, for what is odd there."""
        return Problems(location, self.listed)

    def error(self, kind: Oddity, message: str) -> None:
        self.report("error", kind, message)

    def warning(self, kind: Oddity, message: str) -> None:
        self.report("warning", kind, message)

    def note(self, kind: Oddity, message: str) -> None:
        self.report("note", kind, message)

    def report(self, severity: Severity, kind: Oddity, message: str) -> None:
        self.listed.append(Problem(str(kind), message, self.location, severity))


@dataclass(frozen=True, slots=True)
class Drawn:
    """An object of an image; there is no box where none is drawn or it cannot be used."""

    class_name: str
    box: BoxLTRB | None
    rle: Mapping[str, Any] | None = None
    difficult: bool = False
    crowd: bool = False


class LabelVectors:
    """Claims in, label vectors out; equal claims share one read-only array."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_index = {name: index for index, name in enumerate(class_names)}
        self._vectors: dict[LabelClaim, LabelVector] = {}

    def of(self, claim: LabelClaim) -> LabelVector:
        """The claim as a vector; names that are no class are passed over."""
        vector = self._vectors.get(claim)
        if vector is None:
            vector = np.full(len(self.class_index), claim.rest, dtype=np.int8)
            for name, state in claim.states:
                if name in self.class_index:
                    vector[self.class_index[name]] = state
            vector.flags.writeable = False
            self._vectors[claim] = vector
        return vector

    def report_strangers(self, claim: LabelClaim, problems: Problems) -> None:
        """An error for each name that is no class."""
        for name in sorted(claim.names - self.class_index.keys()):
            remedy = did_you_mean(name, self.class_index)
            problems.error(
                Oddity.UNKNOWN_CLASS, f"class '{name}' is not among the classes. {remedy}"
            )


class Assembly:
    """Collects the samples of one data set, then checks them together."""

    def __init__(self, root: Path, layout: str, options: ReaderOptions) -> None:
        self.root = root if root.is_dir() else root.parent
        self.options = options
        self.problems = Problems()
        self.files = FileIndex()
        self._prefix = f"{self.root.absolute().as_posix()}/"
        self._layout = layout
        self._vectors = LabelVectors(())
        self._splits: dict[str, list[Sample]] = {}
        self._paths: dict[str, dict[str, str]] = {}  # split -> path -> where it is listed

    @property
    def class_index(self) -> Mapping[str, int]:
        return self._vectors.class_index

    @property
    def image_root(self) -> Path:
        """What images are named below, where no layout says."""
        return path_of(self.options.image_root or self.root).absolute()

    def set_classes(self, names: Iterable[str]) -> None:
        """Before the first image is added: the classes asked for, else these."""
        self._vectors = LabelVectors(chosen_classes(filter(is_text, names), self.options))

    def name_of(self, path: str) -> str:
        """A path as a name below the data set's root; what lies elsewhere keeps its path."""
        return path.removeprefix(self._prefix)

    def find_image(self, image: str, folders: Sequence[str], location: str) -> str | None:
        """The file of an image in the first folder that has it; an error where none does.

        A file that names images may not lead out of these folders and the data set's own.
        """
        paths = [f"{folder}/{image}" for folder in folders]
        message = f"image '{image}' does not exist in {folders[0]}"
        if leads_out(image):
            roots = tuple(f"{folder.rstrip('/')}/" for folder in (*folders, self._prefix))
            normal = (os.path.normpath(Path(folder, image)) for folder in folders)
            paths = [path for path in normal if path.startswith(roots)]
            if not paths:
                message = f"image '{image}' is not below {folders[0]}, nor what --image-root names"
        for path in paths:
            if (on_disk := self.files.resolve(path)) is not None:
                return on_disk
        self.problems.at(location).error(Oddity.MISSING_IMAGE, message)
        return None

    def image_folder(self, folders: Sequence[Path], images: Sequence[str], location: str) -> str:
        """The folder that holds most of some images; an error where none holds any of them.

        Where it was said which folder that is, the others are passed over.
        """
        if self.options.image_root is not None:
            folders = [self.image_root]
        probes = images[:: max(1, len(images) // _NUM_PROBES)]
        paths = [folder.absolute().as_posix() for folder in folders]
        resolve = self.files.resolve
        hits = [sum(resolve(f"{path}/{name}") is not None for name in probes) for path in paths]
        if not any(hits) and probes:
            looked_in = ", ".join(dict.fromkeys(paths))
            raise DataError(
                f"none of its images was found, such as '{probes[0]}'",
                location=location,
                remedy=f"Looked in {looked_in}; say which folder they are in with --image-root",
            )
        return paths[hits.index(max(hits))]

    def add(
        self,
        name: str,
        path: str,
        claim: LabelClaim,
        *,
        split: str,
        location: str,
        drawn: Iterable[Drawn] = (),
        segmentation_path: str | None = None,
    ) -> None:
        """One image; a second one of the same path and split is reported and left out.

        Objects of classes that were not chosen are passed over.
        """
        truth = self._truth(drawn, segmentation_path)
        paths, problems = self._paths.setdefault(split, {}), self.problems.at(location)
        if not is_text(name):
            message = f"the name '{plain(name)}' is not UTF-8; left out"
            problems.error(Oddity.UNREADABLE_LABEL, message)
            return
        if path in paths:
            problems.warning(Oddity.DUPLICATE_IMAGE, f"'{name}' is listed again in {split}")
            return
        paths[path] = location
        if not claim.names <= self.class_index.keys():
            self._vectors.report_strangers(claim, problems)
        sample = Sample(name, path, self._vectors.of(claim), truth)
        self._splits.setdefault(split, []).append(sample)

    def _truth(self, drawn: Iterable[Drawn], segmentation_path: str | None) -> Truth | None:
        index = self.class_index
        items = [(index[item.class_name], item) for item in drawn if item.class_name in index]
        boxes = [TruthBox(i, d.box, d.difficult, d.crowd) for i, d in items if d.box is not None]
        masks = [TruthMask(i, d.rle, d.crowd) for i, d in items if d.rle is not None]
        if not (boxes or masks or segmentation_path):
            return None
        return Truth(tuple(boxes), tuple(masks), segmentation_path)

    def warn_of_unlisted(self, paths: Iterable[str], message: str) -> None:
        """A warning for each of the images that no split has."""
        for name in self._unlisted(paths):
            self.problems.at(name).warning(Oddity.IMAGE_WITHOUT_LABELS, message)

    def note_unlisted(self, paths: Iterable[str]) -> None:
        """One note for all of the images that no split has, where lists choose among many."""
        if names := list(self._unlisted(paths)):
            message = f"{len(names)} images are in no split and left out, such as {names[0]}"
            self.problems.at(self.root.as_posix()).note(Oddity.IMAGE_NOT_LISTED, message)

    def _unlisted(self, paths: Iterable[str]) -> Iterator[str]:
        for path in paths:
            if all(path not in added for added in self._paths.values()):
                yield self.name_of(path)

    def finish(self, *, segmentation_values: Mapping[int, int] | None = None) -> DataSet:
        """The data set, with the problems that only show when all samples are seen."""
        for split, other in combinations(self._paths, 2):
            self._report_shared(split, other)
        vectors = {
            split: list({id(s.labels): s.labels for s in samples}.values())
            for split, samples in self._splits.items()
        }
        return finished_data_set(
            DataSet(
                root=self.root,
                layout=self._layout,
                class_names=tuple(self.class_index),
                splits=self._splits,
                problems=tuple(self.problems.listed),
                segmentation_values=segmentation_values or {},
            ),
            vectors,
        )

    def _report_shared(self, split: str, other: str) -> None:
        """The images of two splits; a list like trainval, with all images of another, is meant."""
        paths, other_paths = self._paths[split], self._paths[other]
        shared = paths.keys() & other_paths.keys()
        smaller, larger = sorted((split, other), key=lambda name: len(self._paths[name]))
        if shared and len(shared) == len(self._paths[smaller]) and not {split, other} <= _APART:
            message = f"{larger} has all images of {smaller}"
            self.problems.at(self.root.as_posix()).note(Oddity.SPLIT_IN_SPLIT, message)
            return
        for path, location in other_paths.items():
            if path in shared:
                message = f"'{self.name_of(path)}' is in {split} and in {other}"
                self.problems.at(location).warning(Oddity.IMAGE_IN_TWO_SPLITS, message)


def finished_data_set(data_set: DataSet, vectors: Mapping[str, Sequence[LabelVector]]) -> DataSet:
    """The same with its splits in order and its classes checked; an error where it is empty.

    `vectors` holds the different label vectors of each split.
    """
    if not any(data_set.splits.values()):
        reason, remedy = "holds no image with labels", None
        if problems := data_set.problems:
            reason = f"holds no usable image; {len(problems)} problems were met"
            remedy = f"The first: {problems[0].location}: {problems[0].message}"
        raise DataError(reason, location=str(data_set.root), remedy=remedy)
    names = dict.fromkeys((*_SPLIT_ORDER, *sorted(data_set.splits)))
    return replace(
        data_set,
        splits={name: data_set.splits[name] for name in names if name in data_set.splits},
        problems=(*data_set.problems, *_class_problems(data_set, vectors)),
    )


def _class_problems(
    data_set: DataSet, vectors: Mapping[str, Sequence[LabelVector]]
) -> Iterator[Problem]:
    """Classes that a split lacks; splits without any known label are passed over."""
    location = str(data_set.root)
    present_in = {
        split: np.any([vector == PRESENT for vector in label_vectors], axis=0)
        for split, label_vectors in vectors.items()
        if any(np.any(vector != UNKNOWN) for vector in label_vectors)
    }
    for index, name in enumerate(data_set.class_names):
        having = [split for split, present in present_in.items() if present[index]]
        lacking = [split for split in present_in if split not in having]
        if not having:
            yield Problem(str(Oddity.CLASS_WITHOUT_IMAGES), f"no image shows '{name}'", location)
        elif lacking:
            message = f"'{name}' is in {' and '.join(having)}, not in {' nor '.join(lacking)}"
            yield Problem(str(Oddity.CLASS_MISSING_IN_SPLIT), message, location)


def usable_box(box: BoxLTRB, *, image_size: Size | None, problems: Problems) -> BoxLTRB | None:
    """The box cut to the image, or None where nothing of it is left; both are reported."""
    if not all(map(math.isfinite, box)):
        problems.warning(Oddity.UNREADABLE_BOX, f"box {_shown(box)} is not finite")
        return None
    if box[2] <= box[0] or box[3] <= box[1]:
        problems.warning(Oddity.ZERO_AREA_BOX, f"box {_shown(box)} has no area")
        return None
    clipped = clip_box(box, image_size or (math.inf, math.inf))
    if clipped == box:
        return box
    if (
        box_area(clipped) <= 0
        or max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > _TOLERANCE
    ):
        of_image = f" of {image_size[0]:g} x {image_size[1]:g}" if image_size else ""
        message = f"box {_shown(box)} reaches out of the image{of_image}"
        problems.warning(Oddity.BOX_OUTSIDE_IMAGE, message)
    return clipped if box_area(clipped) > 0 else None


def read_box(
    written: Sequence[Any],
    from_written: Callable[[BoxLTRB], BoxLTRB],
    *,
    image_size: Size | None,
    problems: Problems,
) -> BoxLTRB | None:
    """A box of four written numbers that `from_written` brings to the image frame, cut to it."""
    try:
        first, second, third, fourth = map(float, written)
    except (TypeError, ValueError, OverflowError):
        problems.warning(Oddity.UNREADABLE_BOX, f"box {written!s:.60} is not four numbers")
        return None
    box = from_written((first, second, third, fourth))
    return usable_box(box, image_size=image_size, problems=problems)


def _shown(box: BoxLTRB) -> str:
    return "(" + ", ".join(f"{edge:g}" for edge in box) + ")"


class _LazyRle(Mapping[str, Any]):
    """COCO run lengths that are computed whenever they are read."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return iter(("size", "counts"))

    def __len__(self) -> int:
        return 2


class PolygonRle(_LazyRle):
    """Of a union of polygons in an image of (width, height).

    Each polygon is a flat (x, y, x, y, ...) of at least three points in the image frame;
    ValueError where it is none. The edges' length decides what drawing takes.
    """

    __slots__ = ("_polygons", "_size")

    def __init__(self, polygons: Sequence[Sequence[float]], image_size: tuple[int, int]) -> None:
        self._polygons = tuple(np.asarray(polygon, dtype=np.float64) for polygon in polygons)
        for polygon in self._polygons:
            if polygon.ndim != 1 or len(polygon) < 6 or len(polygon) % 2:
                raise ValueError("a polygon is not at least three pairs of numbers")
            if not (np.abs(polygon) <= _FARTHEST * max(image_size)).all():
                raise ValueError("a polygon has a corner far outside the image, or not finite")
            if np.abs(polygon - np.roll(polygon, 2)).sum() > _LONGEST_EDGES:
                raise ValueError(f"the edges of a polygon are over {_LONGEST_EDGES:,} pixels long")
        self._size = image_size

    def __getitem__(self, key: str) -> Any:
        if key == "size":
            return [self._size[1], self._size[0]]
        rle = encode_polygons([polygon.tolist() for polygon in self._polygons], self._size)
        return dict(rle)[key]


@dataclass(frozen=True, slots=True, eq=False)
class MaskFileRle(_LazyRle):
    """Of a mask image: its pixels above 0 or, of a palette image, those of one value."""

    path: str
    value: int | None = None

    def __getitem__(self, key: str) -> Any:
        try:
            with path_of(self.path).open("rb") as file, Image.open(file) as mask:
                if self.value is None:
                    return dict(encode_mask(np.asarray(mask.convert("L")) > 0))[key]
                return dict(encode_mask(np.asarray(mask) == self.value))[key]
        except (OSError, ValueError) as error:
            raise ImageError(f"mask cannot be read ({error})", location=self.path) from error
