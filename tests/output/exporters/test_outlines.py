"""Polygons along pixel borders, filled again by three other programs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy import ndimage

from tests.output.exporters.oracles import fill_outline
from weakloc.output.exporters.objects import join_outlines, outlines_of


def masks(draw: st.DrawFn) -> np.ndarray:
    width, height = draw(st.integers(1, 17)), draw(st.integers(1, 13))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.asarray(random.random((height, width)) < draw(st.floats(0.05, 0.95)))


def filled_by_coco(outlines: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    polygons = [outline.ravel().tolist() for outline in outlines]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        rles = coco_mask.frPyObjects(polygons, shape[0], shape[1])
        return np.asarray(coco_mask.decode(coco_mask.merge(rles)), dtype=bool)


def crossings(outline: np.ndarray, x: float, y: float) -> int:
    """How often a ray from (x, y) to the right meets the outline."""
    count = 0
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if x1 == x2 and min(y1, y2) < y < max(y1, y2) and x1 > x:
            count += 1
    return count


@settings(deadline=None, max_examples=150)
@given(st.composite(masks)())
def test_outlines_filled_again_are_the_mask(mask: np.ndarray) -> None:
    outlines = outlines_of(mask)
    height, width = mask.shape
    again = np.zeros_like(mask)
    for outline in outlines:
        part = fill_outline(outline, size=(width, height))
        assert not (again & part).any()
        again |= part
    assert (again == mask).all()
    if outlines:
        assert (filled_by_coco(outlines, mask.shape) == mask).all()
        joined = join_outlines(outlines)
        assert (fill_outline(joined, size=(width, height)) == mask).all()
        for y in range(height):
            for x in range(width):
                assert crossings(joined, x + 0.5, y + 0.5) % 2 == mask[y, x]


@settings(deadline=None, max_examples=80)
@given(st.composite(masks)())
def test_there_is_one_outline_for_each_part_whose_pixels_share_sides(mask: np.ndarray) -> None:
    outlines = outlines_of(mask)
    assert len(outlines) == ndimage.label(mask)[1]
    for outline in outlines:
        steps = np.abs(np.diff(outline, axis=0, append=outline[:1]))
        assert ((steps == 0).sum(axis=1) == 1).all()  # along the axes, and never in place


def test_a_plain_box_has_four_corners_at_its_borders() -> None:
    mask = np.zeros((9, 12), dtype=bool)
    mask[2:7, 3:11] = True
    (outline,) = outlines_of(mask)
    assert sorted(map(tuple, outline.tolist())) == [(3, 2), (3, 7), (11, 2), (11, 7)]


def test_a_ring_within_a_ring_keeps_its_holes() -> None:
    mask = np.zeros((15, 21), dtype=bool)
    mask[0:15, 0:21] = True
    mask[2:13, 2:19] = False
    mask[4:11, 4:17] = True
    mask[6:9, 6:15] = False
    mask[6:9, 10] = True  # a bar makes two holes of one
    outlines = outlines_of(mask)
    assert len(outlines) == 2
    again = sum(fill_outline(outline, size=(21, 15)).astype(int) for outline in outlines)
    assert (again == mask).all()


def test_a_hole_below_a_hole_is_joined_through_it() -> None:
    mask = np.ones((12, 7), dtype=bool)
    mask[2:4, 2:5] = False
    mask[6:8, 3:4] = False
    mask[9, 3] = False
    (outline,) = outlines_of(mask)
    assert (fill_outline(outline, size=(7, 12)) == mask).all()


def test_nothing_has_no_outline() -> None:
    assert outlines_of(np.zeros((5, 3), dtype=bool)) == []


@pytest.mark.parametrize("seed", range(6))
def test_slanted_polygons_are_filled_where_pixel_centres_lie_inside(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(-5, 35, size=(5, 2))
    filled = fill_outline(corners, size=(30, 22))
    large = Image.new("L", (30 * 32, 22 * 32))
    ImageDraw.Draw(large).polygon([(x * 32, y * 32) for x, y in corners], fill=1)
    centres = np.asarray(large)[16::32, 16::32].astype(bool)
    # Pillow fills self-crossing polygons by the even-odd rule, too.
    assert (filled != centres).sum() <= 3
