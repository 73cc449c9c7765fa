"""Trivial answers, through the same accumulators as the run's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakloc.geometry import box_area
from weakloc.metrics.average_precision import Definition, RankingConvention
from weakloc.metrics.baselines import BASELINES, MAPS, baseline_prediction, rectangle_rle
from weakloc.metrics.boxes import BoxPrecision
from weakloc.metrics.case import ClassIndex, ClassMap, MetricSetup
from weakloc.metrics.image_rankings import ClassificationPrecision, PointPrecision
from weakloc.metrics.max_box import MAX_BOX_ACC, MaxBoxAccuracy
from weakloc.metrics.uncertainty import draw_image
from weakloc.rle import decode_mask
from weakloc.structures import Mask, TruthBox

from .oracles import case, prediction, sample

CLASSES = ClassIndex(["cat", "dog"])
SETUP = MetricSetup(CLASSES)
SCORES = {"cat": 0.9, "dog": 0.2}


def _value(accumulator, drawn, said):
    accumulator.update(case(sample("a", [1, -1], drawn), said, CLASSES))
    return accumulator.compute()[0].value


def test_an_object_in_the_middle_is_found_by_the_centre_and_one_aside_is_not():
    said = baseline_prediction("center", prediction("a", SCORES))
    middle, aside = TruthBox(0, (10.0, 5.0, 50.0, 35.0)), TruthBox(0, (0.0, 0.0, 9.0, 40.0))
    for make in (PointPrecision, BoxPrecision):
        assert _value(make(SETUP), [middle], said) == 1.0
        assert _value(make(SETUP), [aside], said) == 0.0


def test_the_full_image_box_finds_an_object_that_fills_half_of_it():
    said = baseline_prediction("full_image", prediction("a", SCORES))
    half, less = TruthBox(0, (0.0, 0.0, 30.0, 40.0)), TruthBox(0, (0.0, 0.0, 29.0, 40.0))
    assert _value(BoxPrecision(SETUP), [half], said) == 1.0
    assert _value(BoxPrecision(SETUP), [less], said) == 0.0


def test_the_central_box_covers_half_of_the_image():
    said = baseline_prediction("center", prediction("a", SCORES))
    assert box_area(said.boxes[0].box) == pytest.approx(0.5 * 60 * 40)


def test_baselines_keep_the_scores_and_give_each_class_one_place():
    own = prediction(
        "a",
        {"cat": 0.9},
        points=[("cat", 5, 5, 0.9, -2.0), ("cat", 6, 5, 0.9, 3.5)],
        boxes=[("dog", (0, 0, 1, 1), 0.3), ("dog", (0, 0, 2, 2), 0.4)],
        masks=(Mask("dog", rectangle_rle((0, 0, 3, 3), (60, 40)), 0.6),),
    )
    for name in ("center", "full_image", "random"):
        said = baseline_prediction(name, own)
        assert said.scores == own.scores
        assert {box.class_name: box.score for box in said.boxes} == {"cat": 0.9, "dog": 0.6}
        assert [(point.class_name, point.heat) for point in said.points] == [
            ("cat", 3.5),
            ("dog", None),
        ]
        assert [mask.class_name for mask in said.masks] == ["dog"]


def test_random_places_depend_on_image_and_seed_alone_and_are_uniform():
    said = [baseline_prediction("random", prediction(str(i), SCORES)) for i in range(2000)]
    again = baseline_prediction("random", prediction("7", SCORES, boxes=[("cat", (0,) * 4, 1)]))
    assert again.points == said[7].points
    x = np.array([each.points[0].x for each in said])
    y = np.array([each.points[0].y for each in said])
    assert (x.mean(), y.mean()) == pytest.approx((30, 20), rel=0.05)
    assert (x.std(), y.std()) == pytest.approx((60 / 12**0.5, 40 / 12**0.5), rel=0.05)
    inside = [0 <= b[0] <= b[2] <= 60 and 0 <= b[1] <= b[3] <= 40 for b in boxes_of(said)]
    assert all(inside)


def boxes_of(predictions):
    return [each.boxes[0].box for each in predictions]


@pytest.mark.parametrize("definition", ["voc12", "voc07", "nonint"])
def test_the_chance_precision_is_the_frequency_of_the_class(definition: Definition, random):
    convention = RankingConvention((definition,), "grouped")
    accumulator = ClassificationPrecision(MetricSetup(CLASSES, convention))
    labels = np.where(random.random((50, 2)) < 0.3, 1, -1)
    for number, row in enumerate(labels):
        said = prediction(str(number), {"cat": random.random(), "dog": random.random()})
        trivial = baseline_prediction("chance", said)
        accumulator.update(case(sample(str(number), row), trivial, CLASSES))
    (result,) = accumulator.compute()
    assert list(result.per_class.values()) == pytest.approx((labels > 0).mean(0).tolist())


def test_baseline_maps_find_what_they_point_at():
    values = {}
    for name in MAPS:
        accuracy = MaxBoxAccuracy(MAX_BOX_ACC)
        for number, box in enumerate([(70, 50, 330, 250), (0, 0, 400, 300), (0, 0, 60, 60)]):
            heat = MAPS[name](224, 224, np.random.default_rng(number))
            draw = draw_image(str(number), 0)
            drawn = np.array([box], dtype=float)
            accuracy.add(draw, ClassMap(0, heat), drawn, (400, 300))
        values[name] = accuracy.compute()[0].value
    assert values["center"] == pytest.approx(2 / 3)
    assert values["full_image"] == pytest.approx(1 / 3)
    assert set(values) | {"chance"} == set(BASELINES)


BOXES = st.tuples(*[st.integers(-5, 70)] * 4)


@given(box=BOXES)
def test_rectangles_as_run_lengths_cover_their_pixels(box):
    expected = np.zeros((40, 60), dtype=bool)
    left, top, right, bottom = (max(side, 0) for side in box)
    expected[top:bottom, left:right] = True
    assert np.array_equal(decode_mask(rectangle_rle(box, (60, 40))), expected)
