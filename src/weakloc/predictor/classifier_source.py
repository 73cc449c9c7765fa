"""Somebody's trained classifier as a source of maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from weakloc.config import PredictSettings
from weakloc.data.transforms import Preprocessing
from weakloc.geometry import GridTransform
from weakloc.predictor.classifier import ClassifierMaps, MapMethod
from weakloc.predictor.map_source import Activation, RawMaps, probabilities
from weakloc.structures import MapKind


class ClassifierSource:
    """Maps of the classes that are likely in a batch; those of all other classes are zero."""

    map_kind: MapKind = "cam"

    def __init__(
        self,
        model: nn.Module,
        settings: PredictSettings,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        activation: Activation,
        method: MapMethod = "auto",
        layer: str | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.activation: Activation = activation
        self._settings = settings
        width, height = preprocessing.fixed_size or (224, 224)
        device = next(model.parameters()).device
        # Ones would leave whole layers dead: the probe has to look like an image.
        probe = torch.linspace(-2, 2, 3 * width * height, device=device)
        self.maps = ClassifierMaps(
            model, probe.view(1, 3, height, width).roll(width // 3, -1), method=method, layer=layer
        )

    def read(self, images: Tensor) -> RawMaps:
        device = next(self.maps.model.parameters()).device
        output = self.maps(images.to(device), self._likely)
        scores = output.scores.float().cpu().numpy()
        maps = np.zeros((*scores.shape, *output.maps.shape[2:]), dtype=np.float32)
        maps[:, list(output.classes)] = output.maps.detach().float().cpu().numpy()
        return RawMaps(scores, maps)

    def cell_transform(
        self, input_transform: GridTransform, rows: int, columns: int
    ) -> GridTransform:
        return input_transform.resize((float(columns), float(rows)))

    def _likely(self, scores: Tensor) -> list[int]:
        values = probabilities(scores.float().cpu().numpy(), self.activation)
        order = np.argsort(-values, axis=1, kind="stable")[:, : max(self._settings.top, 1)]
        likely = np.asarray((values >= self._settings.min_score).any(axis=0))
        likely[order.ravel()] = True
        return [int(index) for index in np.flatnonzero(likely)]
