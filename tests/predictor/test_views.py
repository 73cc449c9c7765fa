"""Views of a picture: tiles that leave nothing out, and transforms that lead back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from weakloc.data.augmentation import Augmentation, ScaleJitter
from weakloc.data.loaders import Batch, augment_batch
from weakloc.data.transforms import Preprocessing
from weakloc.errors import SettingError
from weakloc.geometry import map_point_to_grid
from weakloc.predictor.views import View, cut_tiles, list_views, make_view, scaled
from weakloc.settings import Look


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 900),
    height=st.integers(1, 700),
    side=st.integers(32, 400),
    overlap=st.floats(0.0, 0.7),
)
def test_tiles_cover_the_picture_overlap_enough_and_are_equal(
    width: int, height: int, side: int, overlap: float
) -> None:
    tiles = cut_tiles((width, height), side=side, overlap=overlap)
    sizes = {(right - left, bottom - top) for left, top, right, bottom in tiles}
    assert sizes == {(min(side, width), min(side, height))}
    for length, first, last in ((width, 0, 2), (height, 1, 3)):
        spans = sorted({(tile[first], tile[last]) for tile in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for before, after in itertools.pairwise(spans):
            assert before[1] - after[0] >= overlap * side - 1  # whole pixels
    assert len(set(tiles)) == len(tiles)


def test_small_pictures_are_not_cut() -> None:
    views = list_views((100, 60), Look(scales=(1.0,), map_scales=(0.5,), flip=True, tile=100))
    assert views == [View(0.5), View(0.5, True), View(1.0), View(1.0, True)]
    assert len(list_views((101, 60), Look(tile=100, tile_overlap=0.2))) == 3


@pytest.mark.parametrize("size", [(13_000, 7_000), (178_956_970, 1)])
def test_tiles_that_no_time_would_do_for_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(SettingError, match=r"--tile is 1, .* over 10,000\. Give larger"):
        list_views(size, Look(tile=1))


@pytest.mark.parametrize("resize", ["warp", "pad", "none"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("tile", [None, (40.0, 10.0, 120.0, 70.0)])
@pytest.mark.parametrize("scale", [0.75, 1.0, 2.0])
def test_a_pixel_of_the_picture_is_where_the_transform_says(
    resize: str, flip: bool, tile: tuple[float, ...] | None, scale: float
) -> None:
    pixels = np.zeros((90, 130, 3), dtype=np.uint8)
    pixels[40:48, 60:68] = 255  # centred at (64, 44)
    preprocessing = Preprocessing(size=(96, 72), resize=resize, mean=(0.0,) * 3, std=(1.0,) * 3)  # type: ignore[arg-type]
    view = View(scale, flip, tile)  # type: ignore[arg-type]
    images, transform = make_view(Image.fromarray(pixels), view, preprocessing)
    light = images[0].numpy().astype(np.float64)
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]] + 0.5
    found = (columns * light).sum() / light.sum(), (rows * light).sum() / light.sum()
    assert found == pytest.approx(map_point_to_grid((64.0, 44.0), transform), abs=0.6)
    assert transform.grid_size == images.shape[:0:-1]


@pytest.mark.parametrize("scale", [0.7, 1.3, 3.7])
def test_a_padded_picture_is_scaled_with_its_padding_as_in_training(scale: float) -> None:
    """Oquab et al.: to a long side of 500, padded to 500 x 500, and that square to 500 s."""
    random = np.random.default_rng(1)
    picture = Image.fromarray(random.integers(0, 255, (90, 130, 3), dtype=np.uint8))
    padded = Preprocessing(size=50, resize="pad")
    images, transform = make_view(picture, View(scale), padded)
    square, place = padded.apply(picture)
    side = round(50 * scale)
    expected = interpolate(square[None], (side, side), mode="bilinear", antialias=True)[0]
    assert torch.equal(images, expected)
    # 130 x 90 become 50 x 35, with 7 and 8 pixels of padding: a corner of the picture.
    corner = map_point_to_grid((130.0, 90.0), transform)
    assert corner == pytest.approx((side, 42 * side / 50))
    batch = Batch(square[None], torch.zeros(1, 1), ("a",), (place,), torch.zeros(1), seed=3)
    jittered = augment_batch(batch, Augmentation(scale_jitter=ScaleJitter(scale, scale)))
    assert torch.equal(jittered.images[0], images)
    assert jittered.transforms[0] == transform


def test_a_scale_is_of_the_usual_input_or_of_the_picture_where_there_is_none() -> None:
    for given_size, expected in (((90, 60), (135, 90)), (64, 96)):
        assert scaled(Preprocessing(size=given_size), 1.5, (300, 200)).size == expected
    free = scaled(Preprocessing(resize="none"), 0.5, (301, 200))
    assert (free.resize, free.size) == ("warp", (150, 100))
    assert scaled(Preprocessing(size=1), 0.1, (300, 200)).size == 1
