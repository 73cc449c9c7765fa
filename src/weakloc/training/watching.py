"""Class scores and maps of the watched images -> classification mAP and, with truth, point AP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakloc.data.loaders import Batch
from weakloc.geometry import GridTransform, cell_center_in_image
from weakloc.metrics.arrays import ClassIndex
from weakloc.metrics.classification import ClassificationPrecision
from weakloc.metrics.points import PointPrecision
from weakloc.metrics.ranking import RankingConvention
from weakloc.metrics.uncertainty import NO_RESAMPLING
from weakloc.structures import Point, Prediction, Sample

CellTransform: TypeAlias = Callable[[GridTransform, int, int], GridTransform]
_CONVENTION = RankingConvention(resampling=NO_RESAMPLING)


@dataclass(frozen=True)
class Watched:
    """What one epoch's look at the watched images gave; None where it is not defined."""

    classification_map: float | None
    point_map: float | None


class Watch:
    """Collects over one epoch; several processes hand each other what they saw."""

    def __init__(self, samples: Sequence[Sample], class_names: Sequence[str]) -> None:
        self._samples = {sample.name: sample for sample in samples}
        self._class_names = tuple(class_names)
        self.start()

    @property
    def has_images(self) -> bool:
        """The same in all processes, also in one whose share is empty."""
        return bool(self._samples)

    def start(self) -> None:
        classes = ClassIndex(self._class_names)
        self._scores = ClassificationPrecision(classes, _CONVENTION)
        self._points = PointPrecision(classes, convention=_CONVENTION)

    def update(
        self, batch: Batch, probabilities: Tensor, maps: Tensor, cell_transform: CellTransform
    ) -> None:
        rows, columns = maps.shape[2:]
        scores = probabilities.cpu().double().numpy()  # (B, C)
        best = maps.flatten(start_dim=2).argmax(dim=2).cpu().numpy()  # (B, C)
        for index, (name, transform) in enumerate(zip(batch.names, batch.transforms, strict=True)):
            assert transform is not None, "watched images are not rotated"
            sample = self._samples[name]
            cells = cell_transform(transform, rows, columns)
            prediction = self._prediction(sample, scores[index], best[index], cells, columns)
            self._scores.update(sample, prediction)
            if sample.truth is not None:
                self._points.update(sample, prediction)

    def read(self) -> Watched:
        """The numbers over the images of all processes."""
        for scores, points in _others((self._scores, self._points)):
            self._scores.merge(scores)
            self._points.merge(points)
        (classification,), (point,) = self._scores.compute(), self._points.compute()
        return Watched(classification.value, point.value)

    def _prediction(
        self,
        sample: Sample,
        scores: NDArray[np.float64],
        best: NDArray[np.int64],
        cells: GridTransform,
        columns: int,
    ) -> Prediction:
        points = []
        for class_name, score, cell in zip(self._class_names, scores, best, strict=True):
            x, y = cell_center_in_image(int(cell) // columns, int(cell) % columns, cells)
            points.append(Point(class_name, x, y, float(score)))
        width, height = cells.image_size
        by_class = dict(zip(self._class_names, scores.tolist(), strict=True))
        return Prediction(sample.name, int(width), int(height), by_class, tuple(points))


def _others(mine: Any) -> list[Any]:
    """What the other processes hold, the same on each."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    held: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(held, mine)
    return [each for rank, each in enumerate(held) if rank != torch.distributed.get_rank()]
