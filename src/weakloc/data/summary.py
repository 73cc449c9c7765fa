"""A data set in, plain counts of what is in it out; and a check that decodes every image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

import numpy as np
from msgspec import Struct, to_builtins

from weakloc.data.images import read_or_record
from weakloc.errors import FailureError
from weakloc.structures import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    BrokenImage,
    DataSet,
    LabelStatistics,
    Problem,
    Sample,
)
from weakloc.work import Progress, map_in_processes

_CHUNK = 64  # images a worker is given at once: some tens of milliseconds of work
_CHUNKS_AHEAD = 3  # for each worker, so that none waits and none hoards
_MOST_SIZES = 20
_ODD_SHARE = 4.0  # an image is odd when a side is this many times off the median side


class ClassCounts(Struct, frozen=True):
    """How many images of a split say what of a class, and how many objects are drawn."""

    present: int
    unknown: int
    absent: int
    boxes: int
    masks: int


class Pair(Struct, frozen=True):
    """Two classes that are present together, and in how many images."""

    classes: tuple[str, str]
    images: int


class SplitSummary(Struct, frozen=True):
    """One split; `labels_per_image[n]` is the number of images with n present classes.

    `co_occurrence` has the pairs of classes that occur, the most frequent first.
    """

    images: int
    unlabelled: int  # nothing is known of them
    without_class: int  # something is known, and no class is present
    with_segmentation: int
    labels_per_image: Mapping[int, int]
    classes: Mapping[str, ClassCounts]
    co_occurrence: Sequence[Pair]


class DataSummary(Struct, frozen=True):
    """What `weakloc data` shows."""

    root: str
    layout: str
    classes: tuple[str, ...]
    splits: Mapping[str, SplitSummary]
    problem_counts: Mapping[str, int]  # kind -> how many
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        record = cast(dict[str, Any], to_builtins(self, str_keys=True))
        for problem in record["problems"]:
            problem["where"] = problem.pop("location")  # its name in the first version's output
        return record


def summarise(data_set: DataSet) -> DataSummary:
    """Counts of every split, in one pass over the samples."""
    names = data_set.class_names
    kinds = Counter(problem.kind for problem in data_set.problems)
    return DataSummary(
        root=str(data_set.root),
        layout=data_set.layout,
        classes=names,
        splits={split: _summary(samples, names) for split, samples in data_set.splits.items()},
        problem_counts=dict(kinds.most_common()),
        problems=data_set.problems,
    )


def _summary(samples: Iterable[Sample], class_names: Sequence[str]) -> SplitSummary:
    num_classes = len(class_names)
    # There are few different label vectors, so each is looked at once.
    times: Counter[bytes] = Counter()
    boxes, masks = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    num_with_segmentation = 0
    for sample in samples:
        times[sample.labels.tobytes()] += 1
        for box in sample.drawn.boxes:
            boxes[box.class_index] += 1
        for mask in sample.drawn.masks:
            masks[mask.class_index] += 1
        num_with_segmentation += sample.drawn.segmentation_path is not None
    vectors = np.frombuffer(b"".join(times), np.int8).reshape(len(times), num_classes)  # (U, C)
    weights = np.fromiter(times.values(), np.int64, len(times))  # (U,)
    is_present = (vectors == PRESENT).astype(np.int64)
    num_present = is_present.sum(axis=1)
    is_unlabelled = (vectors == UNKNOWN).all(axis=1)
    counts = [weights @ (vectors == state) for state in (PRESENT, UNKNOWN, ABSENT)]  # 3 x (C,)
    rows = np.stack([*counts, boxes, masks], 1).tolist()
    co_occurrence = is_present.T @ (is_present * weights[:, None])
    first, second = np.nonzero(np.triu(co_occurrence, k=1))  # in the order of the classes
    images = co_occurrence[first, second]
    return SplitSummary(
        images=int(weights.sum()),
        unlabelled=int(weights[is_unlabelled].sum()),
        without_class=int(weights[~is_unlabelled & (num_present == 0)].sum()),
        with_segmentation=num_with_segmentation,
        labels_per_image={
            int(n): int(weights[num_present == n].sum()) for n in np.unique(num_present)
        },
        classes={name: ClassCounts(*row) for name, row in zip(class_names, rows, strict=True)},
        co_occurrence=[
            Pair((class_names[first[k]], class_names[second[k]]), int(images[k]))
            for k in np.argsort(-images, kind="stable")
        ],
    )


ENOUGH_DRAWN = 6  # boxes in all that taught more than tags could, where objects are alike


def advice(split: SplitSummary) -> list[str]:
    """What to expect of learning from a split, and what would help, by rules that were measured."""
    if not split.classes:
        return []
    counts = [(count.present, count.absent, count.unknown) for count in split.classes.values()]
    present, absent, unknown = map(list, zip(*counts, strict=True))
    statistics = LabelStatistics(split.images, present, absent, unknown, [])
    lines = statistics.odd_classes(tuple(split.classes))
    for pair in split.co_occurrence:
        for name, other in (pair.classes, pair.classes[::-1]):
            if pair.images == split.classes[name].present > 1:
                mixed = f"class {name!r} is never without {other!r}: their places will mix"
                lines.append(f"{mixed}; add images of {name!r} alone")
    drawn = sum(count.boxes for count in split.classes.values())
    if drawn >= ENOUGH_DRAWN:
        learn = "'weakloc distil --boxes 20' learns how far objects reach"
        lines.append(f"{drawn} boxes are drawn: {learn}")
    elif split.unlabelled < split.images:
        lines.append(
            f"{drawn} boxes are drawn: {ENOUGH_DRAWN} teach what tags cannot where objects are "
            "alike, 200 where they are textures; 50 images with boxes measure what was learned"
        )
    return lines


class SizeRange(Struct, frozen=True, rename={"smallest": "min", "largest": "max"}):
    """One side of the images, in pixels."""

    smallest: int
    median: float
    largest: int


class SizeCount(Struct, frozen=True):
    """How many images are of one size."""

    width: int
    height: int
    images: int


class SizedImage(Struct, frozen=True):
    """An image and its (width, height)."""

    image: str
    size: tuple[int, int]


class ImageCheck(Struct, frozen=True):
    """What decoding every image showed; of the sizes the twenty most frequent."""

    images: int
    width: SizeRange | None  # None where no image could be read
    height: SizeRange | None
    different_sizes: int
    frequent_sizes: Sequence[SizeCount]
    odd: Sequence[SizedImage]  # a side is far from the median
    broken: Sequence[BrokenImage]

    def to_json(self) -> dict[str, Any]:
        broken = [{"image": record.name, "reason": record.reason} for record in self.broken]
        return {**to_builtins(self), "broken": broken}


def check_images(samples: Sequence[Sample], *, processes: int, on_progress: Progress) -> ImageCheck:
    """Decodes every image once, in chunks.

    An image that cannot be read is a record, in the order of the samples; a worker that dies is
    a failure. With one process everything happens in this one.
    """

    def raise_killed(_chunk: object) -> NoReturn:
        raise FailureError(
            "a process that decodes images was killed",
            remedy="Look for a lack of memory, or use one process to find the image",
        )

    named = [(sample.name, sample.path) for sample in samples]
    chunks = ((start, named[start : start + _CHUNK]) for start in range(0, len(named), _CHUNK))
    checked: dict[int, SizedImage | BrokenImage] = {}
    for (start, _), outcomes in map_in_processes(
        _check_chunk, chunks, processes=processes, if_killed=raise_killed, ahead=_CHUNKS_AHEAD
    ):
        checked.update(enumerate(outcomes, start))
        on_progress(len(checked), len(named))
    return _checked([checked[index] for index in range(len(named))])


def _check_chunk(chunk: tuple[int, list[tuple[str, str]]]) -> list[SizedImage | BrokenImage]:
    """The size of each image, which comes by its name and path, or why it cannot be read."""
    pictures = ((name, read_or_record(name, path)) for name, path in chunk[1])
    return [p if isinstance(p, BrokenImage) else SizedImage(n, p.size) for n, p in pictures]


def _checked(outcomes: Sequence[SizedImage | BrokenImage]) -> ImageCheck:
    sizes = [outcome for outcome in outcomes if isinstance(outcome, SizedImage)]
    broken = [outcome for outcome in outcomes if isinstance(outcome, BrokenImage)]
    if not sizes:
        return ImageCheck(len(outcomes), None, None, 0, (), (), broken)
    sides = np.array([image.size for image in sizes], np.int64)
    median = np.median(sides, axis=0)
    shares = sides / median  # (N, 2)
    is_odd = (shares > _ODD_SHARE).any(axis=1) | (shares < 1 / _ODD_SHARE).any(axis=1)
    width, height = (
        SizeRange(int(side.min()), float(middle), int(side.max()))
        for side, middle in zip(sides.T, median, strict=True)
    )
    counts = Counter(image.size for image in sizes)
    frequent = sorted(counts.items(), key=lambda count: (-count[1], count[0]))[:_MOST_SIZES]
    return ImageCheck(
        images=len(outcomes),
        width=width,
        height=height,
        different_sizes=len(counts),
        frequent_sizes=[SizeCount(*size, images) for size, images in frequent],
        odd=[image for image, odd in zip(sizes, is_odd, strict=True) if odd],
        broken=broken,
    )
