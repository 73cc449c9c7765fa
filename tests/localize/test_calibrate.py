"""Thresholds of drawn scenes whose best one is known, and slow independent counting."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from weakloc.files import fit_json
from weakloc.geometry import BoxLTRB, GridTransform, box_ious
from weakloc.localize.calibration import (
    THRESHOLDS,
    Calibration,
    ClassBasis,
    DrawnHeat,
    Tuning,
    heat_levels,
    level_components,
    level_quality,
)
from weakloc.localize.places import BoxLimits, find_boxes

SIZE = (80.0, 60.0)
CELLS = GridTransform.identity(SIZE).resize((40.0, 30.0))  # two pixels a cell


def smooth(random: np.random.Generator) -> NDArray[np.float64]:
    """Whole numbers from 0 to 255, so that quantising changes no order."""
    heat = ndimage.gaussian_filter(random.normal(size=(30, 40)), 3.0)
    return np.round((heat - heat.min()) / (heat.max() - heat.min()) * 255)


def pyramid(box: tuple[int, int, int, int], *, edge: float) -> NDArray[np.float64]:
    """1 in the middle of the box (cells), `edge` at its border and 0 three cells on."""
    left, top, right, bottom = box
    rows, columns = np.mgrid[0:30, 0:40] + 0.5
    outside = np.maximum.reduce([left - columns, columns - right, top - rows, rows - bottom])
    deepest = -outside.min()
    inside = edge + (1 - edge) * -outside / deepest
    return np.where(outside < 0, inside, np.clip(edge * (1 - outside / 3), 0.0, None))


def drawn(
    random: np.random.Generator, number: int, *, edge: float, class_index: int = 0
) -> list[DrawnHeat]:
    samples = []
    for _ in range(number):
        left, top = int(random.integers(3, 15)), int(random.integers(3, 10))
        right, bottom = left + int(random.integers(8, 20)), top + int(random.integers(8, 15))
        box = (2.0 * left, 2.0 * top, 2.0 * right, 2.0 * bottom)
        heat = pyramid((left, top, right, bottom), edge=edge)
        samples.append(DrawnHeat(class_index, heat, CELLS, [box]))
    return samples


def accuracy(samples: list[DrawnHeat], threshold: float) -> float:
    hits = []
    for each in samples:
        found = find_boxes(each.heat, CELLS, threshold=threshold, select="largest")
        hits.append(bool(found) and box_ious(found[0].box, each.boxes).max() >= 0.5)
    return float(np.mean(hits))


def test_boxes_of_all_levels_are_those_found_one_threshold_at_a_time(
    random: np.random.Generator,
) -> None:
    transform = GridTransform.identity(SIZE).pad(0, 8, 4, 0).flip_horizontal().resize((40.0, 30.0))
    for heat in (smooth(random), smooth(random), np.zeros((30, 40)), np.full((30, 40), np.nan)):
        components = level_components(heat_levels(heat, threshold_mode="minmax"), transform)
        for level in range(0, 255, 6):
            expected = find_boxes(heat, transform, threshold=THRESHOLDS[level], select="largest")
            boxes = [found.box for found in expected] or [(0.0, 0.0, *SIZE)]
            quality = level_quality(components, boxes, transform, counted="largest", min_iou=0.5)
            assert quality.overlap[level] == pytest.approx(float(bool(expected)), abs=1e-9)


@pytest.mark.parametrize("counted", ["largest", "all"])
def test_quality_of_levels_equals_counting_one_threshold_at_a_time(
    counted: str, random: np.random.Generator
) -> None:
    for _ in range(4):
        heat = smooth(random)
        truth: list[BoxLTRB] = [(2, 4, 40, 30), (30, 20, 78, 58), (50, 2, 79, 24)]
        components = level_components(heat_levels(heat, threshold_mode="minmax"), CELLS)
        quality = level_quality(
            components,
            truth,
            CELLS,
            counted=counted,
            min_iou=0.3,  # type: ignore[arg-type]
        )
        for level in range(0, 255, 7):
            select = "all" if counted == "all" else "largest"
            found = find_boxes(heat, CELLS, threshold=THRESHOLDS[level], select=select)
            ious = box_ious([each.box for each in found], truth).max(axis=0, initial=0.0)
            if counted == "largest":
                expected = float(ious.max() >= 0.3), ious.max()
            else:
                both = len(found) + 3
                hits, total = min((ious >= 0.3).sum(), len(found)), min(ious.sum(), len(found))
                expected = 2 * hits / both, 2 * total / both
            assert quality.success[level] == pytest.approx(expected[0])
            assert quality.overlap[level] == pytest.approx(expected[1])


def test_crumbs_of_heat_are_no_components_while_tuning() -> None:
    """A square of 16 cells and one of a single cell; below the cut both are one with the rest."""
    heat = np.zeros((10, 10))
    heat[2:6, 2:6] = heat[8, 8] = 1.0
    levels = heat_levels(heat, threshold_mode="none")
    grid = GridTransform.identity((10, 10))
    all_of_them = level_components(levels, grid)
    without = level_components(levels, grid, BoxLimits(min_share=0.1))
    assert sorted(map(tuple, all_of_them.boxes)) == [(2, 2, 6, 6), (8, 8, 9, 9)]
    assert sorted(map(tuple, without.boxes)) == [(2, 2, 6, 6)]


def test_parts_that_get_no_box_are_no_components_while_tuning() -> None:
    """Squares of 16 and 4 cells of a hundred, and all three as one below the lowest cut."""
    heat = np.zeros((10, 10))
    heat[2:6, 2:6] = heat[7:9, 7:9] = 1.0
    levels = heat_levels(heat, threshold_mode="none")
    grid = GridTransform.identity((10, 10))

    def boxes(**limits: float) -> list[tuple[float, ...]]:
        return sorted(map(tuple, level_components(levels, grid, BoxLimits(**limits)).boxes))

    assert boxes() == boxes(min_area=0.04, max_area=0.16) == [(2, 2, 6, 6), (7, 7, 9, 9)]
    assert boxes(min_area=0.05) == [(2, 2, 6, 6)]
    assert boxes(max_area=0.15) == [(7, 7, 9, 9)]


def test_threshold_of_drawn_boxes_is_where_the_boxes_are(random: np.random.Generator) -> None:
    found = Tuning(num_classes=1, threshold_mode="minmax").with_boxes(
        drawn(random, 12, edge=0.5), random
    )
    assert abs(found.thresholds[0] - 0.5) < 0.07
    assert found.num_boxes_used == 12
    assert found.leave_one_out == 1.0
    assert found.intervals is not None
    assert found.intervals[0][0] <= found.thresholds[0] <= found.intervals[0][1]
    assert not found.is_oracle


def test_each_class_has_its_own_threshold_unless_it_has_too_few_boxes(
    random: np.random.Generator,
) -> None:
    samples = [
        *drawn(random, 8, edge=0.3, class_index=0),
        *drawn(random, 8, edge=0.7, class_index=2),
        *drawn(random, 4, edge=0.7, class_index=3),
    ]
    found = Tuning(num_classes=5, threshold_mode="minmax").with_boxes(samples, random)
    assert abs(found.thresholds[0] - 0.3) < 0.07
    assert abs(found.thresholds[2] - 0.7) < 0.07
    assert found.thresholds[1] == found.thresholds[3] == found.thresholds[4]
    together = Tuning(num_classes=5, threshold_mode="minmax", granularity="global").with_boxes(
        samples, random
    )
    assert set(together.thresholds) == {found.thresholds[1]}


def test_it_is_said_which_classes_have_a_threshold_of_their_own(
    random: np.random.Generator,
) -> None:
    two_boxes = drawn(random, 5, edge=0.5, class_index=2)
    samples = [
        *drawn(random, 8, edge=0.3, class_index=0),
        *drawn(random, 1, edge=0.7, class_index=1),
        *(replace(heat, boxes=[*heat.boxes, (0.0, 0.0, 4.0, 4.0)]) for heat in two_boxes),
    ]
    found = Tuning(num_classes=4, threshold_mode="minmax").with_boxes(samples, random)
    assert found.basis == (
        ClassBasis(8, 8, is_own=True),
        ClassBasis(1, 1, is_own=False),
        ClassBasis(5, 10, is_own=True),
        ClassBasis(0, 0, is_own=False),
    )
    assert found.num_boxes_used == 19
    assert "2 of 4 classes by themselves" in found.supervision
    together = Tuning(num_classes=4, threshold_mode="minmax", granularity="global").with_boxes(
        samples, random
    )
    assert together.basis is not None
    assert not any(basis.is_own for basis in together.basis)
    assert "one threshold" in together.supervision


def test_leave_one_out_equals_leaving_one_out(random: np.random.Generator) -> None:
    samples = [*drawn(random, 4, edge=0.3), *drawn(random, 4, edge=0.9)]
    found = Tuning(num_classes=1, threshold_mode="minmax", granularity="global").with_boxes(
        samples, random
    )
    reached = []
    for left_out in range(8):
        others = Tuning(num_classes=1, threshold_mode="minmax", granularity="global").with_boxes(
            samples[:left_out] + samples[left_out + 1 :], random
        )
        reached.append(accuracy([samples[left_out]], others.thresholds[0]))
    assert found.leave_one_out == pytest.approx(np.mean(reached))


def test_more_boxes_give_a_narrower_interval(random: np.random.Generator) -> None:
    def width(number: int) -> float:
        samples = [
            each
            for edge in np.linspace(0.2, 0.8, number)
            for each in drawn(random, 1, edge=float(edge))
        ]
        found = Tuning(num_classes=1, threshold_mode="minmax").with_boxes(samples, random)
        assert found.intervals is not None
        return found.intervals[0][1] - found.intervals[0][0]

    assert width(50) < 0.6 * width(5)


def test_resampling_is_repeatable() -> None:
    samples = [*drawn(np.random.default_rng(3), 6, edge=0.4)]
    first, second = (
        Tuning(num_classes=1, threshold_mode="minmax").with_boxes(samples, np.random.default_rng(5))
        for _ in range(2)
    )
    assert first == second


def test_a_single_drawn_box_has_no_leave_one_out_estimate(random: np.random.Generator) -> None:
    found = Tuning(num_classes=2, threshold_mode="minmax").with_boxes(
        drawn(random, 1, edge=0.4), random
    )
    assert found.leave_one_out is None
    assert found.num_boxes_used == 1


def test_the_oracle_is_not_exceeded_and_says_what_it_is(random: np.random.Generator) -> None:
    samples = [DrawnHeat(0, smooth(random), CELLS, [(10.0, 10.0, 60.0, 50.0)]) for _ in range(25)]
    oracle = Tuning(num_classes=1, threshold_mode="minmax", granularity="global").oracle(samples)
    best = max(accuracy(samples, threshold) for threshold in THRESHOLDS)
    assert accuracy(samples, oracle.thresholds[0]) == best
    assert oracle.is_oracle
    assert oracle.supervision.startswith("ORACLE")
    assert "upper bound" in oracle.supervision


def test_no_drawn_box_is_refused(random: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="no drawn box"):
        Tuning(num_classes=1, threshold_mode="minmax").with_boxes([], random)


def test_a_calibration_of_tags_alone_still_opens() -> None:
    """As weakloc wrote it while thresholds could be tuned without boxes."""
    stored = {
        "thresholds": [0.2, 0.3],
        "threshold_mode": "minmax",
        "method": "stability",
        "num_boxes_used": 0,
        "intervals": None,
        "confidence": None,
        "leave_one_out": None,
        "agreement": 0.61,
        "is_oracle": False,
        "maps": "score_map",
    }
    calibration = fit_json(stored, Calibration)
    assert calibration.thresholds == (0.2, 0.3)
    assert calibration.supervision == "image-level labels only (stability)"


def test_a_calibration_survives_json(random: np.random.Generator) -> None:
    for original in (
        Tuning(num_classes=2, threshold_mode="minmax").with_boxes(
            drawn(random, 6, edge=0.4), random
        ),
        Calibration((0.2, 0.3), "relu_max", "fixed"),
    ):
        assert (
            fit_json(json.loads(json.dumps(msgspec.to_builtins(original))), Calibration) == original
        )
