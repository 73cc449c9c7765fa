"""A real small network through the predictor, against the network itself.

Check names (MIL-11, ...) are those of the project's specification.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from tests.predictor.dot_source import chosen
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing, ResizeMode
from weakloc.model.backbones import build_backbone
from weakloc.model.network import ClassPool, LocalizationNetwork, TransferHead
from weakloc.model.pooling import KMaxKMin
from weakloc.model.trunk import BackboneSpec
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import NetworkSource, SeenImage, scaled

CLASSES = ("a", "b", "c")


def trained_batch_norms(network: LocalizationNetwork) -> LocalizationNetwork:
    """Statistics as after a training, so that folding them is not a trifle."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return network.eval()


@pytest.fixture(scope="module")
def network() -> LocalizationNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone(BackboneSpec.parse("tiny[width=4]", weights="none"))
        head = TransferHead(backbone.out_channels, 3, maps_per_class=2)
        head.transfer.weight.data.mul_(40.0)
        return trained_batch_norms(LocalizationNetwork(backbone, head, ClassPool(2), KMaxKMin()))


def predictor(
    network: LocalizationNetwork,
    *,
    resize: ResizeMode = "warp",
    size: int | tuple[int, int] = (64, 48),
    uses_bf16: bool = False,
    **settings: object,
) -> Predictor:
    look, places = chosen(**{"min_score": 0.0, **settings})
    source = NetworkSource(
        network,
        look,
        class_names=CLASSES,
        preprocessing=Preprocessing(size=size, resize=resize),
        activation="sigmoid",
        uses_bf16=uses_bf16,
    )
    return Predictor(source, look, places, thresholds=(0.5,) * 3)


def noise(random: np.random.Generator, size: tuple[int, int] = (90, 70)) -> Image.Image:
    small = random.integers(0, 255, (size[1] // 6, size[0] // 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.NEAREST)


def see(how: Predictor, picture: Image.Image) -> SeenImage:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    (seen,) = how.see([ImageSource("a.png", buffer.getvalue())])
    assert isinstance(seen, SeenImage)
    return seen


@torch.inference_mode()
def plain_scores(network: LocalizationNetwork, picture: Image.Image, scale: float) -> np.ndarray:
    preprocessing = scaled(Preprocessing(size=(64, 48)), scale, picture.size)
    return network(preprocessing.apply(picture)[0][None]).scores[0].double().numpy()


def test_one_size_is_the_plain_network(
    network: LocalizationNetwork, random: np.random.Generator
) -> None:
    picture = noise(random)
    seen = see(predictor(network), picture)
    expected = plain_scores(network, picture, 1.0)
    np.testing.assert_allclose(seen.logits, expected, rtol=1e-4, atol=1e-4)


def test_batch_norms_are_folded_into_every_kind_of_convolution(random: np.random.Generator) -> None:
    """Also without those behind convolutions that pad as TensorFlow does."""
    backbone = build_backbone(BackboneSpec.parse("mobilenetv2_035[pad_type=same]", weights="none"))
    head = TransferHead(backbone.out_channels, 3, maps_per_class=2)
    network = trained_batch_norms(LocalizationNetwork(backbone, head, ClassPool(2), KMaxKMin()))
    read, picture = predictor(network), noise(random)
    assert isinstance(read.source, NetworkSource)
    left = [m for m in read.source.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not left
    expected = plain_scores(network, picture, 1.0)
    np.testing.assert_allclose(see(read, picture).logits, expected, rtol=1e-4, atol=1e-5)


def test_scores_of_many_sizes_are_averaged_before_the_sigmoid_in_any_order(
    network: LocalizationNetwork, random: np.random.Generator
) -> None:
    """MIL-11, with a network."""
    picture = noise(random)
    scales = (0.7, 1.0, 1.5)
    mean = np.mean([plain_scores(network, picture, scale) for scale in scales], axis=0)
    for order in itertools.permutations(scales):
        seen = see(predictor(network, scales=order), picture)
        np.testing.assert_allclose(seen.logits, mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(seen.probabilities, 1 / (1 + np.exp(-seen.logits)), rtol=1e-9)


@torch.inference_mode()
def test_the_point_is_the_centre_of_the_hottest_cell_in_the_image(
    network: LocalizationNetwork, random: np.random.Generator
) -> None:
    """WC-13: ((j + .5) W / w, (i + .5) H / h), where the map is read cell by cell."""
    picture = noise(random, (80, 60))
    inputs = Preprocessing(size=(64, 48)).apply(picture)[0][None]
    maps = network(inputs).maps[0]
    rows, columns = maps.shape[1:]
    assert (columns, rows) == (8, 6)
    how = predictor(network, map_side=columns)
    prediction = how.measurable(see(how, picture), range(len(maps)))
    for point, class_map in zip(prediction.points, maps, strict=True):
        row, column = divmod(int(class_map.argmax()), columns)
        expected = ((column + 0.5) * 80 / columns, (row + 0.5) * 60 / rows)
        assert (point.x, point.y) == pytest.approx(expected)


def test_the_way_to_the_canvas_moves_a_point_by_a_cell_at_most(
    network: LocalizationNetwork,
) -> None:
    """MIL-13: one object, seen through warp, pad and in a picture of another shape."""
    points = []
    for size, resize in (((128, 96), "warp"), ((128, 96), "pad"), ((128, 128), "pad")):
        pixels = np.full((96, 128, 3), 120, dtype=np.uint8)
        pixels[40:64, 72:96] = (255, 0, 0)
        how = predictor(network, resize=resize, size=size, map_side=128)  # type: ignore[arg-type]
        seen = see(how, Image.fromarray(pixels))
        empty = see(how, Image.fromarray(np.full_like(pixels, 120)))
        change = [np.abs(how.heat(image, range(3), how.look).values) for image in (seen, empty)]
        moved = np.abs(change[0] - change[1]).sum(axis=0)
        row, column = divmod(int(moved.argmax()), moved.shape[1])
        points.append((column + 0.5, row + 0.5))
    for x, y in points:
        assert 64 <= x <= 104
        assert 32 <= y <= 72
    assert np.ptp(points, axis=0).max() <= 8.0 + 1e-9  # the stride


def test_bfloat16_says_nearly_the_same(
    network: LocalizationNetwork, random: np.random.Generator
) -> None:
    picture = noise(random)
    exact = see(predictor(network), picture)
    short = see(predictor(network, uses_bf16=True), picture)
    spread = np.ptp(exact.views[0].maps.values)
    difference = np.abs(short.views[0].maps.values - exact.views[0].maps.values).max()
    assert 0 < difference < 0.05 * spread
    assert short.views[0].maps.values.dtype == np.float32


def test_the_network_that_was_given_stays_as_it_was(
    network: LocalizationNetwork, random: np.random.Generator
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    see(predictor(network, channels_last=False), noise(random))
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_maps_of_sizes_that_only_score_are_let_go(
    network: LocalizationNetwork, random: np.random.Generator
) -> None:
    picture = noise(random)
    seen = see(predictor(network, scales=(0.5, 1.0, 1.5), map_scales=(1.0, 2.0)), picture)
    assert [view.view.scale for view in seen.views] == [1.0, 2.0]
    mean = np.mean([plain_scores(network, picture, scale) for scale in (0.5, 1.0, 1.5)], axis=0)
    np.testing.assert_allclose(seen.logits, mean, rtol=1e-4, atol=1e-4)
