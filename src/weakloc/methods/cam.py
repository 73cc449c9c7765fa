"""CAM with crop augmentation: Zhou et al., CVPR 2016, as improved by Choe, Park, Shim, "Improved
techniques for weakly-supervised object localization", 2018.

    logit_c = b_c + mean over cells of A_c,        A_c(i, j) = sum_t w_ct f_t(i, j)

Global average pooling and a linear layer; the class's map A_c is thresholded to a box. GoogLeNet
Resize (random crops of 8 to 100 % of the image) and Hide-and-Seek widen what the map covers.
Command: `weakloc train DATA --method cam --backbone preact18 --out RUN`.
Expected (the paper, Tiny ImageNet, 18 layers, batch 256): Top-1 Loc 27.1 without augmentation,
27.6 with Hide-and-Seek, 34.4 with GoogLeNet Resize.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeAlias

from weakloc.data.augmentation import Augmentation, GoogLeNetResize, HideAndSeek, HorizontalFlip
from weakloc.data.transforms import ResizeMode
from weakloc.errors import require_setting
from weakloc.methods.method import (
    Fuse,
    Localiser,
    LossKind,
    MapNormalisation,
    build_loss,
    check_sizes,
)
from weakloc.methods.optimisation import PRACTICAL, Optimisation
from weakloc.model.backbones import Backbone
from weakloc.model.heads import TransferHead
from weakloc.model.losses import Loss
from weakloc.model.network import LocalizationNetwork
from weakloc.model.pooling import AveragePool, ClassPool
from weakloc.model.trunk import BackboneSpec

Augment: TypeAlias = Literal["none", "hns", "gr", "hns_after_gr", "gr_after_hns"]


@dataclass(frozen=True, kw_only=True)
class Cam:
    """`augment`: hns hides tiles of the image, gr crops; "hns_after_gr" crops first."""

    name: ClassVar[str] = "cam"
    localiser: ClassVar[Localiser] = "score_map"

    backbone: str = "resnet50"
    trains_backbone: bool = True
    loss: LossKind = "auto"
    side: int = 224
    resize: ResizeMode = "warp"
    balance: bool = False
    augment: Augment = "gr"
    smallest_crop: float = 0.3
    patch_sizes: tuple[int, ...] = (0, 16, 32, 44, 56)
    flip: bool = True
    optimisation: Optimisation = PRACTICAL
    score_scales: tuple[float, ...] = (1.0,)
    map_scales: tuple[float, ...] = (1.0,)
    map_fuse: Fuse = "mean"
    map_normalisation: MapNormalisation = "none"

    def __post_init__(self) -> None:
        check_sizes(self)
        smallest, sides = self.smallest_crop, self.patch_sizes
        fits = 0 < smallest <= 1
        require_setting(fits, "smallest_crop", smallest, remedy="Give a share above 0, up to 1")
        fits = len(sides) > 0 and all(side >= 0 for side in sides)
        require_setting(fits, "patch_sizes", sides, remedy="Give pixels; 0 hides nothing")

    @classmethod
    def practical(cls) -> Self:
        return cls()

    @classmethod
    def literal(cls) -> Self:
        """Pre-activation ResNet on 64 px, 1500 epochs of Nesterov SGD in six stages."""
        return cls(
            backbone="preact18",
            loss="softmax",
            side=64,
            smallest_crop=0.08,
            patch_sizes=(0, 4, 8, 16),
            flip=False,
            optimisation=Optimisation(
                kind="sgd",
                learning_rate=0.1,
                backbone_factor=1.0,
                nesterov=True,
                weight_decay=1e-4,
                decayed="kernels",
                schedule="stages",
                epochs=1500,
                batch_size=256,
            ),
        )

    def backbone_spec(self, spec: BackboneSpec) -> BackboneSpec:
        return spec

    def build_network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        head = TransferHead(backbone.out_channels, num_classes)
        network = LocalizationNetwork(backbone, head, ClassPool(), AveragePool())
        if not self.trains_backbone:
            network.freeze_backbone()
        return network

    def build_loss(self, *, num_classes: int, single_label: bool) -> Loss:
        return build_loss(self.loss, num_classes=num_classes, single_label=single_label)

    def augmentation(self, backbone: Backbone) -> Augmentation:  # noqa: ARG002
        crop = GoogLeNetResize(smallest_area=self.smallest_crop)
        hide = HideAndSeek(patch_sizes=self.patch_sizes)
        flips = (HorizontalFlip(),) if self.flip else ()
        return {
            "none": Augmentation(steps=flips),
            "hns": Augmentation(steps=(*flips, hide)),
            "gr": Augmentation(crop=crop, steps=flips),
            "hns_after_gr": Augmentation(crop=crop, steps=(*flips, hide)),
            "gr_after_hns": Augmentation(steps=(*flips, hide, crop)),
        }[self.augment]
