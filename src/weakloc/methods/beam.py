"""BEAM: Bency, Kwon, Lee, Karthikeyan, Manjunath, "Weakly supervised localization using deep
feature maps", ECCV 2016.

    J = -(1/K) sum_k p_k log q_k + (1 - p_k) log(1 - q_k)                                 (Eq. 1)

Fully connected layers on a fixed grid of L x L cells score any sub-grid, resized to L x L; a beam
search over sub-grids (re-cropping the image) gives a heat map with several boxes per class.
Command: `weakloc train DATA --method beam --preset literal --out RUN`.
The paper reports for it, on VOC 2012 val: point mAP 79.7, box AP 26.5; on VOC 2007 test: box AP
25.7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from weakloc.data.augmentation import Augmentation, Rotation, WhiteNoise
from weakloc.errors import SettingError
from weakloc.localize.beam_search import BeamSettings
from weakloc.methods.method import RULES, Localiser, LossKind, Method, Optimisation, PlaceRules
from weakloc.model.backbones import Backbone
from weakloc.model.network import ClassPool, GridHead, LocalizationNetwork
from weakloc.model.pooling import AveragePool
from weakloc.model.trunk import BackboneSpec

EXHAUSTIVE = BeamSettings(recrop_every=math.inf, search="exhaustive", num_levels=None)


@dataclass(frozen=True, kw_only=True)
class Beam(Method):
    """`hidden` are the widths of the new fully connected layers before the classes; the layers that
    a pretrained AlexNet or VGG-16 brings come before them. `reduced_channels` narrows the features
    first, None does not. `noise` and `rotation` touch only images that balancing repeats.
    """

    name: ClassVar[str] = "beam"
    localiser: ClassVar[Localiser] = "beam_search"

    reduced_channels: int | None = 128
    hidden: tuple[int, ...] = (512,)
    dropout: float = 0.5
    loss: LossKind = "beam_sigmoid"
    balance: bool = True
    noise: float = 10 / 255
    rotation: float = 30.0
    search: BeamSettings = EXHAUSTIVE
    rules: PlaceRules = RULES["beam_search"]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("dropout", 0 <= self.dropout < 1, "Give 0 to below 1")
        fits = self.reduced_channels is None or self.reduced_channels >= 1
        self.require("reduced_channels", fits, "Give 1 or more, or null to keep all channels")
        wide = all(width >= 1 for width in self.hidden)
        self.require("hidden", wide, "Give widths of 1 or more, or []")
        self.require("noise", self.noise >= 0, "Give 0 or more")
        self.require("rotation", self.rotation >= 0, "Give 0 or more")
        searchable = self.rules.background != "class"
        self.require("rules", searchable, "Give another background: a search makes no map of it")

    @classmethod
    def literal(cls) -> Self:
        """VGG-16 with FC6, FC7 and two adaptation layers; re-cropping beam of 8 over 10 levels.

        The paper's 400,000 batches end at 80,000: by then the rate has fallen four times.
        """
        return cls(
            backbone="vgg16",
            reduced_channels=None,
            hidden=(2048,),
            optimisation=Optimisation(
                kind="sgd",
                learning_rate=0.01,
                backbone_factor=0.1,  # 0.001 for all that is pretrained
                momentum=0.9,
                weight_decay=5e-4,
                schedule="steps",
                steps_per_drop=20_000,
                max_steps=80_000,
                epochs=1000,
                batch_size=50,
            ),
            search=BeamSettings(),
            rules=PlaceRules(
                point_method="plateau",  # the centre of the maximal response
                threshold=0.5,  # the paper tunes one a class
                threshold_mode="relu_max",
                box_score="raw_mean",
                box_times_class=False,
            ),
        )

    def backbone_spec(self, spec: BackboneSpec) -> BackboneSpec:
        """AlexNet and VGG-16 end at their last pooling; FC6 and FC7 go to the head."""
        if spec.name in ("alexnet", "vgg16") and "fully_connected" not in spec.arguments:
            return replace(spec, arguments={**spec.arguments, "fully_connected": "head"})
        return spec

    def network(self, backbone: Backbone, num_classes: int) -> LocalizationNetwork:
        pretrained = backbone.pretrained_layers
        columns, rows = backbone.map_size((self.side, self.side))
        if rows != columns:
            raise SettingError(f"a grid of {columns} x {rows} cells is not square", location="side")
        head = GridHead(
            backbone.out_channels,
            num_classes,
            grid_side=rows,
            reduced_channels=None if pretrained else self.reduced_channels,
            hidden=(*(layer.out_features for layer in pretrained), *self.hidden),
            dropout=self.dropout,
        )
        head.adopt(pretrained)
        return LocalizationNetwork(backbone, head, ClassPool(), AveragePool())

    def augmentation(self, backbone: Backbone) -> Augmentation:  # noqa: ARG002
        return Augmentation(
            steps=self.flips, duplicate_steps=(WhiteNoise(self.noise), Rotation(self.rotation))
        )
