"""A source of maps whose answers are known: brightness itself, one class a colour channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from weakloc.data.transforms import Preprocessing
from weakloc.model.trunk import CellGeometry
from weakloc.predictor.views import RawMaps
from weakloc.settings import Look, Places, look_and_places
from weakloc.structures import Activation, MapKind


def chosen(**settings: object) -> tuple[Look, Places]:
    """Settings by name, without threads, as a predictor takes them."""
    look, places = look_and_places({"workers": 0, **settings})
    return Look(**look), Places(**places)


@dataclass(frozen=True)
class DotSource:
    """Maps are the input's channels averaged over cells of `stride` pixels."""

    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ("red", "green", "blue")
    activation: Activation = "sigmoid"
    map_kind: MapKind = "logit"
    stride: int = 4

    def read(self, images: Tensor) -> RawMaps:
        maps = functional.avg_pool2d(images, self.stride, ceil_mode=True, count_include_pad=False)
        return RawMaps(torch.amax(maps, dim=(2, 3)).numpy(), maps.numpy())

    @property
    def geometry(self) -> CellGeometry:
        return CellGeometry(self.stride, self.stride / 2, float(self.stride))
