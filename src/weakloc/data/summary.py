"""A data set in, plain counts of what is in it out; and a check that decodes every image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any, NoReturn, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weakloc.errors import FailureError, ImageError
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, BrokenImage, DataSet, Problem, Sample
from weakloc.work import Progress, map_in_processes

_CHUNK = 64  # images a worker is given at once: some tens of milliseconds of work
_CHUNKS_AHEAD = 3  # for each worker, so that none waits and none hoards
_ODD_SHARE = 4.0  # an image is odd when a side is this many times off the median side


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """How many images of a split say what of a class, and how many objects are drawn."""

    present: int
    unknown: int
    absent: int
    boxes: int
    masks: int


@dataclass(frozen=True)
class SplitSummary:
    """One split; `classes` are in the order of the class names.

    `labels_per_image[n]` is the number of images with n present classes, `co_occurrence[i, j]` the
    number with both i and j, so that the diagonal counts the classes alone.
    """

    name: str
    num_images: int
    num_unlabelled: int  # nothing is known of them
    num_without_class: int  # something is known, and no class is present
    num_with_segmentation: int
    classes: tuple[ClassCounts, ...]
    labels_per_image: Mapping[int, int]
    co_occurrence: NDArray[np.int64]


@dataclass(frozen=True)
class DataSummary:
    """What `weakloc data` shows."""

    root: str
    layout: str
    class_names: tuple[str, ...]
    splits: tuple[SplitSummary, ...]
    problem_counts: Mapping[str, int]  # kind -> how many
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts; co-occurrence as the pairs that occur, the most frequent first."""
        return {
            "root": self.root,
            "layout": self.layout,
            "classes": list(self.class_names),
            "splits": {split.name: self._split_to_json(split) for split in self.splits},
            "problem_counts": dict(self.problem_counts),
            "problems": [asdict(problem) for problem in self.problems],
        }

    def _split_to_json(self, split: SplitSummary) -> dict[str, Any]:
        return {
            "images": split.num_images,
            "unlabelled": split.num_unlabelled,
            "without_class": split.num_without_class,
            "with_segmentation": split.num_with_segmentation,
            "labels_per_image": {str(n): count for n, count in split.labels_per_image.items()},
            "classes": {
                name: asdict(counts)
                for name, counts in zip(self.class_names, split.classes, strict=True)
            },
            "co_occurrence": [
                {"classes": [self.class_names[i], self.class_names[j]], "images": count}
                for i, j, count in frequent_pairs(split.co_occurrence)
            ],
        }


def frequent_pairs(co_occurrence: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(class, other class, images with both), the most frequent first."""
    first, second = np.nonzero(np.triu(co_occurrence, k=1))
    pairs = [(int(i), int(j), int(co_occurrence[i, j])) for i, j in zip(first, second, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def summarise(data_set: DataSet) -> DataSummary:
    """Counts of every split, in one pass over the samples."""
    num_classes = len(data_set.class_names)
    return DataSummary(
        root=str(data_set.root),
        layout=data_set.layout,
        class_names=data_set.class_names,
        splits=tuple(
            _summarise_split(name, samples, num_classes)
            for name, samples in data_set.splits.items()
        ),
        problem_counts=dict(Counter(problem.kind for problem in data_set.problems).most_common()),
        problems=data_set.problems,
    )


def _summarise_split(name: str, samples: Iterable[Sample], num_classes: int) -> SplitSummary:
    # There are few different label vectors, so each is looked at once.
    times: Counter[bytes] = Counter()
    boxes, masks = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    num_with_segmentation = 0
    for sample in samples:
        times[sample.labels.tobytes()] += 1
        if sample.truth is not None:
            for box in sample.truth.boxes:
                boxes[box.class_index] += 1
            for mask in sample.truth.masks:
                masks[mask.class_index] += 1
            num_with_segmentation += sample.truth.segmentation_path is not None
    vectors = np.frombuffer(b"".join(times), np.int8).reshape(len(times), num_classes)  # (U, C)
    weights = np.fromiter(times.values(), np.int64, len(times))  # (U,)
    is_present = (vectors == PRESENT).astype(np.int64)
    num_present = is_present.sum(axis=1)
    is_unlabelled = (vectors == UNKNOWN).all(axis=1)
    counts = [weights @ (vectors == state) for state in (PRESENT, UNKNOWN, ABSENT)]  # 3 x (C,)
    return SplitSummary(
        name=name,
        num_images=int(weights.sum()),
        num_unlabelled=int(weights[is_unlabelled].sum()),
        num_without_class=int(weights[~is_unlabelled & (num_present == 0)].sum()),
        num_with_segmentation=num_with_segmentation,
        classes=tuple(ClassCounts(*row) for row in np.stack([*counts, boxes, masks], 1).tolist()),
        labels_per_image={
            int(n): int(weights[num_present == n].sum()) for n in np.unique(num_present)
        },
        co_occurrence=is_present.T @ (is_present * weights[:, None]),  # (C, C)
    )


class OpenImage(Protocol):
    """Opens and decodes one image or raises ImageError; a module-level function, to be sent."""

    def __call__(self, source: str, /) -> Image.Image: ...


@dataclass(frozen=True, slots=True)
class SizeRange:
    """One side of the images, in pixels."""

    smallest: int
    median: float
    largest: int


@dataclass(frozen=True)
class ImageCheck:
    """What decoding every image showed; `sizes` are (width, height) -> images, most first."""

    num_images: int
    widths: SizeRange | None  # None where no image could be read
    heights: SizeRange | None
    sizes: Mapping[tuple[int, int], int]
    odd: tuple[tuple[str, tuple[int, int]], ...]  # names and sizes far from the median
    broken: tuple[BrokenImage, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts; the twenty most frequent sizes."""
        sides = {"width": self.widths, "height": self.heights}
        return {
            "images": self.num_images,
            **{
                name: side and {"min": side.smallest, "median": side.median, "max": side.largest}
                for name, side in sides.items()
            },
            "different_sizes": len(self.sizes),
            "frequent_sizes": [
                {"width": size[0], "height": size[1], "images": count}
                for size, count in islice(self.sizes.items(), 20)
            ],
            "odd": [{"image": name, "size": list(size)} for name, size in self.odd],
            "broken": [{"image": item.name, "reason": item.reason} for item in self.broken],
        }


Size: TypeAlias = tuple[int, int]


def check_images(
    samples: Sequence[Sample],
    *,
    open_image: OpenImage,
    processes: int,
    on_progress: Progress,
) -> ImageCheck:
    """Decodes every image once, in chunks.

    An image that cannot be read is a record, in the order of the samples; a worker that dies is
    a failure. With one process everything happens in this one.
    """
    paths = [sample.path for sample in samples]
    chunks = ((start, paths[start : start + _CHUNK]) for start in range(0, len(samples), _CHUNK))
    outcomes: dict[int, Size | str] = {}
    for (start, _), sizes_or_reasons in map_in_processes(
        partial(_check_chunk, open_image),
        chunks,
        processes=processes,
        if_killed=_killed,
        ahead=_CHUNKS_AHEAD,
    ):
        outcomes.update(enumerate(sizes_or_reasons, start))
        on_progress(len(outcomes), len(samples))
    return _checked(samples, [outcomes[index] for index in range(len(samples))])


def _check_chunk(open_image: OpenImage, chunk: tuple[int, Sequence[str]]) -> list[Size | str]:
    """The size of each image, or the reason why it cannot be read."""
    outcomes: list[Size | str] = []
    for path in chunk[1]:
        try:
            with open_image(path) as image:
                image.load()
                outcomes.append(image.size)
        except ImageError as error:
            outcomes.append(error.message)
    return outcomes


def _killed(_chunk: object) -> NoReturn:
    raise FailureError(
        "a process that decodes images was killed",
        remedy="Look for a lack of memory, or use one process to find the image",
    )


def _checked(samples: Sequence[Sample], outcomes: Sequence[Size | str]) -> ImageCheck:
    named = [(sample.name, outcome) for sample, outcome in zip(samples, outcomes, strict=True)]
    sizes = [(name, outcome) for name, outcome in named if not isinstance(outcome, str)]
    broken = tuple(BrokenImage(name, reason) for name, reason in named if isinstance(reason, str))
    if not sizes:
        return ImageCheck(len(samples), None, None, {}, (), broken)
    sides = np.array([size for _, size in sizes], np.int64)
    median = np.median(sides, axis=0)
    shares = sides / median  # (N, 2)
    is_odd = (shares > _ODD_SHARE).any(axis=1) | (shares < 1 / _ODD_SHARE).any(axis=1)
    widths, heights = (
        SizeRange(int(side.min()), float(middle), int(side.max()))
        for side, middle in zip(sides.T, median, strict=True)
    )
    counts = Counter(size for _, size in sizes)
    frequent = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    odd = tuple(item for item, odd in zip(sizes, is_odd, strict=True) if odd)
    return ImageCheck(len(samples), widths, heights, frequent, odd, broken)
