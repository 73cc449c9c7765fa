"""What is drawn keeps to the papers' ranges, and what is done can be followed by geometry."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from weakloc.data import transforms
from weakloc.data.augmentation import (
    Augmentation,
    GoogLeNetResize,
    HideAndSeek,
    HorizontalFlip,
    InputImage,
    QuarterTurns,
    Rotation,
    ScaleJitter,
    WhiteNoise,
)
from weakloc.data.transforms import IMAGENET_STD, Preprocessing, middle_box
from weakloc.geometry import GridTransform, map_point_to_grid, map_point_to_image


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def view(width: int = 60, height: int = 41) -> InputImage:
    pixels = torch.randn((3, height, width), generator=seeded(9)).abs() + 0.1
    return placed(pixels)


def placed(pixels: Tensor) -> InputImage:
    """An image that is its own frame."""
    size = (pixels.shape[2], pixels.shape[1])
    return InputImage(pixels, GridTransform.identity(size), IMAGENET_STD)


def is_same(one: InputImage, other: InputImage) -> bool:
    return torch.equal(one.pixels, other.pixels) and one.transform == other.transform


def test_hide_and_seek_hides_three_eighths_on_average() -> None:
    # AUG-03; 59 x 41 is no multiple of any patch size.
    generator, step = seeded(), HideAndSeek()
    image = placed(torch.ones((1, 41, 59)))
    seen = [step.apply(image, generator) for _ in range(2000)]
    hidden = sum(1 - float(each.pixels.mean()) for each in seen)
    assert hidden / 2000 == pytest.approx(0.375, abs=0.02)
    assert sum(each is image for each in seen) / 2000 == pytest.approx(0.25, abs=0.03)
    # A tile of 4 can end at column 4, one of 8 cannot; one of 16 ends at neither.
    steps = [(each.pixels[0].diff(dim=1) != 0).any(dim=0) for each in seen]
    fours = sum(bool(step[3]) for step in steps)
    eights = sum(bool(step[7] and not step[3]) for step in steps)
    sixteens = sum(bool(step[15] and not step[7] and not step[3]) for step in steps)
    for count in (fours, eights, sixteens):
        assert count / 2000 == pytest.approx(0.25, abs=0.04)


def test_hide_and_seek_with_certainty_blanks_and_with_none_leaves() -> None:
    original = view()
    always = HideAndSeek(patch_sizes=(7,), probability=1.0).apply(original, seeded())
    assert torch.count_nonzero(always.pixels) == 0
    never = HideAndSeek(patch_sizes=(7,), probability=0.0).apply(original, seeded())
    assert is_same(never, original)
    assert HideAndSeek(patch_sizes=(0,)).apply(original, seeded()) is original


def test_hidden_pixels_form_tiles_aligned_to_the_corner() -> None:
    mask = HideAndSeek(patch_sizes=(16,)).apply(view(), seeded(4)).pixels[0] == 0
    for top in range(0, 41, 16):
        for left in range(0, 60, 16):
            tile = mask[top : top + 16, left : left + 16]
            assert tile.all() or not tile.any()
    assert 0 < mask.sum() < mask.numel()


@pytest.mark.parametrize("size", [(64, 64), (500, 375), (37, 90)])
def test_googlenet_crops_keep_to_area_and_aspect(size: tuple[int, int]) -> None:
    # AUG-04: the bounds hold before the sides are rounded to pixels.
    generator, step = seeded(), GoogLeNetResize()
    areas, lefts = [], []
    middle = middle_box(size, shape=(60, 41))
    for _ in range(3000):
        box = step.draw_box(generator, size, output=(60, 41))
        left, top, right, bottom = box
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        width, height = right - left, bottom - top
        if box != middle:
            smallest = (width - 0.5) * (height - 0.5), (width + 0.5) * (height + 0.5)
            assert smallest[0] <= size[0] * size[1]
            assert smallest[1] >= 0.08 * size[0] * size[1]
            assert (width + 0.5) / (height - 0.5) >= 3 / 4
            assert (width - 0.5) / (height + 0.5) <= 4 / 3
        areas.append(width * height / (size[0] * size[1]))
        lefts.append(left)
    assert min(areas) < 0.1
    assert min(lefts) == 0


def test_a_square_image_draws_areas_uniformly_while_they_fit() -> None:
    # Up to 3/4 of the area every aspect between 3:4 and 4:3 fits, so nothing is rejected there.
    generator, step = seeded(), GoogLeNetResize()
    areas, num_wide = [], 0
    for _ in range(4000):
        left, top, right, bottom = step.draw_box(generator, (1000, 1000), output=(64, 64))
        areas.append((right - left) * (bottom - top) / 1e6)
        num_wide += right - left > bottom - top
    assert num_wide / 4000 == pytest.approx(0.5, abs=0.03)
    low = sum(0.08 <= area < 0.38 for area in areas)
    high = sum(0.38 <= area < 0.68 for area in areas)
    assert low / high == pytest.approx(1.0, abs=0.1)


def test_areas_reach_up_to_the_whole_image_as_often_as_they_should() -> None:
    """A share A of a square fits if the aspect r (uniform from 3/4 to 4/3) is from A to 1 / A.

    So the density of crops is 1 from 0.08 to 3/4 and (1 / A - A) / (4/3 - 3/4) above. Its integral
    from a to b <= 1 is (log(b / a) - (b^2 - a^2) / 2) / (4/3 - 3/4).
    """
    generator, step = seeded(), GoogLeNetResize()
    areas = []
    for _ in range(6000):
        left, top, right, bottom = step.draw_box(generator, (1000, 1000), output=(64, 64))
        areas.append((right - left) * (bottom - top) / 1e6)

    def above(start: float) -> float:
        return (math.log(1 / start) - (1 - start**2) / 2) / (4 / 3 - 3 / 4)

    total = 0.75 - 0.08 + above(0.75)
    for start in (0.75, 0.85):
        share = sum(area > start for area in areas) / len(areas)
        assert share == pytest.approx(above(start) / total, abs=0.012)
    assert sum(area < 0.2 for area in areas) / len(areas) == pytest.approx(0.12 / total, abs=0.015)
    assert max(areas) > 0.97


def test_an_image_in_which_no_crop_fits_gives_its_middle() -> None:
    # AUG-04: 64 x 1 has no crop of at least 8 % and an aspect of at most 4:3.
    step = GoogLeNetResize()
    for seed in range(50):
        box = step.draw_box(seeded(seed), (64, 1), output=(64, 64))
        assert box == (31, 0, 32, 1)
    thin = placed(torch.arange(64.0).expand(3, 1, 64))
    cropped = thin.crop((31, 0, 32, 1), (20, 20))
    assert torch.equal(cropped.pixels, torch.full((3, 20, 20), 31.0))
    assert middle_box((100, 80), shape=(40, 20)) == (0, 15, 100, 65)
    assert middle_box((100, 20), shape=(40, 80)) == (45, 0, 55, 20)


def run_widths(row: Tensor) -> list[int]:
    """Lengths of the inner runs of equal values."""
    _, counts = torch.unique_consecutive(row, return_counts=True)
    return counts.tolist()[1:-1]


def test_hiding_after_the_crop_keeps_the_patch_size_and_before_magnifies_it() -> None:
    # AUG-05, on a 64 x 48 canvas with the crop of its middle quarter: twice as large each way.
    checkers = (torch.arange(12)[:, None] + torch.arange(16)[None]) % 2 == 0
    box, size = (16, 12, 48, 36), (64, 48)
    image = placed(torch.ones((3, 48, 64)))
    after = transforms.hide_tiles(image.crop(box, size).pixels, checkers, patch_size=4)[0]
    assert set(run_widths(after[2])) == {4}
    before = placed(transforms.hide_tiles(image.pixels, checkers, patch_size=4)).crop(box, size)
    assert set(run_widths((before.pixels[0] > 0.5)[4])) == {8}


def test_the_last_of_hiding_and_cropping_is_seen_whole() -> None:
    # Tiles of 4 keep their edges where hiding comes last; the crop moves them where it does.
    hide, crop = HideAndSeek(patch_sizes=(4,)), GoogLeNetResize()
    for steps, is_kept in (((crop, hide), True), ((hide, crop), False)):
        image = placed(torch.ones((3, 40, 60)))
        generator = seeded()
        for step in Augmentation(steps=steps).steps_of_use(0):
            image = step.apply(image, generator)
        columns = (image.pixels[0].diff(dim=1) != 0).any(dim=0).nonzero().flatten() + 1
        assert bool((columns % 4 == 0).all()) == is_kept


def test_one_factor_between_the_two_is_drawn_for_a_batch() -> None:
    # MIL-14
    generator, jitter = seeded(), ScaleJitter()
    sides = [jitter.draw(generator, (500, 500)) for _ in range(2000)]
    assert all(width == height and 350 <= width <= 700 for width, height in sides)
    mean = sum(width for width, _ in sides) / len(sides)
    assert mean == pytest.approx(525, abs=8)
    assert min(sides) < (360, 360)
    assert max(sides) > (690, 690)


def test_noise_has_its_sigma_on_the_unit_scale() -> None:
    flat = placed(torch.zeros((3, 200, 300)))
    noisy = WhiteNoise(probability=1.0).apply(flat, seeded())
    for channel, std in enumerate(IMAGENET_STD):
        on_unit_scale = noisy.pixels[channel] * std
        assert float(on_unit_scale.std()) == pytest.approx(10 / 255, rel=0.02)
        assert float(on_unit_scale.mean()) == pytest.approx(0, abs=1e-3)
    assert noisy.transform == flat.transform


def test_rotation_draws_both_ways_and_gives_up_the_transform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    angles: list[float] = []
    generator, step = seeded(), Rotation(probability=1.0)
    turned = step.apply(view(), generator)
    assert turned.transform is None
    assert turned.flip().transform is None
    assert turned.crop((1, 1, 20, 30), (8, 8)).transform is None
    monkeypatch.setattr(
        transforms, "rotate", lambda pixels, degrees: angles.append(degrees) or pixels
    )
    for _ in range(500):
        step.apply(view(), generator)
    assert len(angles) == 500
    assert -30 <= min(angles) < -28
    assert 28 < max(angles) <= 30


def test_quarter_turns_move_every_pixel_to_its_place_and_give_up_the_transform() -> None:
    generator, image = seeded(), placed(torch.arange(18.0).reshape(3, 2, 3))
    by_number = {number: image.pixels.rot90(number, (1, 2)) for number in range(4)}
    drawn = [QuarterTurns().apply(image, generator) for _ in range(2000)]
    for pixels in by_number.values():
        same = sum(torch.equal(turned.pixels, pixels) for turned in drawn)
        assert same / 2000 == pytest.approx(0.25, abs=0.04)
    assert all((turned.transform is None) == (turned is not image) for turned in drawn)
    original = view()
    turns = [QuarterTurns().apply(original, seeded(seed)) for seed in range(40)]
    pixels = original.pixels  # (3, 41, 60)
    once, thrice = (
        next(turned.pixels for turned in turns if torch.equal(turned.pixels, wanted))
        for wanted in (pixels.rot90(1, (1, 2)), pixels.rot90(3, (1, 2)))
    )
    for x, y in [(0, 0), (59, 40), (13, 7)]:
        # Counter-clockwise, the right edge becomes the top.
        assert torch.equal(once[:, 59 - x, y], pixels[:, y, x])
        assert torch.equal(thrice[:, x, 40 - y], pixels[:, y, x])


def test_probabilities_are_kept() -> None:
    generator, image = seeded(), view(3, 2)
    for step in (HorizontalFlip(), WhiteNoise(), Rotation()):
        changed = [step.apply(image, generator) is not image for _ in range(2000)]
        assert sum(changed) / 2000 == pytest.approx(0.5, abs=0.04)
    assert HorizontalFlip(0.0).apply(image, generator) is image
    assert is_same(HorizontalFlip(1.0).apply(image, generator), image.flip())


def test_only_duplicates_get_the_steps_for_duplicates() -> None:
    flip, rotation = HorizontalFlip(), Rotation(probability=1.0)
    augmentation = Augmentation(steps=(flip,), duplicate_steps=(rotation,))
    for num_repeat, expected in ((0, (flip,)), (1, (flip, rotation)), (5, (flip, rotation))):
        assert augmentation.steps_of_use(num_repeat) == expected


def test_a_flip_mirrors_pixels_and_transform_alike() -> None:
    flipped = view().flip()
    assert flipped.transform is not None
    for x, y in [(0, 0), (59, 40), (13, 7)]:
        u, v = map_point_to_grid((x + 0.5, y + 0.5), flipped.transform)
        there = flipped.pixels[:, math.floor(v), math.floor(u)]
        assert torch.equal(there, view().pixels[:, y, x])


def blob(width: int, height: int, x: float, y: float) -> Tensor:
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18).expand(3, height, width)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(90, 160), st.integers(60, 130)),
    mode=st.sampled_from(["warp", "pad", "crop"]),
    flips=st.integers(0, 2),
    left=st.floats(0, 0.2),
    top=st.floats(0, 0.2),
    place=st.tuples(st.floats(0.45, 0.6), st.floats(0.45, 0.6)),
)
def test_a_blob_is_where_the_transform_of_the_whole_chain_says(
    size: tuple[int, int],
    mode: str,
    flips: int,
    left: float,
    top: float,
    place: tuple[float, float],
) -> None:
    # GEO-05 with pixels: resize or pad, flip, crop, flip; and back to the image.
    canvas = (120, 88)
    placement = Preprocessing(size=canvas, resize=mode).place(size)
    transform = placement.transform(GridTransform.identity(size))
    x, y = place[0] * size[0], place[1] * size[1]
    pixels = blob(*canvas, *map_point_to_grid((x, y), transform))
    seen = InputImage(pixels, transform, IMAGENET_STD)
    for _ in range(flips):
        seen = seen.flip()
    box = (round(left * 120), round(top * 88), round((left + 0.7) * 120), round((top + 0.7) * 88))
    seen = seen.crop(box, (140, 100)).flip()
    assert seen.transform is not None
    u, v = map_point_to_grid((x, y), seen.transform)
    assert map_point_to_image((u, v), seen.transform) == pytest.approx((x, y), abs=1e-3)
    peak = int(seen.pixels[0].argmax())
    assert abs(peak % 140 + 0.5 - u) <= 1.01
    assert abs(peak // 140 + 0.5 - v) <= 1.01


def test_the_same_generator_state_gives_the_same_image() -> None:
    augmentation = Augmentation(
        steps=(HideAndSeek(), HorizontalFlip(), GoogLeNetResize()),
        duplicate_steps=(WhiteNoise(), Rotation()),
    )

    def augmented(seed: int) -> Tensor:
        original, generator = view(), seeded(seed)
        image = original
        for step in augmentation.steps_of_use(1):
            image = step.apply(image, generator)
        assert torch.equal(original.pixels, view().pixels)
        return image.pixels

    assert torch.equal(augmented(3), augmented(3))
    assert not torch.equal(augmented(3), augmented(4))


def test_drawing_never_touches_the_global_random_state() -> None:
    before = torch.get_rng_state()
    GoogLeNetResize().draw_box(seeded(), (60, 41), output=(60, 41))
    for step in (HideAndSeek(), HorizontalFlip(), QuarterTurns(), Rotation(), WhiteNoise()):
        step.apply(view(), seeded())
    assert torch.equal(torch.get_rng_state(), before)
