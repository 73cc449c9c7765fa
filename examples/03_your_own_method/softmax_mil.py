"""A method of your own, as a package: softmax pooling, which lies between mean and maximum.

s_c = sum over cells of w_c(i, j) Z[c, i, j],    w_c = softmax of sharpness * Z[c]

pip install examples/03_your_own_method
weakloc train DATA --method softmax_mil --set sharpness=6 --backbone tiny --out run
weakloc predict run IMAGES --out predictions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weakloc.methods.method import Method
from weakloc.model.backbones import Backbone
from weakloc.model.network import ClassPool, LocalizationNetwork, TransferHead


@dataclass(frozen=True)
class SoftmaxPool:
    """(B, C, rows, columns) -> (B, C)."""

    sharpness: float

    def __call__(self, maps: Tensor) -> Tensor:
        cells = maps.flatten(start_dim=2)
        return ((self.sharpness * cells).softmax(dim=2) * cells).sum(dim=2)


@dataclass(frozen=True, kw_only=True)
class SoftmaxMil(Method):
    """A sharpness of 0 is the mean of the map, a large one its maximum."""

    name: ClassVar[str] = "softmax_mil"

    sharpness: float = 4.0

    def network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        head = TransferHead(backbone.out_channels, num_classes)
        return LocalizationNetwork(backbone, head, ClassPool(), SoftmaxPool(self.sharpness))
