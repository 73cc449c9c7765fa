"""CAM with crop augmentation: Zhou et al., CVPR 2016, as improved by Choe, Park, Shim, "Improved
techniques for weakly-supervised object localization", 2018.

    logit_c = b_c + mean over cells of A_c,        A_c(i, j) = sum_t w_ct f_t(i, j)

Global average pooling and a linear layer; the class's map A_c is thresholded to a box. GoogLeNet
Resize (random crops of 8 to 100 % of the image) and Hide-and-Seek widen what the map covers.
Command: `weakloc train DATA --method cam --preset literal --out RUN`.
The paper reports for it, on Tiny ImageNet: Top-1 Loc 34.4; 27.1 with `--set augment=none`, 27.6
with `--set augment=hns`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeAlias

from weakloc.data.augmentation import Augmentation, CutMix, GoogLeNetResize, HideAndSeek
from weakloc.methods.method import Method, Optimisation, PlaceRules
from weakloc.model.backbones import Backbone
from weakloc.model.network import ClassPool, LocalizationNetwork, TransferHead
from weakloc.model.pooling import AveragePool

Augment: TypeAlias = Literal["none", "hns", "gr", "hns_after_gr", "gr_after_hns", "cutmix"]


@dataclass(frozen=True, kw_only=True)
class Cam(Method):
    """`augment`: hns hides tiles of the image, gr crops; "hns_after_gr" crops first. cutmix pastes
    a box of another image and learns from the tags of both (Yun et al. 2019)."""

    name: ClassVar[str] = "cam"

    augment: Augment = "gr"
    smallest_crop: float = 0.3
    patch_sizes: tuple[int, ...] = (0, 16, 32, 44, 56)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("smallest_crop", 0 < self.smallest_crop <= 1, "Give a share above 0, up to 1")
        fits = len(self.patch_sizes) > 0 and all(side >= 0 for side in self.patch_sizes)
        self.require("patch_sizes", fits, "Give pixels; 0 hides nothing")

    @classmethod
    def literal(cls) -> Self:
        """Pre-activation ResNet on 64 px, 1500 epochs of Nesterov SGD in six stages."""
        return cls(
            backbone="preact18",
            loss="softmax",
            side=64,
            normalisation="training_images",
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
            # The largest part above 20 % (Zhou et al.).
            rules=PlaceRules(threshold=0.2, boxes="largest"),
        )

    def network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        head = TransferHead(backbone.out_channels, num_classes)
        return LocalizationNetwork(backbone, head, ClassPool(), AveragePool())

    def augmentation(self, backbone: Backbone) -> Augmentation:  # noqa: ARG002
        crop = GoogLeNetResize(smallest_area=self.smallest_crop)
        hide = HideAndSeek(patch_sizes=self.patch_sizes)
        return {
            "none": Augmentation(steps=self.flips),
            "hns": Augmentation(steps=(*self.flips, hide)),
            "gr": Augmentation(crop=crop, steps=self.flips),
            "hns_after_gr": Augmentation(crop=crop, steps=(*self.flips, hide)),
            "gr_after_hns": Augmentation(steps=(*self.flips, hide, crop)),
            "cutmix": Augmentation(steps=self.flips, cut_mix=CutMix()),
        }[self.augment]
