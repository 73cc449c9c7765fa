"""A refined run as a source of maps: scores of the network, places of its cell classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weakloc.model.cell_classifier import CellClassifier, fine_features
from weakloc.predictor.map_source import RawMaps
from weakloc.predictor.network_source import NetworkSource
from weakloc.structures import MapKind


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
        heat = self.cells({stride: values.float() for stride, values in features.items()})
        return RawMaps(answer.scores, heat.cpu().numpy(), answer.features)
