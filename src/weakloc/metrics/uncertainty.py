"""How sure a number is: bootstrap over images, and paired difference of two runs.

A resample draws each image a Poisson(1) number of times. The draw depends on the image's
name alone, so that several processes and two runs under comparison agree on it without speaking to
each other; it is made once for an image and shared by all that counts the image.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weakloc.errors import PredictionsError
from weakloc.geometry import FloatArray, IntArray
from weakloc.metrics.result import Detail, Interval, MetricResult

_CHUNK, _BLOCK = 64, 2048
_POISSON_CDF = np.cumsum([math.exp(-1.0) / math.factorial(count) for count in range(11)])


@dataclass(frozen=True, slots=True)
class Difference:
    """First run minus second run on the same images, with its paired bootstrap interval.

    `share_above_zero` is the share of resamples in which the first run is ahead.
    """

    name: str
    difference: float
    interval: Interval
    share_above_zero: float


@dataclass(frozen=True, slots=True)
class ImageDraw:
    """How often the set itself, once, and then each resample draws one image."""

    image: str
    key: int  # stands for the image in the digest of a set
    weights: NDArray[np.uint8]  # (1 + B,)


def draw_image(image_name: str, resamples: int) -> ImageDraw:
    """Poisson(1) counts from a SplitMix64 stream; no resamples cost nothing."""
    key = image_key(image_name)
    steps = np.arange(1, resamples + 1, dtype=np.uint64)
    state = np.uint64(key) + np.uint64(0x9E3779B97F4A7C15) * steps
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
    counts = np.searchsorted(_POISSON_CDF, uniform, side="right").astype(np.uint8)
    return ImageDraw(image_name, key, np.append(np.uint8(1), counts))


@dataclass(frozen=True, slots=True)
class SetDraw:
    """The draws of a set of images, a row each; the digest does not depend on their order."""

    weights: NDArray[np.uint8]  # (images, 1 + B)
    image_digest: int

    @property
    def num_images(self) -> int:
        return len(self.weights)

    def sums(self, counts: IntArray) -> FloatArray:
        """(images, C) -> (C, 1 + B), by blocks of images: the weights as floats would not fit."""
        total = np.zeros((counts.shape[1], self.weights.shape[1]))
        for start in range(0, len(self.weights), _BLOCK):
            block = slice(start, start + _BLOCK)
            total += counts[block].T.astype(np.float64) @ self.weights[block].astype(np.float64)
        return total


Record = TypeVar("Record")


class ImageRecords(Generic[Record]):
    """One record an image; a second one for the same image is an error, also across processes."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[ImageDraw, Record]] = {}

    def add(self, draw: ImageDraw, record: Record) -> None:
        if draw.image in self._records:
            raise PredictionsError(
                f"image {draw.image!r} was measured twice",
                remedy="Give each image once, also when several processes share the work",
            )
        self._records[draw.image] = draw, record

    def merge(self, other: ImageRecords[Record]) -> None:
        for draw, record in other._records.values():
            self.add(draw, record)

    def sorted(self) -> tuple[SetDraw, list[Record]]:
        """The records in the order of their images' names."""
        draws = [self._records[name][0] for name in sorted(self._records)]
        nothing = np.empty((0, 1), np.uint8)
        weights = np.stack([draw.weights for draw in draws]) if draws else nothing
        digest = sum(draw.key for draw in draws) % 2**64
        return SetDraw(weights, digest), [self._records[draw.image][1] for draw in draws]


def interval_of(replicates: FloatArray) -> Interval | None:
    """The central 95 % of the values that are defined; None where none is."""
    defined = replicates[np.isfinite(replicates)]
    if defined.size == 0:
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(float(low), float(high))


def paired_difference(first: MetricResult, second: MetricResult) -> Difference:
    """Compares two runs measured on the same images."""
    if first.image_digest != second.image_digest:
        raise PredictionsError(
            f"{first.name} was measured on different images, "
            f"{first.num_images} of the one and {second.num_images} of the other",
            remedy="Compare what was made of the same images, all of which can be read",
        )
    assert first.value is not None
    assert second.value is not None
    differences = first.replicates - second.replicates
    interval = interval_of(differences)
    if interval is None:
        raise ValueError(f"{first.name} was computed without resamples")
    defined = differences[np.isfinite(differences)]
    return Difference(
        name=first.name,
        difference=first.value - second.value,
        interval=interval,
        share_above_zero=float(np.mean(defined > 0)),
    )


def mean_of_defined(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is not NaN; NaN where nothing is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return ratio(total, count)


class ResampledSums:
    """Sums over images of a vector of counts, in the set itself and in every resample.

    Memory depends on the length of the vector alone. Counts are whole numbers, so that sums are
    exact and any order of the images gives the same bits.
    """

    def __init__(self, num_counts: int) -> None:
        self.num_images = 0
        self.image_digest = 0
        self._sums = np.zeros((1, num_counts))  # (1 + B, counts)
        self._waiting: list[tuple[NDArray[np.uint8], FloatArray]] = []

    def add(self, draw: ImageDraw, counts: ArrayLike) -> None:
        vector = np.array(counts, dtype=np.float64).ravel()
        if not self.num_images:
            self._sums = np.zeros((draw.weights.size, vector.size))
        self.num_images += 1
        self.image_digest = (self.image_digest + draw.key) % 2**64
        self._waiting.append((draw.weights, vector))
        if len(self._waiting) == _CHUNK:
            self._flush()

    @property
    def total(self) -> FloatArray:
        """Of the set itself: (counts,)"""
        self._flush()
        return np.asarray(self._sums[0])

    def evaluate(self, function: Callable[[FloatArray], FloatArray]) -> FloatArray:
        """A function of sums (N, counts) -> (N,), applied to all in blocks: (1 + B,)"""
        self._flush()
        blocks = range(0, len(self._sums), _CHUNK)
        values = [function(self._sums[start : start + _CHUNK].copy()) for start in blocks]
        return np.concatenate(values)

    def _flush(self) -> None:
        if self._waiting:
            weights, counts = (np.stack(rows) for rows in zip(*self._waiting, strict=True))
            for start in range(0, len(self._sums), _CHUNK):  # all at once is the sums once more
                block = slice(start, start + _CHUNK)
                self._sums[block] += weights[:, block].T.astype(np.float64) @ counts
            self._waiting.clear()


def measured(
    name: str,
    values: FloatArray,
    images: SetDraw | ResampledSums,
    *,
    convention: str,
    lacking: str,
    per_class: Mapping[str, float],
    details: Mapping[str, Detail],
) -> MetricResult:
    """The number that stands first in (1 + B,), its resamples behind it; `lacking` if it is NaN.

    Classes that are NaN are left out and listed.
    """
    is_defined = not math.isnan(values[0])
    return MetricResult(
        name=name,
        value=float(values[0]) if is_defined else None,
        convention=convention,
        num_images=images.num_images,
        interval=interval_of(values[1:]) if is_defined else None,
        per_class={label: value for label, value in per_class.items() if not math.isnan(value)},
        left_out=tuple(label for label, value in per_class.items() if math.isnan(value)),
        details=details,
        unavailable=None if is_defined else lacking,
        replicates=values[1:],
        image_digest=images.image_digest,
    )


def image_key(image_name: str) -> int:
    """64 bits that depend on the name alone."""
    return int.from_bytes(hashlib.blake2b(image_name.encode(), digest_size=8).digest(), "little")


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> FloatArray:
    """Elementwise quotient, NaN where the denominator is zero."""
    top = np.asarray(numerator, dtype=np.float64)
    bottom = np.asarray(denominator, dtype=np.float64)
    undefined = np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan)
    return np.asarray(np.divide(top, bottom, out=undefined, where=bottom > 0))
