"""How tagged photographs are looked at, and what fits the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakloc.api.label_plan import (
    FEWEST_EPOCHS,
    FEWEST_IMAGES,
    FIXED_SECONDS,
    LabelPlan,
    chosen_size,
    fitted,
    learnable,
    seconds_of,
)
from weakloc.settings import LabelSettings
from weakloc.structures import DataSet, Sample

USUAL = LabelSettings()


def samples_of(folder: Path, sizes: list[tuple[int, int]]) -> list[Sample]:
    samples = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.png"
        Image.new("L", size).save(path)
        samples.append(Sample(path.name, str(path), np.array([1], dtype=np.int8)))
    return samples


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(100, 90)] * 3, 224),  # all smaller: the smallest
        ([(300, 240)] * 3, 224),
        ([(500, 320)] * 3, 320),
        ([(500, 320), (500, 330), (40, 30)], 320),  # most are large enough
        ([(400, 319)] * 3, 224),
    ],
)
def test_the_input_is_the_largest_that_enlarges_few_images(
    sizes: list[tuple[int, int]], side: int, tmp_path: Path
) -> None:
    assert chosen_size(samples_of(tmp_path, sizes), USUAL)[0] == side


def test_a_size_that_was_asked_for_is_taken() -> None:
    assert chosen_size([], LabelSettings(image_size=111)) == (111, "as asked with --image-size")


PLAN = LabelPlan(224, "", images=4000, refined=1500, epochs=20)


def test_what_takes_too_long_is_cut_and_said() -> None:
    everything = FIXED_SECONDS + sum(seconds_of(PLAN, 0.05, 1000).values())
    assert fitted(PLAN, 0.05, 1000, everything / 60 + 0.01) == PLAN
    half = fitted(PLAN, 0.05, 1000, everything / 60 * 0.75)
    assert FIXED_SECONDS + sum(seconds_of(half, 0.05, 1000).values()) <= everything * 0.75
    assert half.images < PLAN.images
    assert f"{half.images} instead of 4000 images" in half.cut
    least = fitted(PLAN, 0.05, 1000, 0.1)
    assert (least.images, least.refined) == (FEWEST_IMAGES, FEWEST_IMAGES)
    assert least.epochs == FEWEST_EPOCHS
    assert "and still about" in least.cut


def test_a_few_images_are_never_cut_to_more() -> None:
    few = LabelPlan(224, "", images=30, refined=30, epochs=3)
    least = fitted(few, 1.0, 30, 0.1)
    assert (least.images, least.refined, least.epochs) == (30, 30, 3)


def test_the_images_of_a_rare_class_stay() -> None:
    tags = [[1, -1]] * 90 + [[-1, 1]] * 10 + [[0, 0]] * 5
    samples = [
        Sample(f"{n}", f"{n}", np.array(labels, dtype=np.int8)) for n, labels in enumerate(tags)
    ]
    data_set = DataSet(Path("x"), "folders", ("often", "rare"), {"all": samples})
    (chosen,) = learnable(data_set, 30, seed=0).splits.values()
    assert len(chosen) == 30
    assert sum(sample.labels[1] == 1 for sample in chosen) == 10
    (known,) = learnable(data_set, 1000, seed=0).splits.values()
    assert len(known) == 100  # what is known of nothing teaches nothing
