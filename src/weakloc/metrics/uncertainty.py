"""How sure a number is: bootstrap over images and paired difference of two runs.

A resample draws each image a Poisson(1) number of times. The draw depends on the seed and the
image's name alone, so that several processes, several accumulators and two runs under comparison
agree on it without speaking to each other, and nothing about an image needs to be kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from weakloc.geometry import FloatArray
from weakloc.metrics.arrays import ClassIndex

SCHEMA = "weakloc.metric/1"
Detail: TypeAlias = float | int | str | Mapping[str, float] | tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Interval:
    """The central 95 % of the bootstrap values."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric against the threshold that it sweeps."""

    thresholds: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class MetricResult:
    """One headline number, a share in [0, 1]; None, with the reason, where it is not defined.

    `hidden_supervision` counts the drawn boxes or masks that tuned anything. `left_out` lists the
    classes that the mean skips. `replicates` are the bootstrap values and `image_digest` stands
    for the set of images, both for comparing two runs; neither is written out.
    """

    name: str
    value: float | None
    convention: str
    num_images: int
    hidden_supervision: int = 0
    interval: Interval | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    details: Mapping[str, Detail] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    unavailable: str | None = None
    replicates: NDArray[np.float64] = field(
        default_factory=lambda: np.empty(0), repr=False, compare=False
    )
    image_digest: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.value is None and self.unavailable is None:
            raise ValueError(f"{self.name} has neither a value nor a reason for having none")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.name} is {self.value}")

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, ready for `json.dumps(..., allow_nan=False)`."""
        interval = None if self.interval is None else [self.interval.low, self.interval.high]
        return {
            "schema": SCHEMA,
            "name": self.name,
            "value": self.value,
            "interval": interval,
            "convention": self.convention,
            "num_images": self.num_images,
            "hidden_supervision": self.hidden_supervision,
            "per_class": dict(self.per_class),
            "left_out": list(self.left_out),
            "details": {name: _plain(detail) for name, detail in self.details.items()},
            "curves": {
                name: {"thresholds": list(curve.thresholds), "values": list(curve.values)}
                for name, curve in self.curves.items()
            },
            "unavailable": self.unavailable,
        }


def _plain(detail: Detail) -> Any:
    if isinstance(detail, Mapping):
        return dict(detail)
    return list(detail) if isinstance(detail, tuple) else detail


_CHUNK = 64
_POISSON_CDF = np.cumsum([math.exp(-1.0) / math.factorial(count) for count in range(12)])


@dataclass(frozen=True, slots=True)
class Resampling:
    """How many resamples, and which; none gives no interval and costs nothing."""

    num_replicates: int = 1000
    seed: int = 0


DEFAULT_RESAMPLING = Resampling()
NO_RESAMPLING = Resampling(0)


@dataclass(frozen=True, slots=True)
class Difference:
    """First run minus second run on the same images, with its paired bootstrap interval.

    `share_above_zero` is the share of resamples in which the first run is ahead.
    """

    name: str
    difference: float
    interval: Interval
    share_above_zero: float
    num_images: int


def resample_weights(
    image_names: Iterable[str], *, resampling: Resampling = DEFAULT_RESAMPLING
) -> NDArray[np.uint8]:
    """How often each resample draws each image: (images, replicates)."""
    keys = [image_key(name, resampling.seed) for name in image_names]
    drawn = _draw(np.array(keys, dtype=np.uint64), resampling.num_replicates, _POISSON_CDF)
    return np.asarray(drawn)


def digest(image_names: Iterable[str]) -> int:
    """A number that stands for a set of images, whatever their order."""
    return sum(image_key(name, 0) for name in image_names) % 2**64


def interval_of(replicates: NDArray[np.float64]) -> Interval | None:
    """The central 95 % of the values that are defined; None where none is."""
    defined = replicates[np.isfinite(replicates)]
    if defined.size == 0:
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(float(low), float(high))


def paired_difference(first: MetricResult, second: MetricResult) -> Difference:
    """Compares two runs measured on the same images with the same seed."""
    if first.name != second.name or first.convention != second.convention:
        raise ValueError(
            f"cannot compare {first.name} ({first.convention}) "
            f"with {second.name} ({second.convention})"
        )
    if first.image_digest != second.image_digest:
        raise ValueError(f"{first.name} was measured on different images")
    if first.value is None or second.value is None:
        raise ValueError(f"{first.name} is undefined: {first.unavailable or second.unavailable}")
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
        num_images=first.num_images,
    )


def mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is not NaN; NaN where nothing is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return ratio(total, count)


class ResampledSums:
    """Sums over images of a vector of counts, in the set itself and in every resample.

    Memory depends on the length of the vector alone. Counts are whole numbers, so that sums are
    exact and merging in any order gives the same bits.
    """

    def __init__(self, num_counts: int, *, resampling: Resampling = DEFAULT_RESAMPLING) -> None:
        self.resampling = resampling
        self.num_images = 0
        self.image_digest = 0
        self._total = np.zeros(num_counts)
        self._replicates = np.zeros((resampling.num_replicates, num_counts))
        self._waiting: list[tuple[str, NDArray[np.float64]]] = []

    def add(self, image_name: str, counts: ArrayLike) -> None:
        vector = np.array(counts, dtype=np.float64).ravel()
        if vector.shape != self._total.shape:
            raise ValueError(f"{vector.size} counts where {self._total.size} are summed")
        self.num_images += 1
        self.image_digest = (self.image_digest + image_key(image_name, 0)) % 2**64
        self._total += vector
        self._waiting.append((image_name, vector))
        if len(self._waiting) == _CHUNK:
            self._flush()

    def merge(self, other: ResampledSums) -> None:
        if self.resampling != other.resampling or self._total.shape != other._total.shape:
            raise ValueError("only sums of the same counts, seed and resamples can be merged")
        other._flush()
        self._flush()
        self.num_images += other.num_images
        self.image_digest = (self.image_digest + other.image_digest) % 2**64
        self._total += other._total
        self._replicates += other._replicates

    @property
    def total(self) -> NDArray[np.float64]:
        """(counts,)"""
        return self._total.copy()

    def evaluate(
        self, function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """A function of sums (resamples, counts) -> (resamples,), applied to all in blocks."""
        self._flush()
        blocks = range(0, len(self._replicates), _CHUNK)
        values = [function(self._replicates[start : start + _CHUNK].copy()) for start in blocks]
        return np.concatenate([np.empty(0), *values])

    def _flush(self) -> None:
        if not self._waiting or not len(self._replicates):
            self._waiting.clear()
            return
        names = [name for name, _ in self._waiting]
        weights = resample_weights(names, resampling=self.resampling)
        counts = np.stack([vector for _, vector in self._waiting])  # (images, counts)
        self._replicates += weights.T.astype(np.float64) @ counts
        self._waiting.clear()


def image_key(image_name: str, seed: int) -> int:
    """64 bits that depend on the name and the seed alone."""
    words = hashlib.blake2b(image_name.encode(), digest_size=8, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(words.digest(), "little")


@njit(cache=True, nogil=True)
def _draw(
    keys: NDArray[np.uint64], num_replicates: int, cdf: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Poisson(1) counts from the SplitMix64 stream of each key."""
    weights = np.zeros((keys.size, num_replicates), dtype=np.uint8)
    for image in range(keys.size):
        state = keys[image]
        for replicate in range(num_replicates):
            state += np.uint64(0x9E3779B97F4A7C15)
            mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            uniform = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
            count = 0
            while count < 11 and uniform >= cdf[count]:
                count += 1
            weights[image, replicate] = count
    return weights


Averaging: TypeAlias = Literal["classes", "trials"]


class ClassShares:
    """Counts hits among trials for every class; a class without a trial is left out."""

    def __init__(self, classes: ClassIndex, *, resampling: Resampling = DEFAULT_RESAMPLING) -> None:
        self.classes = classes
        self._sums = ResampledSums(2 * len(classes), resampling=resampling)

    def add(self, image_name: str, hits: Mapping[int, int], trials: Mapping[int, int]) -> None:
        """Numbers of hits and trials by class index; classes not named have none."""
        counts = np.zeros((2, len(self.classes)))
        for row, numbers in zip(counts, (hits, trials), strict=True):
            for class_index, number in numbers.items():
                row[class_index] = number
        self._sums.add(image_name, counts)

    def merge(self, other: ClassShares) -> None:
        if self.classes.names != other.classes.names:
            raise ValueError("shares of different classes cannot be merged")
        self._sums.merge(other._sums)

    def result(
        self,
        name: str,
        convention: str,
        *,
        averaging: Averaging,
        hidden_supervision: int = 0,
        details: Mapping[str, Detail] | None = None,
    ) -> MetricResult:
        """The mean over classes of their shares, or all hits over all trials."""
        hits, trials = _halves(self._sums.total)
        per_class = ratio(hits, trials)  # (C,)
        tried = ~np.isnan(per_class)
        value = float(_average(hits, trials, averaging)) if tried.any() else None
        replicates = self._sums.evaluate(lambda sums: _average(*_halves(sums), averaging))
        names = self.classes.names
        return MetricResult(
            name=name,
            value=value,
            convention=f"{convention}, mean over {averaging}",
            num_images=self._sums.num_images,
            hidden_supervision=hidden_supervision,
            interval=interval_of(replicates) if tried.any() else None,
            per_class={names[c]: float(per_class[c]) for c in np.flatnonzero(tried)},
            left_out=tuple(names[c] for c in np.flatnonzero(~tried)),
            details={"num_trials": int(trials.sum()), **(details or {})},
            unavailable=None if tried.any() else "there is nothing to find on these images",
            replicates=replicates,
            image_digest=self._sums.image_digest,
        )


def _average(hits: FloatArray, trials: FloatArray, averaging: Averaging) -> FloatArray:
    """Over the last axis."""
    if averaging == "classes":
        return mean_of_defined(ratio(hits, trials))
    return ratio(hits.sum(axis=-1), trials.sum(axis=-1))


def _halves(sums: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Hits and trials, over the last axis."""
    half = sums.shape[-1] // 2
    return sums[..., :half], sums[..., half:]


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> FloatArray:
    """Elementwise quotient, NaN where the denominator is zero."""
    top = np.asarray(numerator, dtype=np.float64)
    bottom = np.asarray(denominator, dtype=np.float64)
    undefined = np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan)
    return np.asarray(np.divide(top, bottom, out=undefined, where=bottom > 0))
