"""The random crops that a training gets, read off its pixels: they say their own column and row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.training.small_data import settings
from weakloc.methods.cam import Cam
from weakloc.methods.method import Preset
from weakloc.structures import DataSet, Sample
from weakloc.training.inputs import inputs_of
from weakloc.training.plan import TrainingPlan, make_plan
from weakloc.work import silent

WIDTH, HEIGHT = 120, 90
PER_PIXEL = 2  # levels of red from a column to the next, and of green from a row to the next
SIDE = 32


def _drawn(path: Path, width: int, height: int) -> Sample:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = PER_PIXEL * np.arange(width)
    pixels[..., 1] = PER_PIXEL * np.arange(height)[:, None]
    Image.fromarray(pixels).save(path)
    return Sample(path.name, str(path), np.array([1, -1], np.int8))


def _plan(samples: list[Sample], preset: Preset) -> TrainingPlan:
    data_set = DataSet(Path("/nowhere"), "folders", ("a", "b"), {"train": samples, "val": samples})
    method = Cam.practical() if preset == "practical" else replace(Cam.literal(), augment="gr")
    return make_plan(data_set, method, settings(image_size=SIDE, batch_size=len(samples)))


def _levels(plan: TrainingPlan, epoch: int) -> NDArray[np.float64]:
    """One epoch's red and green from 0 to 255: (B, 2, SIDE, SIDE)"""
    learned = inputs_of(plan, Path("/nowhere"), silent).learned
    learned.epoch = epoch
    (carried,) = learned
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (plan.preprocessing.mean, plan.preprocessing.std)
    )
    levels = 255 * (carried.batch.images * std + mean)[:, :2]
    assert levels.shape[2:] == (SIDE, SIDE)
    return levels.double().numpy()


def _sides(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Width and height of each crop in pixels, from the slope inside its edges: (B, 2)"""
    inner = levels[..., 2:-2, 2:-2]
    across = np.diff(inner[:, 0].mean(axis=1), axis=1).mean(axis=1)
    down = np.diff(inner[:, 1].mean(axis=2), axis=1).mean(axis=1)
    return np.abs(np.stack([across, down], axis=1)) * SIDE / PER_PIXEL


@pytest.mark.parametrize(("preset", "smallest"), [("literal", 0.08), ("practical", 0.3)])
def test_a_training_sees_crops_of_the_papers_areas_and_aspects(
    preset: Preset, smallest: float, tmp_path: Path
) -> None:
    """AUG-04: up to the whole area, 3:4 to 4:3, inside the image, at one size of output."""
    samples = [_drawn(tmp_path / f"{number}.png", WIDTH, HEIGHT) for number in range(40)]
    plan = _plan(samples, preset)
    epochs = [_levels(plan, epoch) for epoch in range(50)]
    sides = np.concatenate([_sides(levels) for levels in epochs])
    # The sides were rounded to pixels and are read to within a quarter of one.
    least, most = sides - 0.75, sides + 0.75
    assert (most.prod(axis=1) >= smallest * WIDTH * HEIGHT).all()
    assert (least <= (WIDTH, HEIGHT)).all()
    assert (most[:, 0] / least[:, 1] >= 3 / 4).all()
    assert (least[:, 0] / most[:, 1] <= 4 / 3).all()
    shares = sides.prod(axis=1) / (WIDTH * HEIGHT)
    assert shares.min() < smallest + 0.02
    assert shares.max() > 0.96
    aspects = sides[:, 0] / sides[:, 1]
    assert aspects.min() < 0.77
    assert aspects.max() > 1.3
    # An oracle of the text: area and aspect uniform, sides swapped half of the time, redrawn until
    # it fits.
    random = np.random.default_rng(0)
    area, aspect = random.uniform(smallest, 1, 40_000), random.uniform(3 / 4, 4 / 3, 40_000)
    swapped = random.random(40_000) < 0.5
    aspect[swapped] = 1 / aspect[swapped]
    fits = (area * WIDTH * HEIGHT * aspect <= WIDTH**2) & (
        area * WIDTH * HEIGHT / aspect <= HEIGHT**2
    )
    for quantile in (0.25, 0.5, 0.75, 0.95):
        expected = np.quantile(area[fits], quantile)
        assert np.quantile(shares, quantile) == pytest.approx(expected, abs=0.04)


def test_an_image_in_which_no_crop_fits_is_learned_from_by_its_middle(tmp_path: Path) -> None:
    """AUG-04: of 64 x 1 the middle pixel, at the size of every other crop."""
    samples = [_drawn(tmp_path / "thin.png", 64, 1), _drawn(tmp_path / "b.png", WIDTH, HEIGHT)]
    plan = _plan(samples, "practical")
    for epoch in range(5):
        red = _levels(plan, epoch)[:, 0]
        constant = red[np.ptp(red, axis=(1, 2)) < 1e-3]
        assert len(constant) == 1
        assert constant[0, 0, 0] == pytest.approx(PER_PIXEL * 31, abs=0.5)
