"""A refined run as a source of maps: scores of the network, places of its cell classifier.

What betrays the class says roughly where to look, so class maps have a weak say in the places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weakloc.geometry import GridTransform
from weakloc.localize.maps import shares_of_range
from weakloc.model.cell_classifier import EVIDENCE, CellClassifier, fine_features
from weakloc.predictor.map_source import Floats, RawMaps
from weakloc.predictor.network_source import NetworkSource
from weakloc.structures import MapKind, ScoreMaps


class CellSource(NetworkSource):
    """Every view is seen twice: as it is for the scores, going on in the mirror for the cells."""

    map_kind: MapKind = "probability"

    def __init__(self, cells: CellClassifier, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cells = cells.to(self.device)

    @torch.inference_mode()
    def read(self, images: Tensor) -> RawMaps:
        answer = super().read(images)
        images = images.to(self.device, memory_format=self._layout)
        with self._number_format():
            features = fine_features(self.network.backbone, images, self.cells.levels)
        cells = self.cells({stride: values.float() for stride, values in features.items()})
        heat = cells.cpu().numpy()
        height, width = images.shape[2:]
        whole = GridTransform.identity((width, height))
        heat *= self._class_shares(answer.maps, heat, whole) ** EVIDENCE
        return RawMaps(answer.scores, heat, answer.features)

    def _class_shares(self, maps: Floats, heat: Floats, whole: GridTransform) -> Floats:
        """The class maps on the grid of the cells: (B, C, rows, columns)."""
        seen = ScoreMaps(
            maps.reshape(-1, *maps.shape[2:]), self.cell_transform(whole, *maps.shape[2:])
        )
        cells = self.cell_transform(whole, *heat.shape[2:])
        return shares_of_range(seen, cells).reshape(heat.shape)
