"""Every literal preset trains through `weakloc.train`; a recorder keeps what the network is shown.

Each picture is a ramp from left to right in red and from top to bottom in green, and says in blue
which one it is, so that its size, its mirror image, its crop and its number of uses can be read
back from what arrives. What must arrive is the papers' text (specification 2.4, 3.2, 4.3, 5.3).
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import weakloc
from weakloc.methods.method import Preset
from weakloc.model.network import LocalizationNetwork, NetworkOutput
from weakloc.settings import TrainSettings
from weakloc.structures import ABSENT, PRESENT, DataSet, Sample

WIDTH, HEIGHT = 36, 28
LOW, HIGH = 20, 230
FIRST_BLUE, BLUE_STEP = 20, 8
CLASSES = ("often", "as often", "rarely")
RARE = 4  # 1 image against 4 and 4: the median class has 4


def data_set(folder: Path, *, num_often: int = 4) -> DataSet:
    """`num_often` images of each of the first two classes, and one of the third."""
    classes = [0] * num_often + [1] * num_often + [2]
    samples = []
    for number, class_index in enumerate(classes):
        red = np.broadcast_to(np.linspace(LOW, HIGH, WIDTH), (HEIGHT, WIDTH))
        green = np.broadcast_to(np.linspace(LOW, HIGH, HEIGHT)[:, None], (HEIGHT, WIDTH))
        blue = np.full((HEIGHT, WIDTH), FIRST_BLUE + BLUE_STEP * number)
        path = folder / f"{number}.png"
        Image.fromarray(np.stack([red, green, blue], axis=2).round().astype(np.uint8)).save(path)
        labels = np.full(3, ABSENT, dtype=np.int8)
        labels[class_index] = PRESENT
        samples.append(Sample(path.name, str(path), labels))
    return DataSet(folder, "folders", CLASSES, {"train": samples})


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the network is shown while it learns, batch by batch, from 0 to 1 where unpadded."""
    seen: list[Tensor] = []
    forward = LocalizationNetwork.forward

    def recorded(network: LocalizationNetwork, images: Tensor) -> NetworkOutput:
        if network.training:
            seen.append(images.detach() * 0.5 + 0.5)  # `tiny` takes images of mean and std 0.5
        return forward(network, images)

    monkeypatch.setattr(LocalizationNetwork, "forward", recorded)
    return seen


# Fully connected layers of a size that a test can train.
NARROW = {"hidden": [8], "reduced_channels": 8}


def train(
    folder: Path,
    method: str,
    *,
    epochs: int = 1,
    preset: Preset = "literal",
    frozen: bool = False,
    **choices: object,
) -> None:
    weakloc.train(
        data_set(folder),
        method=method,
        preset=preset,
        choices=choices,
        out=folder / "run",
        settings=TrainSettings(
            backbone="tiny[width=4,mean=0.5,std=0.5]",  # whatever the training images' are
            frozen=frozen,
            epochs=epochs,
            batch_size=3,
            hold_out=0,  # every image is learned from
            workers=0,
            devices=1,
            precision="fp32",
        ),
    )


def number_of(image: Tensor) -> int:
    """Which picture it is, by the blue of its middle; noise averages out there."""
    rows, columns = (slice(side // 4, 3 * side // 4) for side in image.shape[1:])
    blue = image[2, rows, columns].flatten()
    blue = blue[blue != 0.5]  # hidden tiles are exactly the mean
    return round((float(blue.mean()) * 255 - FIRST_BLUE) / BLUE_STEP)


def ramps(width: int, height: int) -> Tensor:
    """Red and green of a whole picture at this size, with half-pixel centres and clamped ends."""

    def line(cells: int, pixels: int) -> Tensor:
        places = ((torch.arange(cells) + 0.5) * pixels / cells - 0.5).clamp(0, pixels - 1)
        return (LOW + (HIGH - LOW) * places / (pixels - 1)) / 255

    red, green = line(width, WIDTH), line(height, HEIGHT)
    return torch.stack([red.expand(height, width), green[:, None].expand(height, width)])


def is_plain(image: Tensor) -> bool:
    return bool((image[:2] - ramps(image.shape[2], image.shape[1])).abs().max() < 0.01)


def is_mirrored(image: Tensor) -> bool:
    return is_plain(image.flip(-1))


def test_max_mil_resizes_each_batch_as_one_by_a_factor_from_0_7_to_1_4(
    tmp_path: Path, batches: list[Tensor]
) -> None:
    """MIL-14: longer side to 500, padded to 500 x 500, then one factor for the whole batch."""
    train(tmp_path, "max_mil", epochs=4)
    sides = [batch.shape[2] for batch in batches]
    assert len(sides) == 12
    assert all(batch.shape[2] == batch.shape[3] for batch in batches)
    assert 350 <= min(sides) < 420
    assert 630 < max(sides) <= 700
    assert len(set(sides)) > 8
    for batch in batches:
        margin = (1 - HEIGHT / WIDTH) / 2 * batch.shape[2]  # the canvas is scaled with its content
        inner = slice(math.ceil(margin) + 2, math.floor(batch.shape[2] - margin) - 2)
        outer = math.floor(margin) - 2
        for image in batch:
            assert (image[:, :outer] == 0.5).all()  # padded with the mean
            assert (image[:, -outer:] == 0.5).all()
            red = ramps(batch.shape[2], 8)[0, 0]
            assert (image[0, inner] - red).abs().max() < 0.02  # and never mirrored
    uses = Counter(number_of(image) for batch in batches for image in batch)
    assert uses == dict.fromkeys(range(9), 4)


def test_wildcat_warps_to_448_and_mirrors_half(tmp_path: Path, batches: list[Tensor]) -> None:
    train(tmp_path, "wildcat", epochs=2)
    images = [image for batch in batches for image in batch]
    assert {tuple(image.shape) for image in images} == {(3, 448, 448)}
    assert Counter(map(number_of, images)) == dict.fromkeys(range(9), 2)
    assert all(is_plain(image) or is_mirrored(image) for image in images)
    assert 4 <= sum(map(is_mirrored, images)) <= 14


@pytest.mark.parametrize("preset", ["literal", "practical"])
def test_beam_repeats_rare_classes_and_spoils_the_repetitions_alone(
    preset: Preset, tmp_path: Path, batches: list[Tensor]
) -> None:
    """Section 3.2: each class as often as the median one; noise and rotation on half of the
    duplicates each, of at most 30 degrees and a sigma of 10 / 255."""
    train(tmp_path, "beam", epochs=8, preset=preset, **NARROW)
    images = [image for batch in batches for image in batch]
    assert {tuple(image.shape) for image in images} == {(3, 224, 224)}
    uses = Counter(map(number_of, images))
    assert uses == {**dict.fromkeys(range(8), 8), 8: 8 * RARE}
    assert all(is_plain(image) or is_mirrored(image) for image in images if number_of(image) != 8)
    rare = [image for image in images if number_of(image) == 8]
    untouched = sum(is_plain(image) or is_mirrored(image) for image in rare)
    assert untouched >= 8  # the first use of each epoch
    blues = [image[2] for image in rare]
    # Turned about its middle, a picture leaves its corners to the mean.
    turned = [bool((blue[0, 0] == 0.5) & (blue[-1, -1] == 0.5)) for blue in blues]
    noise = [float(blue[60:160, 60:160].std()) for blue in blues]
    noisy = [deviation > 0.001 for deviation in noise]
    for is_turned, is_noisy, deviation in zip(turned, noisy, noise, strict=True):
        if is_noisy and not is_turned:
            assert deviation == pytest.approx(10 / 255, rel=0.05)
    assert 5 <= sum(noisy) <= 19  # of 24 duplicates
    assert 5 <= sum(turned) <= 19


def test_beam_repeats_rare_classes_of_cached_features_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    answer = LocalizationNetwork.from_features

    def counted(network: LocalizationNetwork, features: Tensor) -> NetworkOutput:
        if network.training:
            shown.append(len(features))
        return answer(network, features)

    monkeypatch.setattr(LocalizationNetwork, "from_features", counted)
    train(tmp_path, "beam", frozen=True, **NARROW)
    assert sum(shown) == 8 + RARE


def crop_shares(image: Tensor) -> tuple[float, float]:
    """Which shares of the picture's width and height are shown where nothing is hidden."""
    red, green = (float(image[channel].max() - image[channel].min()) for channel in (0, 1))
    return red * 255 / (HIGH - LOW), green * 255 / (HIGH - LOW)


def hidden_tiles(image: Tensor) -> Tensor:
    """Pixels that were replaced by the mean, which no picture has in all its channels."""
    return ((image - 0.5).abs() < 1e-6).all(dim=0)


def is_tiled(hidden: Tensor) -> bool:
    """Whether what is hidden is squares of 4 pixels from the corner on (or of 8, or 16)."""
    tiles = hidden.unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).float().mean(dim=(1, 3))
    return bool(((tiles == 0) | (tiles == 1)).all())


@pytest.mark.parametrize(
    ("augment", "crops", "hides"),
    [
        ("none", False, False),
        ("hns", False, True),
        ("gr", True, False),
        ("hns_after_gr", True, True),
        ("gr_after_hns", True, True),
    ],
)
def test_cam_hides_and_crops_as_its_grid_of_augmentations_says(
    augment: str, crops: bool, hides: bool, tmp_path: Path, batches: list[Tensor]
) -> None:
    train(tmp_path, "cam", epochs=4, augment=augment)
    images = [image for batch in batches for image in batch]
    assert {tuple(image.shape) for image in images} == {(3, 64, 64)}
    assert len(images) == 36
    hidden = [hidden_tiles(image) for image in images]
    assert any(tiles.any() for tiles in hidden) == hides
    if hides and augment != "gr_after_hns":
        assert all(map(is_tiled, hidden))
        assert float(torch.stack(hidden).float().mean()) == pytest.approx(0.375, abs=0.12)
    if not hides:
        shares = [crop_shares(image) for image in images]
        areas = [width * height for width, height in shares]
        assert (min(areas) < 0.9) == crops
        assert all(0.05 < area < 1.1 for area in areas)
        assert max(areas) > 0.7
    if not crops:
        plain = ramps(64, 64)
        for image, tiles in zip(images, hidden, strict=True):
            assert (image[:2] - plain)[:, ~tiles].abs().max() < 0.01  # and never mirrored
    if augment == "gr_after_hns":
        assert not all(map(is_tiled, hidden))  # the crop has magnified the tiles
