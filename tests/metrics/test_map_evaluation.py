"""Maps of a run beside those of the baselines, in both readings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from weakloc.component_tree import component_tree
from weakloc.metrics import max_box
from weakloc.metrics.baselines import _kept_map, rectangle_rle
from weakloc.metrics.case import ClassIndex, ClassMap
from weakloc.metrics.evaluation import Evaluation, MetricSetup, reading_differences
from weakloc.structures import TruthBox, TruthMask

from .oracles import prediction, sample

SIZE = (90, 61)
SETUP = MetricSetup(ClassIndex(["cat"]), resamples=100)
BOTH = ("max_box_acc", "max_box_acc_compatible", "max_box_acc_v2", "pixels")


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
        images.append((sample(f"{i}.jpg", [1], [TruthBox(0, box)], masks=masks), ClassMap(0, heat)))
    return images


def _measured(images, metrics=BOTH, **supervision):
    """The numbers by their names."""
    kinds = {"truth": {"boxes", "masks"}, "predicted": {"maps"}}
    evaluation = Evaluation(SETUP, **kinds, metrics=metrics)
    for each, class_map in images:
        said = prediction(each.name, size=SIZE)
        evaluation.update(SETUP.case(each, said, [class_map]))
    return {result.name: result for result in evaluation.results(**supervision)}


def test_a_map_that_is_high_on_its_object_beats_every_baseline(random):
    results = _measured(_images(random), hidden_supervision=7, in_training=2)
    assert results["max_box_acc"].value == results["max_box_acc_v2"].value == 1.0
    assert results["px_ap"].value > 0.95
    assert results["max_box_acc"].hidden_supervision == 12 + 2
    assert set(results["px_ap"].baselines) == {"center", "full_image", "random"}
    for name in ("max_box_acc", "px_ap"):
        assert max(results[name].baselines.values()) < results[name].value


def test_a_map_without_contrast_has_the_precision_of_chance(random):
    images = _images(random)
    share = np.mean([30 * 25 / (SIZE[0] * SIZE[1])] * len(images))
    baselines = _measured(images)["px_ap"].baselines
    assert baselines["full_image"] == pytest.approx(share, rel=0.03)


def test_the_readings_are_compared_number_by_number(random):
    results = _measured(_images(random))
    values = {name: result.value for name, result in results.items()}
    difference = values["max_box_acc_compatible"] - values["max_box_acc"]
    # V2 was asked for in one reading only.
    assert reading_differences(results.values()) == {"max_box_acc": difference}


def test_images_whose_class_is_not_drawn_are_left_out(random):
    images = _images(random, 3)
    class_map = images[0][1]
    images.append((sample("bare.jpg", [1], []), class_map))
    results = _measured(images)
    assert results["max_box_acc"].num_images == results["px_ap"].num_images == 3
    nothing = _measured(images[3:])
    assert nothing["max_box_acc"].unavailable == "no score map was given"
    assert nothing["px_ap"].unavailable == "no pixel belongs to an object"


def test_a_map_is_cut_into_components_once_for_all_that_reads_it(random, monkeypatch):
    shapes = []

    def counted(levels, connectivity):
        shapes.append(levels.shape)
        return component_tree(levels, connectivity)

    monkeypatch.setattr(max_box, "component_tree", counted)
    _kept_map.cache_clear()
    _measured(_images(random, 6), ("max_box_acc", "max_box_acc_v2"))
    # Of the run and of noise one for each image; center and full image are the same for all.
    assert shapes == [(224, 224)] * (2 * 6 + 2)


def test_each_class_that_is_present_counts_for_itself(random):
    (known, cat_map), *_ = _images(random, 1)
    setup = MetricSetup(ClassIndex(["cat", "dog"]), resamples=10)
    kinds = {"truth": {"boxes"}, "predicted": {"maps"}}
    evaluation = Evaluation(setup, **kinds, metrics=("max_box_acc",))
    (drawn,) = known.truth.boxes
    both = sample("two.jpg", [1, 1], [drawn, replace(drawn, class_index=1)])
    maps = [cat_map, ClassMap(1, -cat_map.scores)]
    evaluation.update(setup.case(both, prediction("two.jpg", size=SIZE), maps))
    (result,) = evaluation.results()
    assert (result.num_images, result.value) == (2, 0.5)
