"""What the predictor asks of anything that turns a batch of images into score maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from weakloc.data.transforms import Preprocessing
from weakloc.geometry import GridTransform
from weakloc.structures import MapKind

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
