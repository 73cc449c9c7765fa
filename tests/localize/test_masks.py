"""Label images of drawn scenes by hand, run lengths there and back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from weakloc.geometry import GridTransform
from weakloc.localize.maps import image_grid, minmax
from weakloc.localize.places import Background, class_masks, score_stack, segment, without_specks
from weakloc.rle import encode_mask
from weakloc.structures import ScoreMaps

SIZE = (40.0, 30.0)
PIXELS = GridTransform.identity(SIZE)


def mean_iou(predicted: NDArray[np.int32], truth: NDArray[np.int32]) -> float:
    values = np.union1d(np.unique(predicted), np.unique(truth))
    return float(
        np.mean(
            [
                np.sum((predicted == v) & (truth == v)) / np.sum((predicted == v) | (truth == v))
                for v in values
            ]
        )
    )


def scene() -> tuple[ScoreMaps, NDArray[np.int32]]:
    """Class 0 top left, class 2 bottom right, class 1 hot everywhere but not in the image."""
    truth = np.zeros((30, 40), dtype=np.int32)
    truth[3:14, 2:19] = 1
    truth[16:29, 21:40] = 3
    logits = np.stack([(truth == 1) * 5.0 - 3.0, np.full((30, 40), 9.0), (truth == 3) * 4.0 - 1.0])
    logits[1, 0, 0] = 0.0
    return ScoreMaps(logits.astype(np.float32), PIXELS), truth


@pytest.mark.parametrize("background", [Background(), Background("power", exponent=4.0)])
def test_hot_regions_become_exact_masks_and_absent_classes_never_appear(
    background: Background,
) -> None:
    """WC-14."""
    maps, truth = scene()
    normalised = ScoreMaps(minmax(maps.values), PIXELS)
    present = replace(normalised, values=normalised.values[[0, 2]])
    labels = segment(present, image_grid(SIZE), background=background)
    assert mean_iou(labels, np.where(truth == 3, 2, truth)) == 1.0
    assert [*class_masks(labels)] == [0, 1]
    everything = segment(normalised, image_grid(SIZE), background=background)
    assert 2 in everything  # its absence was what kept class 1 out


def test_a_background_class_competes_and_is_never_labelled() -> None:
    heat = np.array([[[0.1, 0.9, 0.5]], [[0.4, 0.6, 0.2]], [[0.5, 0.5, 0.5]]], dtype=np.float32)
    transform = GridTransform.identity((3.0, 1.0))
    labels = segment(ScoreMaps(heat, transform), transform, background=Background("class"))
    assert labels.tolist() == [[0, 1, 0]]  # on a tie the background wins


def test_power_background_by_hand() -> None:
    heat = np.array([[[0.2, 0.5]], [[0.1, 0.75]]], dtype=np.float32)
    stack = score_stack(heat, Background("power", exponent=2.0))
    np.testing.assert_allclose(stack[0], [[0.64, 0.0625]], atol=1e-6)


def test_raising_the_background_level_never_enlarges_the_foreground(
    random: np.random.Generator,
) -> None:
    heat = ScoreMaps(random.random((3, 6, 8)).astype(np.float32), PIXELS.resize((8.0, 6.0)))
    areas = [
        np.count_nonzero(segment(heat, PIXELS, background=Background(level=level)))
        for level in np.linspace(0, 1, 11)
    ]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] == 1200
    assert areas[-1] == 0


def test_strips_of_a_tall_image_join_without_a_seam(random: np.random.Generator) -> None:
    size = (9.0, 700.0)
    maps = ScoreMaps(
        random.random((3, 20, 3)).astype(np.float32),
        GridTransform.identity(size).resize((3.0, 20.0)),
    )
    labels = segment(maps, image_grid(size), background=Background(level=0.6))
    whole = score_stack(
        np.stack(
            [
                [
                    [
                        np.interp(
                            (x + 0.5) / 3 - 0.5,
                            range(3),
                            [np.interp((y + 0.5) / 35 - 0.5, range(20), column) for column in m.T],
                        )
                        for x in range(9)
                    ]
                    for y in range(240, 280)
                ]
                for m in maps.values
            ]
        ),
        Background(level=0.6),
    )
    assert np.mean(labels[240:280] == np.argmax(whole, axis=0)) > 0.999


@pytest.mark.parametrize("mode", ["threshold", "power"])
def test_no_classes_give_background_only(mode: str) -> None:
    heat = np.ones((0, 30, 40), dtype=np.float32)
    background = Background(mode)  # type: ignore[arg-type]
    labels = segment(ScoreMaps(heat, PIXELS), PIXELS, background=background)
    assert not labels.any()
    assert class_masks(labels) == {}


def test_specks_are_removed_class_by_class() -> None:
    labels = np.zeros((30, 40), dtype=np.int32)
    labels[2:12, 3:20] = 1
    labels[20, 30] = 1
    labels[11:13, 20:22] = 2
    cleaned = without_specks(labels, min_area=0.004)  # 4.8 cells
    assert np.array_equal(cleaned == 1, np.pad(np.ones((10, 17)), ((2, 18), (3, 20))) == 1)
    assert not (cleaned == 2).any()
    assert labels[20, 30] == 1


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # inside pycocotools
def test_run_lengths_there_and_back(random: np.random.Generator) -> None:
    for shape in [(1, 1), (7, 3), (30, 41)]:
        mask = random.random(shape) < 0.4
        rle = json.loads(json.dumps(encode_mask(mask)))
        assert rle["size"] == list(shape)
        assert np.array_equal(coco_masks.decode(rle), mask)
