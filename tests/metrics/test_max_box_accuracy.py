"""All thresholds in one pass against OpenCV and SciPy, one threshold and map at a time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from weakloc.errors import PredictionsError
from weakloc.metrics.case import ClassMap
from weakloc.metrics.max_box import (
    MAX_BOX_ACC,
    MAX_BOX_ACC_V2,
    MapConvention,
    MaxBoxAccuracy,
    best_overlaps,
    largest_by_contour,
    normalize_map,
    read_levels,
)
from weakloc.metrics.uncertainty import draw_image

from .maps import random_maps
from .oracles import slow_iou

HEIGHT, WIDTH = 24, 31
IMAGE_SIZE = (93, 50)
RESAMPLES = 100


def _objects(random):
    corners = random.random((random.integers(1, 4), 2)) * np.array([60.0, 30.0])
    sides = 3 + random.random(corners.shape) * np.array([50.0, 30.0])
    return np.concatenate([corners, np.minimum(corners + sides, IMAGE_SIZE)], axis=1)


def _levels(score_map, convention):
    return read_levels(normalize_map(score_map, image="a"), convention)


def _contour_boxes(binary, contours):
    """The public evaluator's boxes of one thresholded map."""
    found, _ = cv2.findContours(binary.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return [(0, 0, 0, 0)]
    if contours == "largest":
        found = [max(found, key=cv2.contourArea)]
    boxes = [cv2.boundingRect(contour) for contour in found]
    height, width = binary.shape
    return [(x, y, min(x + w, width - 1), min(y + h, height - 1)) for x, y, w, h in boxes]


def _slow_compatible(score_map, objects, contours, thresholds):
    lifted = score_map - score_map.min()
    normalized = lifted / lifted.max() if lifted.max() > 0 else np.zeros_like(lifted)
    heat = (normalized * 255).astype(np.uint8)
    height, width = heat.shape
    scale = [width / IMAGE_SIZE[0], height / IMAGE_SIZE[1]] * 2
    drawn = [tuple(int(side * k) for side, k in zip(box, scale, strict=True)) for box in objects]
    levels = [int(tau * heat.max()) for tau in thresholds]
    best = {
        level: max(
            slow_iou(a, b, extra=1.0) for a in _contour_boxes(heat > level, contours) for b in drawn
        )
        for level in set(levels)
    }
    return [best[level] for level in levels]


def _slow_clean(score_map, objects, contours, thresholds):
    lifted = score_map - score_map.min()
    normalized = lifted / lifted.max() if lifted.max() > 0 else np.zeros_like(lifted)
    height, width = normalized.shape
    drawn = objects * np.array([width / IMAGE_SIZE[0], height / IMAGE_SIZE[1]] * 2)
    best = []
    for tau in thresholds:
        labels, number = ndimage.label(normalized > tau, np.ones((3, 3)))  # in row-major order
        places = ndimage.find_objects(labels)
        if contours == "largest" and number:
            places = [places[np.bincount(labels[labels > 0])[1:].argmax()]]
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in places]
        best.append(max((slow_iou(a, b) for a in boxes for b in drawn), default=0.0))
    return best


@pytest.mark.parametrize("contours", ["largest", "all"])
def test_the_compatible_reading_equals_one_contour_search_a_threshold_on_1000_maps(contours):
    random = np.random.default_rng(1)
    convention = MapConvention(contours, (0.5,), "compatible", step=0.001)
    levels = (convention.thresholds * 255).astype(int)
    # 1,000 thresholds are 255 distinct ones; a few of them a map, different ones each time.
    for score_map in random_maps(1000, seed=1):
        objects = _objects(random)
        ours = best_overlaps(_levels(score_map, convention), objects, IMAGE_SIZE, convention)
        chosen = np.sort(random.choice(convention.thresholds.size, 8, replace=False))
        slow = _slow_compatible(score_map, objects, contours, convention.thresholds[chosen])
        assert ours[levels[chosen]].tolist() == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("contours", ["largest", "all"])
def test_the_clean_reading_equals_labelling_the_map_at_each_threshold_on_1000_maps(contours):
    random = np.random.default_rng(2)
    convention = MapConvention(contours, (0.5,))
    for score_map in random_maps(1000, seed=2):
        objects = _objects(random)
        ours = best_overlaps(_levels(score_map, convention), objects, IMAGE_SIZE, convention)
        chosen = np.sort(random.choice(100, 8, replace=False))
        slow = _slow_clean(score_map, objects, contours, convention.thresholds[chosen])
        assert ours[chosen].tolist() == pytest.approx(slow, abs=1e-12)


def test_the_largest_contour_is_the_one_opencv_takes_at_every_level():
    for score_map in random_maps(60, seed=3):
        heat, tree = _levels(score_map, MapConvention(reading="compatible"))
        for level, node in enumerate(largest_by_contour(heat, tree)):
            found, _ = cv2.findContours(
                (heat > level).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE
            )
            if not found:
                assert node == -1
                continue
            x, y, w, h = cv2.boundingRect(max(found, key=cv2.contourArea))
            assert tree.box[node].tolist() == [x, y, x + w, y + h]


def test_levels_tell_every_threshold_apart_exactly(random):
    thresholds = np.arange(0, 1, 0.01)
    scores = np.concatenate([thresholds, np.nextafter(thresholds, 2), random.random(500), [1.0]])
    levels = read_levels(scores[None], MapConvention()).of_cells[0]
    assert levels.tolist() == [(thresholds < score).sum() for score in scores]


def _fed(convention, maps, truths, order=None, resamples=RESAMPLES):
    accuracy = MaxBoxAccuracy(convention)
    for i in range(len(maps)) if order is None else order:
        draw = draw_image(f"{i}.jpg", resamples)
        accuracy.add(draw, ClassMap(0, maps[i]), truths[i], (WIDTH, HEIGHT))
    return accuracy


def _material(number=40):
    random = np.random.default_rng(5)
    truths = [np.minimum(_objects(random), [WIDTH, HEIGHT] * 2) for _ in range(number)]
    truths = [box[(box[:, 2:] > box[:, :2]).all(1)] for box in truths]
    keep = [i for i in range(number) if len(truths[i])]
    maps = random_maps(number, seed=5)
    return [maps[i] for i in keep], [truths[i] for i in keep]


@pytest.mark.parametrize("reading", ["clean", "compatible"])
def test_the_accuracy_is_the_best_threshold_of_the_whole_set_and_not_of_each_map(reading):
    maps, truths = _material()
    convention = MapConvention("all", (0.3, 0.5, 0.7), reading)
    per_image = np.array(
        [
            best_overlaps(_levels(m, convention), t, (WIDTH, HEIGHT), convention)
            for m, t in zip(maps, truths, strict=True)
        ]
    )
    levels = np.arange(100)
    if reading == "compatible":
        levels = (convention.thresholds * 255).astype(int)
    expected = [(per_image[:, levels] >= iou).mean(0).max() for iou in convention.ious]
    (result,) = _fed(convention, maps, truths).compute()
    assert result.value == pytest.approx(np.mean(expected))
    each_its_own = np.mean([(per_image.max(1) >= iou).mean() for iou in convention.ious])
    assert each_its_own > result.value
    k = result.curves["accuracy_50"].values.index(result.details["accuracy_50"])
    assert result.details["threshold_50"] == pytest.approx(0.01 * k)
    assert result.hidden_supervision == sum(map(len, truths))
    assert reading in result.convention


def test_accuracies_fall_with_the_iou_and_rise_with_the_number_of_contours():
    """MET-09."""
    maps, truths = _material()
    ious = (0.3, 0.5, 0.7)
    curves = {}
    for contours in ("largest", "all"):
        convention = MapConvention(contours, ious)
        (result,) = _fed(convention, maps, truths).compute()
        curves[contours] = np.array(
            [result.curves[f"accuracy_{100 * iou:g}"].values for iou in ious]
        )
        assert (np.diff(curves[contours], axis=0) <= 0).all()
        assert result.details["accuracy_50"] == curves[contours][1].max()
    assert (curves["all"] >= curves["largest"]).all()
    (result,) = _fed(MAX_BOX_ACC, maps, truths).compute()
    assert result.value >= curves["largest"][1].max()


def test_the_order_of_the_images_changes_no_bit():
    maps, truths = _material()
    whole = _fed(MAX_BOX_ACC_V2, maps, truths).compute()[0]
    order = np.random.default_rng(0).permutation(len(maps))
    (again,) = _fed(MAX_BOX_ACC_V2, maps, truths, order).compute()
    assert again == whole
    assert np.array_equal(again.replicates, whole.replicates)


def test_without_resamples_the_value_is_the_same_and_has_no_interval():
    maps, truths = _material()
    whole = _fed(MAX_BOX_ACC_V2, maps, truths).compute()[0]
    (plain,) = _fed(MAX_BOX_ACC_V2, maps, truths, resamples=0).compute()
    assert plain.value == whole.value
    assert whole.interval is not None
    assert plain.interval is None


def test_a_square_blob_on_its_object_is_found_at_every_threshold_by_both_readings():
    score_map = np.zeros((224, 224))
    score_map[20:100, 40:160] = 0.8
    values = {}
    for reading in ("clean", "compatible"):
        accuracy = MaxBoxAccuracy(MapConvention("all", (0.3, 0.5, 0.7), reading))
        objects = np.array([(80.0, 30.0, 320.0, 150.0)])
        accuracy.add(draw_image("a", 0), ClassMap(0, score_map), objects, (448, 336))
        (result,) = accuracy.compute()
        values[result.name] = set(result.curves["accuracy_70"].values)
    assert values == {"max_box_acc_v2": {1.0}, "max_box_acc_v2_compatible": {1.0}}


def test_bad_maps_are_errors_by_name():
    accuracy = MaxBoxAccuracy(MAX_BOX_ACC)
    drawn = np.array([(0.0, 0.0, 9.0, 9.0)])
    first = draw_image("a.jpg", 0)
    broken = np.full((224, 224), np.nan)
    with pytest.raises(PredictionsError, match=r"a\.jpg: the score map holds values"):
        accuracy.add(first, ClassMap(0, broken), drawn, (60, 40))
    assert accuracy.compute()[0].unavailable == "no score map was given"
    with pytest.raises(ValueError, match="255 apart"):
        MapConvention(step=0.001)
