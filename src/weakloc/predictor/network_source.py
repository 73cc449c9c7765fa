"""A trained network as a source of maps, made fast for reading without changing its answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from weakloc.config import PredictSettings
from weakloc.data.transforms import Preprocessing
from weakloc.geometry import GridTransform
from weakloc.model.folding import fold_batch_norms
from weakloc.model.network import LocalizationNetwork
from weakloc.predictor.map_source import Activation, Floats, RawMaps
from weakloc.predictor.ranks import own_device
from weakloc.structures import MapKind


class NetworkSource:
    """Maps of a `LocalizationNetwork`; the network passed in stays as it is.

    `levels` are strides of further feature maps that the heat needs (objectness).
    """

    map_kind: MapKind = "logit"

    def __init__(
        self,
        network: LocalizationNetwork,
        settings: PredictSettings,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        activation: Activation,
        uses_bf16: bool,
        levels: Sequence[int] = (),
    ) -> None:
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.activation: Activation = activation
        self.levels = tuple(levels)
        self.device = own_device()
        self.uses_bf16 = uses_bf16
        self._layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        side = 32 * max(math.ceil(network.backbone.min_input / 32), 2)
        self.network = fold_batch_norms(network, side=side).to(self.device)
        self.network = self.network.to(memory_format=self._layout)
        self._forward: nn.Module = self.network
        if settings.compile:
            self._forward = torch.compile(self.network)  # type: ignore[assignment]

    @torch.inference_mode()
    def read(self, images: Tensor) -> RawMaps:
        images = images.to(self.device, memory_format=self._layout)
        with self._number_format():
            output = self._forward(images, levels=self.levels)
        # The last features are always there; kept for every view they would fill the memory.
        features = {stride: _array(output.features[stride]) for stride in self.levels}
        return RawMaps(_array(output.scores), _array(output.maps), features)

    @torch.inference_mode()
    def read_features(self, images: Tensor) -> Floats:
        """The backbone's last feature maps (B, D, rows, columns)."""
        images = images.to(self.device, memory_format=self._layout)
        with self._number_format():
            return _array(self.network.backbone(images))

    def cell_transform(
        self, input_transform: GridTransform, rows: int, columns: int
    ) -> GridTransform:
        return self.network.cell_transform(input_transform, rows, columns)

    def _number_format(self) -> AbstractContextManager[object]:
        if self.uses_bf16:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def _array(values: Tensor) -> Floats:
    return values.float().cpu().numpy()
