"""The metrics of whole score maps, which only a run can answer: MaxBoxAcc, V2 and PxAP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weakloc.geometry import GridTransform
from weakloc.localize.maps import resample
from weakloc.metrics.baselines import MAPS, baseline_map
from weakloc.metrics.catalogue import Setup, TruthKind
from weakloc.metrics.evaluation import Report
from weakloc.metrics.masks import of_class, resize_labels, truth_labels
from weakloc.metrics.max_box_accuracy import MAX_BOX_ACC, MAX_BOX_ACC_V2, MaxBoxAccuracy
from weakloc.metrics.pixel_precision import PixelPrecision
from weakloc.metrics.result import Accumulator, MetricResult
from weakloc.metrics.uncertainty import NO_RESAMPLING, Resampling
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.streaming import SeenImage
from weakloc.structures import PRESENT, Sample

SIDE = 224  # the published definition's map size
RUN = "run"
Map = NDArray[np.floating]


class MapMetrics:
    """One accumulator of each metric for the run and for each baseline map.

    A class that is present is asked for its map, as the definition says ("GT-known"); an image
    with several classes counts once for each.
    """

    def __init__(self, setup: Setup, *, has_boxes: bool, has_masks: bool) -> None:
        self.setup = setup
        of = dict.fromkeys(MAPS, NO_RESAMPLING) | {RUN: setup.resampling}
        self.boxes = {name: _box_metrics(each) for name, each in of.items() if has_boxes}
        self.pixels = {
            name: PixelPrecision(resampling=each) for name, each in of.items() if has_masks
        }

    @classmethod
    def fitting(cls, truth: Iterable[TruthKind], setup: Setup) -> MapMetrics | None:
        """Those that the truth supports, or None."""
        kinds = set(truth)
        if not kinds & {"boxes", "masks"}:
            return None
        return cls(setup, has_boxes="boxes" in kinds, has_masks="masks" in kinds)

    def update(self, sample: Sample, seen: SeenImage, predictor: Predictor) -> None:
        classes = [int(index) for index in np.flatnonzero(sample.labels == PRESENT)]
        if not classes:
            return
        grid = GridTransform.identity(seen.size).resize((float(SIDE), float(SIDE)))
        maps = resample(predictor.heat(seen, classes, predictor.settings), grid).values
        labels = truth_labels(sample, self.setup.segmentation_values) if self.pixels else None
        for class_index, score_map in zip(classes, maps, strict=True):
            # Each class of an image is a case of its own.
            case = replace(sample, name=f"{sample.name} ({class_index})")
            self._add_boxes(case, seen, class_index, score_map)
            if labels is not None:
                mask = resize_labels(of_class(labels, class_index), (SIDE, SIDE))
                for name, metric in self.pixels.items():
                    metric.update(case.name, self._map(name, score_map, case.name), mask)

    def added_to(self, report: Report, *, hidden_supervision: int) -> Report:
        results: list[MetricResult] = []
        baselines = {name: dict(values) for name, values in report.baselines.items()}
        for name in (RUN, *MAPS):
            metrics: list[Accumulator] = [*self.boxes.get(name, ()), *self._pixels_of(name)]
            for metric in metrics:
                for result in metric.compute(hidden_supervision=hidden_supervision):
                    if name == RUN:
                        results.append(result)
                    elif result.value is not None:
                        baselines.setdefault(result.name, {})[name] = result.value
        return Report((*report.results, *results), baselines, report.unavailable)

    def _add_boxes(self, case: Sample, seen: SeenImage, class_index: int, score_map: Map) -> None:
        drawn = () if case.truth is None else case.truth.boxes
        if not any(box.class_index == class_index for box in drawn):
            return
        size = seen.picture.size
        for name, metrics in self.boxes.items():
            own = self._map(name, score_map, case.name)
            for metric in metrics:
                metric.update(case, own, class_index=class_index, image_size=size)

    def _pixels_of(self, name: str) -> list[PixelPrecision]:
        return [self.pixels[name]] if name in self.pixels else []

    def _map(self, name: str, of_run: Map, image_name: str) -> Map:
        if name == RUN:
            return of_run
        return baseline_map(name, (SIDE, SIDE), image_name, seed=self.setup.resampling.seed)


def _box_metrics(resampling: Resampling) -> list[MaxBoxAccuracy]:
    make: Callable[..., MaxBoxAccuracy] = MaxBoxAccuracy
    return [make(each, resampling=resampling) for each in (MAX_BOX_ACC, MAX_BOX_ACC_V2)]
