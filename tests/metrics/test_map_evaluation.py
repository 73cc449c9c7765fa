"""Maps of a run beside those of the baselines, in both readings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from weakloc.metrics.baselines import rectangle_rle
from weakloc.metrics.evaluation import MAP_CONVENTIONS
from weakloc.metrics.map_evaluation import ClassMap, MapEvaluation, MapSetup, reading_differences
from weakloc.metrics.max_box import MAX_BOX_ACC, MAX_BOX_ACC_V2
from weakloc.structures import TruthBox, TruthMask

from .oracles import sample

SIZE = (90, 61)
BOTH = MapSetup((MAX_BOX_ACC, replace(MAX_BOX_ACC, reading="compatible"), MAX_BOX_ACC_V2))


def _images(random, number=12):
    """Objects in a corner, a map that is high on them, and a mask that is the box."""
    images = []
    for i in range(number):
        left, top = random.integers(0, 20, 2)
        box = (float(left), float(top), left + 30.0, top + 25.0)
        small = np.zeros((SIZE[1], SIZE[0]))
        small[int(top) : int(top) + 25, int(left) : int(left) + 30] = 1.0
        rows = (np.arange(224) * SIZE[1] // 224)[:, None]
        heat = small[rows, np.arange(224) * SIZE[0] // 224] + random.random((224, 224)) * 0.3
        masks = (TruthMask(0, rectangle_rle(box, SIZE)),)
        images.append(
            (
                sample(f"{i}.jpg", [1], [TruthBox(0, box)], masks=masks),
                ClassMap(0, SIZE, {"224": heat, "original": small}),
            )
        )
    return images


def _fed(images, setup=BOTH):
    evaluation = MapEvaluation(setup)
    for each, class_map in images:
        evaluation.update(each, class_map)
    return evaluation


def test_a_map_that_is_high_on_its_object_beats_every_baseline(random):
    evaluation = _fed(_images(random))
    results = {result.name: result for result in evaluation.results(hidden_supervision=2)}
    assert results["max_box_acc"].value == results["max_box_acc_v2"].value == 1.0
    assert results["px_ap"].value > 0.95
    assert results["max_box_acc"].hidden_supervision == 12 + 2
    baselines = evaluation.baselines()
    assert set(baselines["px_ap"]) == {"center", "full_image", "random"}
    for name in ("max_box_acc", "px_ap"):
        assert max(baselines[name].values()) < results[name].value


def test_a_map_without_contrast_has_the_precision_of_chance(random):
    images = _images(random)
    share = np.mean([30 * 25 / (SIZE[0] * SIZE[1])] * len(images))
    assert _fed(images).baselines()["px_ap"]["full_image"] == pytest.approx(share, rel=0.03)


def test_the_readings_are_compared_number_by_number(random):
    results = _fed(_images(random)).results()
    values = {result.name: result.value for result in results}
    difference = values["max_box_acc_compatible"] - values["max_box_acc"]
    assert reading_differences(results) == {"max_box_acc": difference}  # V2 has one reading only


def test_images_whose_class_is_not_drawn_are_left_out(random):
    images = _images(random, 3)
    class_map = images[0][1]
    images.append((sample("bare.jpg", [1], []), replace(class_map, class_index=0)))
    results = {result.name: result for result in _fed(images).results()}
    assert results["max_box_acc"].num_images == results["px_ap"].num_images == 3
    nothing = {result.name: result for result in _fed(images[3:]).results()}
    assert nothing["max_box_acc"].unavailable == "no score map was given"
    assert nothing["px_ap"].unavailable == "no pixel belongs to an object"


def test_map_evaluations_merge(random):
    images = _images(random)
    whole, first = _fed(images), _fed(images[8:])
    first.merge(_fed(images[:8]))
    assert first.results() == whole.results()
    assert first.baselines() == whole.baselines()


def test_the_original_size_is_a_reading_of_its_own(random):
    setup = MapSetup([each for each in MAP_CONVENTIONS.values() if each.resolution == "original"])
    results = {result.name: result.value for result in _fed(_images(random), setup).results()}
    assert results["max_box_acc_original"] == results["max_box_acc_v2_original"] == 1.0
    assert len(MAP_CONVENTIONS) == 8
