"""A trained network as a source of maps, made fast for reading without changing its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weakloc.data.transforms import Preprocessing
from weakloc.geometry import GridTransform
from weakloc.localize.maps import shares_of_range
from weakloc.model.cell_classifier import EVIDENCE, CellClassifier, fine_features
from weakloc.model.network import LocalizationNetwork, fold_batch_norms
from weakloc.model.trunk import CellTransform
from weakloc.predictor.parts import own_device
from weakloc.settings import Look
from weakloc.structures import Activation, MapKind, ScoreMaps

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class RawMaps:
    """A batch of answers as arrays."""

    scores: Floats  # (B, C) logits
    maps: Floats  # (B, C, rows, columns), or C + 1 where the last is the background's


class MapSource(Protocol):
    """A trained run, somebody's classifier or an ONNX file."""

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    activation: Activation
    map_kind: MapKind

    @property
    def cell_transform(self) -> CellTransform:
        """(the way to the input, rows, columns) -> the way to the cells of its maps."""

    def read(self, images: Tensor) -> RawMaps: ...


class NetworkSource:
    """Maps of a `LocalizationNetwork`; the network passed in stays as it is."""

    map_kind: MapKind = "logit"

    def __init__(
        self,
        network: LocalizationNetwork,
        look: Look,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        activation: Activation,
        uses_bf16: bool,
    ) -> None:
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.activation: Activation = activation
        self.cell_transform: CellTransform = network.backbone.geometry.cell_transform
        self.device = own_device()
        self.uses_bf16 = uses_bf16
        self._layout = torch.channels_last if look.channels_last else torch.contiguous_format
        folded = fold_batch_norms(network, side=network.backbone.probe_side)
        self.network = folded.to(self.device)
        self.network = self.network.to(memory_format=self._layout)
        self._forward: nn.Module = self.network
        if look.compile:
            self._forward = torch.compile(self.network)  # type: ignore[assignment]

    @torch.inference_mode()
    def read(self, images: Tensor) -> RawMaps:
        images = images.to(self.device, memory_format=self._layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.uses_bf16):
            output = self._forward(images)
        maps = [output.maps] if output.background is None else [output.maps, output.background[1]]
        return RawMaps(_array(output.scores), _array(torch.cat(maps, dim=1)))

    @torch.inference_mode()
    def read_features(self, images: Tensor) -> Floats:
        """The backbone's last feature maps (B, D, rows, columns)."""
        images = images.to(self.device, memory_format=self._layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.uses_bf16):
            return _array(self.network.backbone(images))


def _array(values: Tensor) -> Floats:
    return values.float().cpu().numpy()


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
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.uses_bf16):
            features = fine_features(self.network.backbone, images, self.cells.levels)
        cells = self.cells({stride: values.float() for stride, values in features.items()})
        heat = cells.cpu().numpy()
        height, width = images.shape[2:]
        whole = GridTransform.identity((width, height))
        maps = answer.maps[:, : len(self.class_names)]  # (B, C, rows, columns), of fewer cells
        views = ScoreMaps(
            maps.reshape(-1, *maps.shape[2:]), self.cell_transform(whole, *maps.shape[2:])
        )
        shares = shares_of_range(views, self.cell_transform(whole, *heat.shape[2:]))
        heat *= shares.reshape(heat.shape) ** EVIDENCE
        return RawMaps(answer.scores, heat)
