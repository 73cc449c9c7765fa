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
from weakloc.geometry import FloatArray, GridTransform
from weakloc.localize.maps import shares_of_range
from weakloc.model.fine_layers import EVIDENCE, CellBoxes, CellClassifier, Detector, fine_features
from weakloc.model.network import LocalizationNetwork, fold_batch_norms
from weakloc.model.trunk import CellTransform
from weakloc.predictor.parts import own_device
from weakloc.settings import Look
from weakloc.structures import Activation, MapKind, ScoreMaps

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Proposals:
    """Boxes that the cells of an image, or of several views of it, propose."""

    boxes: FloatArray  # (N, 4)
    scores: FloatArray  # (C, N) probability that the box holds an object


@dataclass(frozen=True)
class RawMaps:
    """A batch of answers as arrays."""

    scores: Floats  # (B, C) logits
    maps: Floats  # (B, C, rows, columns), or C + 1 where the last is the background's
    proposals: Sequence[Proposals] = ()  # of each image, in pixels of the input


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
    """Every view is seen twice: as it is for the scores, going on in the mirror for the cells.

    With a detector the cells also propose boxes.
    """

    map_kind: MapKind = "probability"

    def __init__(
        self, cells: CellClassifier, detector: Detector | None, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.cells = cells.to(self.device)
        self.detector = None if detector is None else detector.to(self.device)
        further = () if detector is None else detector.levels
        self._levels = tuple(sorted({*cells.levels, *further}))

    @torch.inference_mode()
    def read(self, images: Tensor) -> RawMaps:
        answer = super().read(images)
        images = images.to(self.device, memory_format=self._layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.uses_bf16):
            levels = fine_features(self.network.backbone, images, self._levels)
        features = {stride: values.float() for stride, values in levels.items()}
        heat = self.cells(features).cpu().numpy()
        height, width = images.shape[2:]
        whole = GridTransform.identity((width, height))
        maps = answer.maps[:, : len(self.class_names)]  # (B, C, rows, columns), of fewer cells
        views = ScoreMaps(
            maps.reshape(-1, *maps.shape[2:]), self.cell_transform(whole, *maps.shape[2:])
        )
        shares = shares_of_range(views, self.cell_transform(whole, *heat.shape[2:]))
        heat *= shares.reshape(heat.shape) ** EVIDENCE
        proposals = () if self.detector is None else proposals_of(self.detector(features))
        return RawMaps(answer.scores, heat, proposals)


def proposals_of(cells: CellBoxes) -> list[Proposals]:
    """Of each image of a batch."""
    boxes = cells.boxes.flatten(2).transpose(1, 2).double().cpu().numpy()
    scores = cells.logits.flatten(2).sigmoid().double().cpu().numpy()
    return [Proposals(*pair) for pair in zip(boxes, scores, strict=True)]
