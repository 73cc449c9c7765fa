"""Points against boxes: hand-made images whose verdict is plain, and identities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weakloc.errors import PredictionsError
from weakloc.metrics.average_precision import RankingConvention
from weakloc.metrics.case import ClassIndex, MetricSetup
from weakloc.metrics.hits import pointing_accuracy
from weakloc.metrics.image_rankings import (
    TOLERANCES,
    ClassificationPrecision,
    PointConvention,
    PointPrecision,
)
from weakloc.structures import TruthBox

from .oracles import case, prediction, sample

CLASSES = ClassIndex(["cat"])
SETUP = MetricSetup(CLASSES)
BOX = (10.0, 5.0, 30.0, 25.0)
INSIDE, OUTSIDE = (12.0, 20.0), (50.0, 20.0)


def _measured(images, accumulator=None):
    """Images are (score, place, label, boxes)."""
    accumulator = accumulator or PointPrecision(SETUP)
    for number, (score, place, label, boxes) in enumerate(images):
        name = f"{number}.jpg"
        points = [] if place is None else [("cat", *place, 0.5)]
        known, said = sample(name, [label], boxes), prediction(name, {"cat": score}, points=points)
        accumulator.update(case(known, said, CLASSES))
    return accumulator.compute()[0]


def test_hit_negative_miss_hit_has_its_published_value():
    """MET-03: AP 0.5 where the classification AP of the same ranking is 0.8333."""
    images = [
        (0.9, INSIDE, 1, [TruthBox(0, BOX)]),
        (0.8, INSIDE, -1, []),
        (0.7, OUTSIDE, 1, [TruthBox(0, BOX)]),
        (0.6, INSIDE, 1, [TruthBox(0, BOX)]),
    ]
    assert _measured(images).value == pytest.approx(0.5)
    tags = _measured(images, ClassificationPrecision(SETUP))
    assert tags.value == pytest.approx(0.833333, abs=1e-6)


def test_an_image_with_difficult_objects_only_is_ignored():
    """MET-04."""
    easy = [(0.5, INSIDE, 1, [TruthBox(0, BOX)])]
    for place in (INSIDE, OUTSIDE):
        hard = (0.9, place, 0, [TruthBox(0, BOX, difficult=True)])
        assert _measured([hard, *easy]).value == 1.0
    assert _measured([hard]).value is None


def test_a_second_object_of_the_class_does_not_change_the_number_of_positives():
    """MET-04."""
    two = [TruthBox(0, BOX), TruthBox(0, (40.0, 0.0, 60.0, 40.0))]
    assert _measured([(0.5, INSIDE, 1, two)]).value == 1.0
    assert _measured([(0.5, OUTSIDE, 1, two)]).value == 1.0


def test_hitting_only_a_difficult_object_is_no_false_alarm_and_no_hit():
    both = [TruthBox(0, BOX), TruthBox(0, (40.0, 0.0, 60.0, 40.0), difficult=True)]
    images = [(0.9, OUTSIDE, 1, both), (0.5, INSIDE, 1, [TruthBox(0, BOX)])]
    result = _measured(images)
    assert result.value == pytest.approx(0.5)  # recall stops at one of two, precision stays 1


def test_unknown_and_undrawn_classes_are_ignored_and_absent_ones_are_not():
    hit = (0.5, INSIDE, 1, [TruthBox(0, BOX)])
    assert _measured([(0.9, INSIDE, 0, []), hit]).value == 1.0
    assert _measured([(0.9, INSIDE, 1, []), hit]).value == 1.0
    assert _measured([(0.9, INSIDE, -1, []), hit]).value == 0.5


def test_an_image_without_a_point_is_missed_and_counted():
    images = [(0.9, None, 1, [TruthBox(0, BOX)]), (0.5, INSIDE, 1, [TruthBox(0, BOX)])]
    result = _measured(images)
    assert result.value == 0.5
    assert result.details["num_missing_points"] == 1


@given(distance=st.floats(0.0, 40.0), tolerance=st.sampled_from(sorted(TOLERANCES.values())))
def test_the_tolerance_counts_points_nearer_than_itself(distance, tolerance):
    """MET-07."""
    place = (BOX[2] + distance, 10.0)
    accumulator = PointPrecision(SETUP, PointConvention(tolerance=tolerance))
    result = _measured([(0.5, place, 1, [TruthBox(0, BOX)])], accumulator)
    assert result.value == float(place[0] < BOX[2] + tolerance)


def test_boxes_are_half_open_without_tolerance():
    for place, hit in (((10, 5), 1), ((29.99, 24.99), 1), ((30, 24), 0), ((29, 25), 0)):
        assert _measured([(0.5, place, 1, [TruthBox(0, BOX)])]).value == hit


@settings(max_examples=30, deadline=None)
@given(
    labels=st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=20),
    definition=st.sampled_from(["voc12", "voc07", "nonint"]),
)
def test_with_a_perfect_locator_point_precision_is_classification_precision(labels, definition):
    """MET-06."""
    convention = RankingConvention((definition,))
    scores = np.random.default_rng(0).permutation(len(labels))
    images = [
        (float(score), INSIDE, label, [TruthBox(0, BOX)] if label > 0 else [])
        for score, label in zip(scores, labels, strict=True)
    ]
    points = _measured(images, PointPrecision(MetricSetup(CLASSES, convention)))
    tags = _measured(images, ClassificationPrecision(MetricSetup(CLASSES, convention)))
    assert points.value == tags.value


def test_ranking_by_heat_uses_the_heat_of_the_best_point():
    """The class score ranks the false alarm first, the heat ranks the hit first."""
    classes = ClassIndex(["cat"])
    by_heat = PointPrecision(MetricSetup(classes), PointConvention(rank_by="heat"))
    by_class = PointPrecision(MetricSetup(classes))
    images = [("a", 1, 0.3, 5.0), ("b", -1, 0.6, -2.0), ("c", -1, 0.1, -7.0)]
    for name, label, score, heat in images:
        truth = [TruthBox(0, BOX)] if label > 0 else []
        points = [("cat", *INSIDE, score, heat), ("cat", *OUTSIDE, score, heat - 1)]
        for accumulator in (by_heat, by_class):
            said = prediction(name, {"cat": score}, points=points)
            accumulator.update(case(sample(name, [label], truth), said, classes))
    assert by_heat.compute()[0].value == 1.0
    assert by_class.compute()[0].value == 0.5


def test_ranking_by_heat_uses_the_score_of_points_that_say_no_heat():
    classes = ClassIndex(["cat"])
    accumulator = PointPrecision(MetricSetup(classes), PointConvention(rank_by="heat"))
    said = prediction("a", points=[("cat", *OUTSIDE, 0.2), ("cat", *INSIDE, 0.4)])
    accumulator.update(case(sample("a", [1], [TruthBox(0, BOX)]), said, classes))
    said = prediction("b", points=[("cat", *INSIDE, 0.3)])
    accumulator.update(case(sample("b", [-1], []), said, classes))
    assert accumulator.compute()[0].value == 1.0
    by_class = PointPrecision(MetricSetup(classes))
    with pytest.raises(PredictionsError, match="has a point but no score"):
        by_class.update(case(sample("b", [-1], []), said, classes))


def test_pointing_accuracy_is_a_mean_over_classes_and_counts_difficult_objects():
    classes = ClassIndex(["cat", "dog"])
    accumulator = pointing_accuracy(MetricSetup(classes))
    near, far = (BOX[2] + 15.0, 10.0), (BOX[2] + 15.01, 10.0)
    for number, place in enumerate([near, far, INSIDE]):
        objects = [TruthBox(0, BOX, difficult=True), TruthBox(1, BOX)]
        said = prediction(f"{number}", points=[("cat", *place, 0.1), ("dog", *INSIDE, 0.1)])
        accumulator.update(case(sample(f"{number}", [0, 1], objects), said, classes))
    (result,) = accumulator.compute()
    assert result.name == "pointing_accuracy"
    assert result.per_class == pytest.approx({"cat": 2 / 3, "dog": 1.0})
    assert result.value == pytest.approx(5 / 6)


def test_an_image_without_truth_is_judged_for_its_absent_classes_alone():
    hit = (0.5, INSIDE, 1, [TruthBox(0, BOX)])
    assert _measured([(0.9, INSIDE, -1, None), hit]).value == 0.5
    assert _measured([(0.9, INSIDE, 1, None), hit]).value == 1.0
