"""Pixels land where the transform says, and nothing is written in place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from weakloc.data import transforms
from weakloc.data.augmentation import InputImage
from weakloc.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, ResizeMode
from weakloc.errors import SettingError
from weakloc.geometry import GridTransform, image_box_in_grid, map_point_to_grid, map_point_to_image

GREY = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def noise_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def planar(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image).astype(np.float64).transpose(2, 0, 1)


def normalised_by_hand(image: Image.Image) -> NDArray[np.float64]:
    mean, std = np.array(IMAGENET_MEAN)[:, None, None], np.array(IMAGENET_STD)[:, None, None]
    return (planar(image) / 255 - mean) / std


def triangle_resize(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Slow antialiased linear resampling of the last axis, from its definition."""
    old = values.shape[-1]
    ratio = old / length
    support = max(ratio, 1.0)
    rows = []
    for place in range(length):
        center = (place + 0.5) * ratio
        weights = np.maximum(1 - np.abs((np.arange(old) + 0.5 - center) / support), 0)
        rows.append(values @ (weights / weights.sum()))
    return np.stack(rows, axis=-1)


def test_warping_is_antialiased_linear_and_normalised() -> None:
    picture = noise_picture(37, 23)
    tensor, _ = Preprocessing(size=(16, 40)).apply(picture)
    by_hand = triangle_resize(planar(picture), 16)
    by_hand = triangle_resize(by_hand.swapaxes(1, 2), 40).swapaxes(1, 2)
    mean, std = np.array(IMAGENET_MEAN)[:, None, None], np.array(IMAGENET_STD)[:, None, None]
    difference = np.abs(tensor.numpy() - (by_hand / 255 - mean) / std)
    assert difference.max() < 1.5 / 255 / 0.224  # 8-bit rounding, twice
    assert tensor.dtype == torch.float32


@pytest.mark.parametrize(
    ("size", "target"), [((1500, 11), (7, 5)), ((1, 64), (40, 28)), ((300, 200), (299, 3))]
)
def test_extreme_shapes_are_resized_like_any_other(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    how = Preprocessing(size=target, mean=(0, 0, 0), std=(1, 1, 1))
    picture = noise_picture(*size)
    by_hand = triangle_resize(planar(picture), target[0]).swapaxes(1, 2)
    by_hand = triangle_resize(by_hand, target[1]).swapaxes(1, 2)
    assert np.abs(how.apply(picture)[0].numpy() * 255 - by_hand).max() < 1.6


def test_a_picture_of_the_right_size_is_only_normalised() -> None:
    picture = noise_picture(37, 23)
    for mode in ("warp", "pad", "crop"):
        tensor, transform = Preprocessing(size=(37, 23), resize=mode).apply(picture)
        np.testing.assert_allclose(tensor.numpy(), normalised_by_hand(picture), atol=2e-6)
        assert transform == GridTransform.identity((37, 23))


def test_padding_keeps_the_aspect_and_is_the_mean_color() -> None:
    picture = Image.new("RGB", (60, 20), (200, 30, 90))
    tensor, transform = Preprocessing(size=90, resize="pad").apply(picture)
    assert tensor.shape == (3, 90, 90)
    assert image_box_in_grid(transform) == (0, 30, 90, 60)
    content = tensor[:, 30:60]
    assert (content - content[:, :1, :1]).abs().max() < 1e-5
    assert torch.count_nonzero(tensor[:, :30]) == 0
    assert torch.count_nonzero(tensor[:, 60:]) == 0
    corner = Preprocessing(size=90, resize="pad", pad_position="corner").apply(picture)[1]
    assert image_box_in_grid(corner) == (0, 0, 90, 30)


def test_cropping_takes_the_middle_of_the_longer_side() -> None:
    picture = Image.new("RGB", (60, 20))
    picture.paste((255, 255, 255), (20, 0, 40, 20))
    tensor, transform = Preprocessing(size=40, resize="crop").apply(picture)
    assert map_point_to_image((0, 0), transform) == (20, 0)
    assert map_point_to_image((40, 40), transform) == (40, 20)
    white = torch.tensor([(1 - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])
    assert (tensor[:, :, 2:-2] - white[:, None, None]).abs().max() < 1e-5


def test_without_resizing_the_pixels_stay_and_the_canvas_is_enlarged() -> None:
    picture = noise_picture(37, 23)
    how = Preprocessing(resize="none", multiple_of=16, pad_position="corner")
    tensor, transform = how.apply(picture)
    assert tensor.shape == (3, 32, 48)
    np.testing.assert_allclose(tensor[:, :23, :37], normalised_by_hand(picture), atol=2e-6)
    assert torch.count_nonzero(tensor[:, 23:]) == torch.count_nonzero(tensor[:, :, 37:]) == 0
    assert image_box_in_grid(transform) == (0, 0, 37, 23)
    assert how.fixed_size is None


def test_sizes_are_rounded_up_to_the_multiple() -> None:
    how = Preprocessing(size=(100, 57), multiple_of=14)
    assert how.fixed_size == (112, 70)
    assert how.apply(noise_picture(37, 23))[0].shape == (3, 70, 112)


def test_a_tile_is_placed_in_the_whole_image() -> None:
    picture = noise_picture(90, 60)
    base = GridTransform.identity((90, 60)).crop((30, 10, 80, 50))
    _, transform = Preprocessing(size=100).apply(picture.crop((30, 10, 80, 50)), base=base)
    assert transform.image_size == (90, 60)
    assert map_point_to_image((50, 50), transform) == (55, 30)


@pytest.mark.parametrize("mode", ["warp", "pad", "crop", "none"])
@settings(max_examples=60)
@given(
    picture=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    target=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    multiple=st.sampled_from([1, 7, 32]),
    position=st.sampled_from(["center", "corner"]),
)
def test_every_placement_is_exact_and_inside(
    mode: ResizeMode,
    picture: tuple[int, int],
    target: tuple[int, int],
    multiple: int,
    position: str,
) -> None:
    how = Preprocessing(size=target, resize=mode, multiple_of=multiple, pad_position=position)
    placement = how.place(picture)
    transform = placement.transform(GridTransform.identity(picture))
    left, top, right, bottom = placement.region_in_image
    corner = map_point_to_grid((left, top), transform)
    assert corner == pytest.approx(placement.corner, abs=1e-6)
    opposite = [c + s for c, s in zip(placement.corner, placement.content_size, strict=True)]
    assert map_point_to_grid((right, bottom), transform) == pytest.approx(opposite, abs=1e-6)
    assert transform.grid_size == pytest.approx(placement.canvas_size)
    assert all(side % multiple == 0 for side in placement.canvas_size)
    assert min(placement.corner) >= 0
    assert opposite[0] <= placement.canvas_size[0]
    assert opposite[1] <= placement.canvas_size[1]
    assert -1e-9 <= left < right <= picture[0] + 1e-9
    assert -1e-9 <= top < bottom <= picture[1] + 1e-9
    if mode == "crop":
        # The region is in whole pixels, so the aspect is kept to half a pixel of it.
        wanted = (bottom - top) * placement.canvas_size[0] / placement.canvas_size[1]
        width = right - left
        other = width * placement.canvas_size[1] / placement.canvas_size[0]
        assert min(abs(width - wanted), abs(bottom - top - other)) <= 0.5 or 1 in (
            width, bottom - top
        )  # fmt: skip
        assert (width == picture[0]) or (bottom - top == picture[1])
    if mode == "pad":
        canvas = placement.canvas_size
        factor = min(canvas[0] / picture[0], canvas[1] / picture[1])
        for side, length in zip(picture, placement.content_size, strict=True):
            assert abs(side * factor - length) <= 0.5 or length == 1
        assert (placement.content_size[0] == canvas[0]) or (placement.content_size[1] == canvas[1])
    # Placing what is already placed changes nothing: what the memory cache rests on.
    if mode != "none":
        again = how.place(placement.content_size)
        assert (again.content_size, again.corner) == (placement.content_size, placement.corner)


@pytest.mark.parametrize("mode", ["warp", "pad", "crop"])
def test_a_dot_is_found_where_the_transform_says(mode: ResizeMode) -> None:
    for x, y in [(70.5, 30.5), (25.5, 44.5), (60.5, 5.5)]:
        picture = Image.new("RGB", (100, 50))
        picture.paste((255, 255, 255), (int(x) - 1, int(y) - 1, int(x) + 2, int(y) + 2))
        how = Preprocessing(size=(150, 125), resize=mode, mean=(0, 0, 0), std=(1, 1, 1))
        tensor, transform = how.apply(picture)
        weights = tensor[0].double().numpy()
        rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
        center = (
            float((columns * weights).sum() / weights.sum()),
            float((rows * weights).sum() / weights.sum()),
        )
        if mode != "crop" or 20 < x < 80:
            assert map_point_to_image(center, transform) == pytest.approx((x, y), abs=0.05)


def test_impossible_settings_are_named() -> None:
    for wrong in ({"size": 0}, {"size": (10, -1)}, {"multiple_of": 0}, {"std": (1, 0, 1)}):
        with pytest.raises(SettingError):
            Preprocessing(**wrong)
    with pytest.raises(SettingError, match=r"'squash'.*warp, pad, crop, none"):
        Preprocessing(resize="squash")


def images(batch: int = 2, height: int = 23, width: int = 37) -> torch.Tensor:
    return torch.randn((batch, 3, height, width), generator=torch.Generator().manual_seed(1))


def test_hidden_tiles_start_at_the_corner_and_are_cut_at_the_edge() -> None:
    image = images()[0]
    hidden = torch.rand((3, 5), generator=torch.Generator().manual_seed(2)) < 0.5
    result = transforms.hide_tiles(image, hidden, patch_size=8)
    for y in range(23):
        for x in range(37):
            expected = torch.zeros(3) if hidden[y // 8, x // 8] else image[:, y, x]
            assert torch.equal(result[:, y, x], expected)


def test_all_tiles_hidden_blank_the_image_and_none_leave_it() -> None:
    image = images()[0]
    blank = transforms.hide_tiles(image, torch.ones((6, 10), dtype=torch.bool), patch_size=4)
    assert torch.count_nonzero(blank) == 0
    same = transforms.hide_tiles(image, torch.zeros((6, 10), dtype=torch.bool), patch_size=4)
    assert torch.equal(same, image)


@pytest.mark.parametrize("degrees", [-30.0, -7.5, 12.0, 30.0, 90.0])
def test_rotation_equals_sampling_by_its_definition(degrees: float) -> None:
    image = images()[0]
    height, width = image.shape[1:]
    angle = math.radians(degrees)
    rows, columns = np.mgrid[:height, :width] + 0.5
    right, up = columns - width / 2, height / 2 - rows
    # A counter-clockwise turn of the picture looks back clockwise.
    source_right = right * math.cos(angle) + up * math.sin(angle)
    source_up = -right * math.sin(angle) + up * math.cos(angle)
    places = [height / 2 - source_up - 0.5, source_right + width / 2 - 0.5]
    turned = transforms.rotate(image, degrees).numpy()
    for channel in range(3):
        padded = np.pad(image[channel].double().numpy(), 1)
        expected = ndimage.map_coordinates(padded, np.add(places, 1), order=1, cval=0.0)
        np.testing.assert_allclose(turned[channel], expected, atol=1e-4)


def test_a_quarter_turn_of_a_square_is_rot90() -> None:
    image = images(height=15, width=15)[0]
    expected = torch.rot90(image, 1, dims=(1, 2))
    torch.testing.assert_close(transforms.rotate(image, 90.0), expected, atol=1e-5, rtol=0)


def test_crop_and_resize_equals_cropping_first() -> None:
    image = images()[0]
    result = InputImage(image, None, transforms.IMAGENET_STD).crop((5, 3, 30, 20), (16, 40))
    values = image[:, 3:20, 5:30].double().numpy()
    by_hand = triangle_resize(values, 16).swapaxes(1, 2)
    by_hand = triangle_resize(by_hand, 40).swapaxes(1, 2)
    np.testing.assert_allclose(result.pixels.numpy(), by_hand, atol=1e-5)


def test_nothing_is_written_into_the_input() -> None:
    image = images()
    before = image.clone()
    hidden = torch.ones((3, 5), dtype=torch.bool)
    transforms.hide_tiles(image, hidden, patch_size=8).add_(1)
    transforms.rotate(image[0], 10).add_(1)
    InputImage(image[0], None, transforms.IMAGENET_STD).crop((0, 0, 37, 23), (37, 23)).pixels.add_(
        1
    )
    assert torch.equal(image, before)


def test_jittered_sides_are_rounded_multiples() -> None:
    assert transforms.jittered_size((500, 375), 0.7) == (350, 262)
    assert transforms.jittered_size((500, 500), 1.4) == (700, 700)
    assert transforms.jittered_size((500, 375), 0.7, multiple_of=14) == (350, 266)
    assert transforms.jittered_size((5, 3), 0.1) == (1, 1)
