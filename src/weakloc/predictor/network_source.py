"""A trained network as a source of maps, made fast for reading without changing its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weakloc.data.transforms import Preprocessing
from weakloc.geometry import GridTransform
from weakloc.localize.maps import shares_of_range
from weakloc.model.cell_classifier import EVIDENCE, CellClassifier, fine_features
from weakloc.model.network import LocalizationNetwork, fold_batch_norms
from weakloc.predictor.parts import own_device
from weakloc.settings import Look
from weakloc.structures import MapKind, ScoreMaps

Activation: TypeAlias = Literal["sigmoid", "softmax"]
Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class RawMaps:
    """A batch of answers as arrays."""

    scores: Floats  # (B, C) logits
    maps: Floats  # (B, C, rows, columns)
    features: Mapping[int, Floats] = field(default_factory=dict)  # stride -> (B, D, rows, columns)


class MapSource(Protocol):
    """A trained run, somebody's classifier or an ONNX file."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def activation(self) -> Activation: ...

    @property
    def map_kind(self) -> MapKind: ...

    def read(self, images: Tensor) -> RawMaps: ...

    def cell_transform(
        self, input_transform: GridTransform, rows: int, columns: int
    ) -> GridTransform: ...


def probabilities(logits: NDArray[np.floating], activation: Activation) -> NDArray[np.float64]:
    """Class probabilities of (..., C) logits."""
    values = np.asarray(logits, dtype=np.float64)
    if activation == "sigmoid":
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values))
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


class NetworkSource:
    """Maps of a `LocalizationNetwork`; the network passed in stays as it is.

    `levels` are strides of further feature maps that the heat needs (objectness).
    """

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
        levels: Sequence[int] = (),
    ) -> None:
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.activation: Activation = activation
        self.levels = tuple(levels)
        self.device = own_device()
        self.uses_bf16 = uses_bf16
        self._layout = torch.channels_last if look.channels_last else torch.contiguous_format
        side = 32 * max(math.ceil(network.backbone.min_input / 32), 2)
        self.network = fold_batch_norms(network, side=side).to(self.device)
        self.network = self.network.to(memory_format=self._layout)
        self._forward: nn.Module = self.network
        if look.compile:
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
