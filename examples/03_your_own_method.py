"""A method of your own: softmax pooling, which lies between the mean and the maximum.

s_c = sum over cells of w_c(i, j) Z[c, i, j],    w_c = softmax of sharpness * Z[c]

python examples/03_your_own_method.py DATA --out run
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from torch import Tensor

import weakloc
from weakloc.data.augmentation import Augmentation, HorizontalFlip
from weakloc.data.transforms import ResizeMode
from weakloc.methods import METHODS
from weakloc.methods.method import Fuse, Localiser, LossKind, MapNormalisation, build_loss
from weakloc.methods.optimisation import PRACTICAL, Optimisation
from weakloc.model.backbones import Backbone
from weakloc.model.heads import TransferHead
from weakloc.model.losses import Loss
from weakloc.model.network import LocalizationNetwork
from weakloc.model.pooling import ClassPool
from weakloc.model.trunk import BackboneSpec


@dataclass(frozen=True)
class SoftmaxPool:
    """(B, C, rows, columns) -> (B, C)."""

    sharpness: float

    def __call__(self, maps: Tensor) -> Tensor:
        cells = maps.flatten(start_dim=2)
        return ((self.sharpness * cells).softmax(dim=2) * cells).sum(dim=2)


@dataclass(frozen=True, kw_only=True)
class SoftmaxMil:
    """A sharpness of 0 is the mean of the map, a large one its maximum."""

    name: ClassVar[str] = "softmax_mil"
    localiser: ClassVar[Localiser] = "score_map"

    sharpness: float = 4.0
    backbone: str = "resnet50"
    trains_backbone: bool = True
    loss: LossKind = "auto"
    side: int = 224
    resize: ResizeMode = "warp"
    balance: bool = False
    optimisation: Optimisation = PRACTICAL
    score_scales: tuple[float, ...] = (1.0,)
    map_scales: tuple[float, ...] = (1.0,)
    map_fuse: Fuse = "mean"
    map_normalisation: MapNormalisation = "none"

    @classmethod
    def practical(cls) -> Self:
        return cls()

    @classmethod
    def literal(cls) -> Self:
        return cls()

    def backbone_spec(self, spec: BackboneSpec) -> BackboneSpec:
        return spec

    def build_network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        head = TransferHead(backbone.out_channels, num_classes)
        network = LocalizationNetwork(backbone, head, ClassPool(), SoftmaxPool(self.sharpness))
        if not self.trains_backbone:
            network.freeze_backbone()
        return network

    def build_loss(self, *, num_classes: int, single_label: bool) -> Loss:
        return build_loss(self.loss, num_classes=num_classes, single_label=single_label)

    def augmentation(self, backbone: Backbone) -> Augmentation:  # noqa: ARG002
        return Augmentation(steps=(HorizontalFlip(),))


METHODS["softmax_mil"] = SoftmaxMil


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    settings = weakloc.TrainSettings(
        image_size=given.image_size, epochs=given.epochs, workers=given.workers
    )
    run = weakloc.train(
        given.data,
        method="softmax_mil",
        backbone=given.backbone,
        choices={"sharpness": given.sharpness},
        out=given.out,
        settings=settings,
    )
    last = run.run.history[-1]
    print(f"{given.out}: loss {last.loss:.3f} after {len(run.run.history)} epochs")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("run"))
    parser.add_argument("--sharpness", type=float, default=4.0)
    parser.add_argument("--backbone", default="tiny", help="tiny learns from scratch")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--workers", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
