"""Score maps of the classes that are there in; MaxBoxAcc, PxAP and their baselines out.

Predictions do not hold maps, so these metrics are for runs: the caller brings the map of one class
over the whole image to 224 x 224 and, if asked for, to the size of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from weakloc.metrics.arrays import truth_arrays, truth_of
from weakloc.metrics.baselines import MAPS, baseline_map
from weakloc.metrics.max_box import (
    MAX_BOX_ACC,
    MAX_BOX_ACC_V2,
    MapConvention,
    MaxBoxAccuracy,
    Resolution,
    ScoreMap,
)
from weakloc.metrics.pixels import (
    Labels,
    PixelPrecision,
    class_mask,
    of_class,
    resize_labels,
    truth_labels,
)
from weakloc.metrics.uncertainty import DEFAULT_RESAMPLING, NO_RESAMPLING, MetricResult, Resampling
from weakloc.structures import Sample

_SIDE = (224, 224)


@dataclass(frozen=True)
class ClassMap:
    """One class's score map over the whole image, at every size that is asked for."""

    class_index: int
    image_size: tuple[int, int]
    maps: Mapping[Resolution, ScoreMap]

    def replace_by(self, baseline: str, image_name: str, seed: int) -> ClassMap:
        sizes: dict[Resolution, tuple[int, int]] = {"224": _SIDE, "original": self.image_size}
        maps = {
            resolution: baseline_map(baseline, sizes[resolution], image_name, seed=seed)
            for resolution in self.maps
        }
        return ClassMap(self.class_index, self.image_size, maps)


class _MapAccumulator(Protocol):
    def update(self, sample: Sample, class_map: ClassMap) -> None: ...

    def merge(self, other: Self) -> None: ...

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]: ...


@dataclass
class _Boxes:
    """Leaves out images on which no box of the class is drawn."""

    accuracy: MaxBoxAccuracy

    def update(self, sample: Sample, class_map: ClassMap) -> None:
        if not len(truth_arrays(sample).boxes_of(class_map.class_index)):
            return
        self.accuracy.update(
            sample,
            class_map.maps[self.accuracy.convention.resolution],
            class_index=class_map.class_index,
            image_size=class_map.image_size,
        )

    def merge(self, other: _Boxes) -> None:
        self.accuracy.merge(other.accuracy)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        return self.accuracy.compute(hidden_supervision=hidden_supervision)


@dataclass
class _Pixels:
    """Compares at 224 x 224; leaves out images on which no mask of the class is drawn."""

    precision: PixelPrecision
    segmentation_values: Mapping[int, int]

    def update(self, sample: Sample, class_map: ClassMap) -> None:
        drawn = self._drawn(sample, class_map.class_index)
        if drawn is not None and (drawn == 1).any():
            pixels = resize_labels(drawn, _SIDE)
            self.precision.update(sample.name, class_map.maps["224"], pixels)

    def merge(self, other: _Pixels) -> None:
        self.precision.merge(other.precision)

    def compute(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        return self.precision.compute(hidden_supervision=hidden_supervision)

    def _drawn(self, sample: Sample, class_index: int) -> Labels | None:
        truth = truth_of(sample)
        if truth.segmentation_path is None:
            return class_mask(truth, class_index)
        labels = truth_labels(sample, self.segmentation_values)
        return None if labels is None else of_class(labels, class_index)


@dataclass(frozen=True)
class MapSetup:
    """Which readings of MaxBoxAcc are asked for, and the rest that accumulators are made from."""

    conventions: Sequence[MapConvention] = (MAX_BOX_ACC, MAX_BOX_ACC_V2)
    segmentation_values: Mapping[int, int] = field(default_factory=dict)
    resampling: Resampling = DEFAULT_RESAMPLING


class MapEvaluation:
    """All map accumulators of one run and of its baselines, for images of one class each.

    With the class known the network is asked for that class's map: GT-known localisation.
    """

    def __init__(self, setup: MapSetup, *, baselines: Sequence[str] = tuple(MAPS)) -> None:
        self.setup = setup
        self._run = _accumulators(setup, setup.resampling)
        self._baselines = {name: _accumulators(setup, NO_RESAMPLING) for name in baselines}

    def update(self, sample: Sample, class_map: ClassMap) -> None:
        for accumulator in self._run:
            accumulator.update(sample, class_map)
        for name, accumulators in self._baselines.items():
            trivial = class_map.replace_by(name, sample.name, self.setup.resampling.seed)
            for accumulator in accumulators:
                accumulator.update(sample, trivial)

    def merge(self, other: MapEvaluation) -> None:
        ours = [self._run, *self._baselines.values()]
        theirs = [other._run, *other._baselines.values()]
        for own, others in zip(ours, theirs, strict=True):
            for accumulator, joined in zip(own, others, strict=True):
                accumulator.merge(joined)

    def results(self, *, hidden_supervision: int = 0) -> tuple[MetricResult, ...]:
        """Of the run; those without any image of their truth say so."""
        return tuple(
            result
            for accumulator in self._run
            for result in accumulator.compute(hidden_supervision=hidden_supervision)
        )

    def baselines(self) -> dict[str, dict[str, float]]:
        """Number -> baseline -> value."""
        values: dict[str, dict[str, float]] = {}
        for name, accumulators in self._baselines.items():
            for accumulator in accumulators:
                for result in accumulator.compute():
                    if result.value is not None:
                        values.setdefault(result.name, {})[name] = result.value
        return values


def reading_differences(results: Sequence[MetricResult]) -> dict[str, float]:
    """Compatible minus clean reading, for each number that was measured both ways."""
    values = {result.name: result.value for result in results}
    differences = {}
    for name, value in values.items():
        compatible = values.get(f"{name}_compatible")
        if value is not None and compatible is not None:
            differences[name] = compatible - value
    return differences


def _accumulators(setup: MapSetup, resampling: Resampling) -> list[_MapAccumulator]:
    boxes: list[_MapAccumulator] = [
        _Boxes(MaxBoxAccuracy(each, resampling=resampling)) for each in setup.conventions
    ]
    pixels = PixelPrecision(resampling=resampling)
    return [*boxes, _Pixels(pixels, setup.segmentation_values)]
