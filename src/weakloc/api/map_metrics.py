"""The metrics of whole score maps, which only a run can answer: MaxBoxAcc, V2 and PxAP."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from weakloc.geometry import GridTransform, Size
from weakloc.localize.maps import resample
from weakloc.metrics.catalogue import Setup, TruthKind
from weakloc.metrics.evaluation import Report
from weakloc.metrics.map_evaluation import ClassMap, MapEvaluation, MapSetup
from weakloc.metrics.max_box_accuracy import (
    MAX_BOX_ACC,
    MAX_BOX_ACC_V2,
    MapConvention,
    Resolution,
)
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.streaming import SeenImage
from weakloc.structures import PRESENT, Sample

SIDE = 224.0  # of the maps in the published definition


class MapMetrics:
    """Asks for the maps of the classes that are present, as the definitions say ("GT-known").

    An image with several classes is one case for each. `compatible` adds the public evaluator's
    reading of each number, `original` the same at the size of the images.
    """

    def __init__(self, setup: Setup, *, compatible: bool = False, original: bool = False) -> None:
        self._resolutions: tuple[Resolution, ...] = ("224", "original") if original else ("224",)
        conventions = [
            replace(base, resolution=resolution, reading=reading)
            for base in (MAX_BOX_ACC, MAX_BOX_ACC_V2)
            for resolution in self._resolutions
            for reading in (("clean", "compatible") if compatible else ("clean",))
        ]
        self.evaluation = MapEvaluation(_map_setup(setup, conventions))

    @classmethod
    def fitting(
        cls, truth: Iterable[TruthKind], setup: Setup, *, compatible: bool, original: bool
    ) -> MapMetrics | None:
        """None where the truth supports none of them."""
        if not {"boxes", "masks"} & set(truth):
            return None
        return cls(setup, compatible=compatible, original=original)

    def update(self, sample: Sample, seen: SeenImage, predictor: Predictor) -> None:
        classes = [int(index) for index in np.flatnonzero(sample.labels == PRESENT)]
        if not classes:
            return
        heat = predictor.heat(seen, classes, predictor.settings)
        sizes: dict[Resolution, Size] = {"224": (SIDE, SIDE), "original": seen.size}
        maps = {
            resolution: resample(
                heat, GridTransform.identity(seen.size).resize(sizes[resolution])
            ).values
            for resolution in self._resolutions
        }
        for row, class_index in enumerate(classes):
            case = replace(sample, name=f"{sample.name} ({class_index})")
            own = {resolution: values[row] for resolution, values in maps.items()}
            self.evaluation.update(case, ClassMap(class_index, seen.picture.size, own))

    def added_to(self, report: Report, *, hidden_supervision: int) -> Report:
        found = self.evaluation.results(hidden_supervision=hidden_supervision)
        usable = [result for result in found if result.value is not None]
        reasons = {each.name: each.unavailable or "" for each in found if each.value is None}
        return Report(
            (*report.results, *usable),
            {**report.baselines, **self.evaluation.baselines()},
            {**report.unavailable, **reasons},
        )


def _map_setup(setup: Setup, conventions: list[MapConvention]) -> MapSetup:
    return MapSetup(
        conventions,
        segmentation_values=setup.segmentation_values,
        resampling=setup.resampling,
    )
