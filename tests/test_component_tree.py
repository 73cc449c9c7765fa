"""The one-pass tree against OpenCV, one threshold at a time, and against labelling in SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from weakloc.component_tree import (
    LevelBoxes,
    component_tree,
    components_at,
    hole_level_boxes,
    level_boxes,
)

Boxes = dict[int, list[tuple[int, ...]]]
STRUCTURES = {4: ndimage.generate_binary_structure(2, 1), 8: np.ones((3, 3), dtype=bool)}


def smooth(random: np.random.Generator, cells: int, height: int, width: int) -> NDArray[np.uint8]:
    coarse = random.random((cells, cells)).astype(np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return ((fine - fine.min()) / (fine.max() - fine.min()) * 255).astype(np.uint8)


MAPS: dict[str, Callable[[np.random.Generator], NDArray[np.uint8]]] = {
    "smooth 7x7": lambda random: smooth(random, 7, 71, 93),
    "smooth 14x14": lambda random: smooth(random, 14, 64, 49),
    "noise": lambda random: random.integers(0, 256, (23, 31)).astype(np.uint8),
    "plateaus": lambda random: (random.integers(0, 4, (40, 53)) * 60).astype(np.uint8),
    "holes": lambda random: (random.random((40, 53)) < 0.6).astype(np.uint8) * 200,
    "rings": lambda _: np.abs(np.indices((41, 60)) - 20).max(axis=0).astype(np.uint8) % 7,
    "one row": lambda random: random.integers(0, 256, (1, 37)).astype(np.uint8),
    "one cell": lambda _: np.array([[7]], dtype=np.uint8),
    "all zero": lambda _: np.zeros((4, 5), dtype=np.uint8),
    "all 255": lambda _: np.full((4, 5), 255, dtype=np.uint8),
}


def contour_boxes(levels: NDArray[np.uint8]) -> tuple[Boxes, Boxes]:
    """Outer and hole contours' boxes of every threshold, by border following."""
    outer: Boxes = {}
    holes: Boxes = {}
    for threshold in range(255):
        binary = (levels > threshold).astype(np.uint8)
        contours, links = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        found: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
        for index, contour in enumerate(contours):
            depth, parent = 0, links[0][index][3]
            while parent >= 0:
                depth, parent = depth + 1, links[0][parent][3]
            left, top, width, height = cv2.boundingRect(contour)
            found[depth % 2].append((left, top, left + width, top + height))
        outer[threshold], holes[threshold] = sorted(found[0]), sorted(found[1])
    return outer, holes


def by_threshold(found: LevelBoxes) -> Boxes:
    boxes: Boxes = {threshold: [] for threshold in range(255)}
    for first, last, box in zip(found.first_level, found.last_level, found.boxes, strict=True):
        for threshold in range(first, last + 1):
            boxes[threshold].append(tuple(int(side) for side in box))
    return {threshold: sorted(listed) for threshold, listed in boxes.items()}


@pytest.mark.parametrize("kind", MAPS)
def test_boxes_of_all_levels_equal_contour_following(
    kind: str, random: np.random.Generator
) -> None:
    levels = MAPS[kind](random)
    outer, holes = contour_boxes(levels)
    assert by_threshold(level_boxes(component_tree(levels))) == outer
    assert by_threshold(hole_level_boxes(levels)) == holes


@pytest.mark.parametrize("connectivity", [4, 8])
def test_components_of_float_map_equal_labelling(
    connectivity: Literal[4, 8], random: np.random.Generator
) -> None:
    heat = np.round(random.normal(size=(19, 27)), 1)
    heat[3, 4:9] = np.nan
    tree = component_tree(heat, connectivity)
    for threshold in (-np.inf, -3.0, -0.5, 0.0, 0.1, 0.25, 1.0, 2.0, 99.0):
        with np.errstate(invalid="ignore"):
            labels, number = ndimage.label(heat > threshold, STRUCTURES[connectivity])
        expected = []
        for label in range(1, number + 1):
            rows, columns = np.nonzero(labels == label)
            inside = heat[rows, columns]
            first_peak = int(np.argmax(np.where(labels == label, heat, -np.inf)))
            corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            expected.append((first_peak, len(rows), *corners, round(inside.sum(), 9)))
        nodes = components_at(tree, threshold)
        assert len(nodes) == number
        got = [
            (tree.peak[n], tree.area[n], *tree.box[n], round(tree.heat_sum[n], 9)) for n in nodes
        ]
        assert sorted(got) == sorted(expected)


def test_tree_above_a_threshold_is_the_upper_part_of_the_whole_tree(
    random: np.random.Generator,
) -> None:
    heat = random.normal(size=(12, 9))
    whole, upper = component_tree(heat), component_tree(heat, above=0.4)
    for threshold in (0.4, 0.8, 1.5):
        expected = whole.box[components_at(whole, threshold)].tolist()
        assert sorted(upper.box[components_at(upper, threshold)].tolist()) == sorted(expected)


def test_bytes_and_floats_give_the_same_tree(random: np.random.Generator) -> None:
    levels = smooth(random, 7, 31, 44)
    from_bytes, from_floats = component_tree(levels), component_tree(levels.astype(np.float32))
    assert np.array_equal(from_bytes.parent, from_floats.parent)
    assert np.array_equal(from_bytes.box, from_floats.box)
    assert np.array_equal(from_bytes.peak, from_floats.peak)


def test_single_and_double_precision_give_the_same_tree(random: np.random.Generator) -> None:
    single = np.round(random.normal(size=(23, 31)), 1).astype(np.float32)
    single[4, 5:9] = 0.0, -0.0, np.inf, -np.inf
    double = single.astype(np.float64) / 3.0  # of the same order, but no single precision holds it
    for above in (-np.inf, 0.0):
        trees = component_tree(single, above=above), component_tree(double, above=above)
        for name in ("parent", "box", "area", "peak", "first"):
            assert np.array_equal(*(getattr(tree, name) for tree in trees))


def test_children_lie_inside_their_parents_and_come_first(random: np.random.Generator) -> None:
    tree = component_tree(random.normal(size=(15, 22)))
    children = np.flatnonzero(tree.parent >= 0)
    parents = tree.parent[children]
    assert np.all(children < parents)
    assert np.all(tree.level[children] > tree.level[parents])
    assert np.all(tree.area[children] < tree.area[parents])
    assert np.all(tree.box[children][:, :2] >= tree.box[parents][:, :2])
    assert np.all(tree.box[children][:, 2:] <= tree.box[parents][:, 2:])


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (4, 0), (3, 5)])
def test_nothing_above_gives_an_empty_tree(shape: tuple[int, int]) -> None:
    tree = component_tree(np.full(shape, np.nan))
    assert len(tree.level) == 0
    assert components_at(tree, 0.0).size == 0


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="two-dimensional"):
        component_tree(np.zeros(4))
    with pytest.raises(ValueError, match="float64"):
        hole_level_boxes(np.zeros((2, 3)))  # type: ignore[arg-type]
