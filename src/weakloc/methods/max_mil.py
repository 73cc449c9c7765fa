"""Max-MIL: Oquab, Bottou, Laptev, Sivic, "Is object localization for free?", CVPR 2015.

    f_c(x) = max over cells (i, j) of Z[c, i, j]        L(x, y) = sum_c log(1 + exp(-y_c f_c(x)))

Fully connected layers read as convolutions give a map of scores for any image size; a global max
searches it, so that only the best window of a class learns.
Command: `weakloc train DATA --method max_mil --preset literal --out RUN`.
The paper reports, with features of 1512 classes: 86.3 classification mAP on VOC 2012 test, 78.7
without the search; later papers quote point mAP 74.5 on VOC 2012 val.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from weakloc.data.augmentation import Augmentation, ScaleJitter
from weakloc.data.transforms import ResizeMode
from weakloc.methods.method import Fuse, LossKind, Method, Optimisation
from weakloc.model.backbones import Backbone
from weakloc.model.network import AdaptationHead, ClassPool, LocalizationNetwork, TransferHead
from weakloc.model.pooling import KMaxKMin, LogSumExp

DISPLAY_SCALES = (1.0, 1.3, 1.6, 1.9, 2.2, 2.5)
FAST_SCALES = (0.5, 0.654, 0.855, 1.118, 1.462, 1.912, 2.5)  # evenly spaced logarithms


def paper_scales(num_scales: int) -> tuple[float, ...]:
    """0.5, 0.55, ...: 65 scales end at the paper's 3.7; the 66 that it counts end at 3.75."""
    return tuple(round(0.5 + 0.05 * index, 2) for index in range(num_scales))


@dataclass(frozen=True, kw_only=True)
class MaxMil(Method):
    """`hidden` is the width of Ca, None for a head of Cb alone; `scale_jitter` None for none.

    `sharpness` pools by log-sum-exp, a maximum softer the smaller it is; None is the maximum.
    """

    name: ClassVar[str] = "max_mil"

    hidden: int | None = None
    dropout: float = 0.5
    sharpness: float | None = None
    loss: LossKind = "logistic_sum"
    side: int = 512
    resize: ResizeMode = "pad"
    scale_jitter: tuple[float, float] | None = (0.7, 1.4)
    score_scales: tuple[float, ...] = FAST_SCALES
    map_scales: tuple[float, ...] = FAST_SCALES
    map_fuse: Fuse = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("dropout", 0 <= self.dropout < 1, "Give 0 to below 1")
        wide = self.hidden is None or self.hidden >= 1
        self.require("hidden", wide, "Give 1 or more, or null for none")
        sharp = self.sharpness is None or self.sharpness > 0
        self.require("sharpness", sharp, "Give a number above 0, or null for the maximum")
        low, high = self.scale_jitter or (1.0, 1.0)
        remedy = "Give two factors from 0.05 to 16, the smaller first, or null for none"
        self.require("scale_jitter", 0.05 <= low <= high <= 16, remedy)

    @classmethod
    def literal(cls) -> Self:
        """AlexNet frozen up to FC7, Adagrad on Ca and Cb, 65 test scales of a 500 px square."""
        return cls(
            backbone="alexnet",
            trains_backbone=False,
            hidden=2048,
            side=500,
            flip=False,
            optimisation=Optimisation(kind="adagrad", learning_rate=0.01, epochs=30, batch_size=16),
            score_scales=paper_scales(65),
            map_scales=DISPLAY_SCALES,
            map_normalisation="sigmoid",
        )

    def network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        channels = backbone.out_channels
        head: TransferHead | AdaptationHead = TransferHead(channels, num_classes)
        if self.hidden is not None:
            head = AdaptationHead(channels, num_classes, hidden=self.hidden, dropout=self.dropout)
        pool = KMaxKMin(k_max=1) if self.sharpness is None else LogSumExp(self.sharpness)
        return LocalizationNetwork(backbone, head, ClassPool(), pool)

    def augmentation(self, backbone: Backbone) -> Augmentation:
        jitter = None
        if self.scale_jitter is not None:
            jitter = ScaleJitter(*self.scale_jitter, multiple_of=backbone.input_multiple)
        return Augmentation(steps=self.flips, scale_jitter=jitter)
