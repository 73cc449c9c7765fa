"""What a refined run says of an image: cells that know the object, and a weak say of class maps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from weakloc.data.transforms import Preprocessing
from weakloc.geometry import GridTransform, cell_center_in_image
from weakloc.methods.wildcat import Wildcat
from weakloc.model.backbones import build_backbone
from weakloc.model.fine_layers import CellClassifier, CellReading, fine_features
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec
from weakloc.predictor.views import NetworkSource
from weakloc.settings import Look


def source_of(cells: CellClassifier, network: LocalizationNetwork) -> NetworkSource:
    return NetworkSource(
        network,
        Look(),
        class_names=("a", "b", "c"),
        preprocessing=Preprocessing(size=(72, 56), resize="warp"),
        activation="sigmoid",
        uses_bf16=False,
        reading=CellReading(cells, None, network.backbone.geometry),
    )


def stretched(maps: NDArray[np.floating]) -> NDArray[np.floating]:
    low, high = maps.min((2, 3), keepdims=True), maps.max((2, 3), keepdims=True)
    return (maps - low) / (high - low)


def test_cells_tile_the_input_where_the_class_map_begins_elsewhere() -> None:
    backbone = build_backbone(BackboneSpec.parse("squeezenet1_1", weights="none")).eval()
    network = Wildcat().build_network(backbone, 3).eval()
    source = source_of(CellClassifier({4: 128, 8: 256}, 3), network)
    placed = GridTransform.identity((72, 56))

    heat = source.read(torch.randn(1, 3, 56, 72)).maps

    assert heat.shape == (1, 3, 7, 9)
    assert cell_center_in_image(2, 1, source.geometry.cell_transform(placed, 7, 9)) == (12.0, 20.0)


def test_heat_is_that_of_the_cells_times_powers_of_the_class_map_and_of_what_is_common() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSpec.parse("tiny[width=8]", weights="none")).eval()
    network = Wildcat().build_network(backbone, 3).eval()
    cells = CellClassifier({4: 16, 8: 32}, 3)
    cells.axes.normal_()
    source = source_of(cells, network)
    images = torch.randn(2, 3, 56, 72)

    found = source.read(images)

    with torch.no_grad():
        plain = network(images)
        features = fine_features(backbone, images, (4, 8))
        single = cells.standardised(features)
        heat = (cells.is_object(single) * cells.evidence(single)).numpy()
        plain_features = backbone(images)[:, :, 1:-1, 1:-1]  # without the trace of the border
    inner = functional.pad(plain_features, (1, 1, 1, 1), mode="replicate").numpy()
    in_common = np.einsum("bdrc,kd->bkrc", inner, cells.axes.numpy())
    # The class maps are of stride 8, too: the same cells.
    expected = heat * stretched(plain.maps.numpy()) ** 0.25 * stretched(in_common) ** 0.75
    assert found.maps.shape == (2, 3, 7, 9)
    assert np.allclose(found.maps, expected, atol=1e-4)
    assert np.allclose(found.scores, plain.scores.numpy(), atol=1e-4)
