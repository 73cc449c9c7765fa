"""Class scores against tags: per-class precision and accuracies."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, top_k_accuracy_score

from weakloc.errors import DataError, PredictionsError
from weakloc.metrics.average_precision import RankingConvention
from weakloc.metrics.case import ClassIndex, MetricSetup
from weakloc.metrics.hits import accuracy
from weakloc.metrics.image_rankings import ClassificationPrecision

from .oracles import case, prediction, sample, slow_average_precision

NAMES = ("cat", "dog", "cow")
SETUP = MetricSetup(ClassIndex(NAMES))


def _fed(accumulator, scores, labels, order=None, names=NAMES):
    classes = ClassIndex(names)
    for i in range(len(scores)) if order is None else order:
        named = dict(zip(names, map(float, scores[i]), strict=True))
        known, said = sample(f"{i:03}.jpg", labels[i]), prediction(f"{i:03}.jpg", named)
        accumulator.update(case(known, said, classes, resamples=100))
    return accumulator


def test_every_class_equals_scikit_learn_where_the_definitions_coincide(random):
    scores = np.round(random.random((60, 3)), 1)
    labels = random.integers(0, 2, (60, 3)) * 2 - 1
    convention = RankingConvention(definitions=("nonint",), ties="grouped")
    (result,) = _fed(
        ClassificationPrecision(MetricSetup(ClassIndex(NAMES), convention)), scores, labels
    ).compute()
    expected = [average_precision_score(labels[:, c] > 0, scores[:, c]) for c in range(3)]
    assert list(result.per_class.values()) == pytest.approx(expected, abs=1e-12)
    assert result.value == pytest.approx(np.mean(expected), abs=1e-12)


def test_unknown_tags_are_skipped_and_classes_without_positives_are_listed(random):
    """MET-10."""
    scores = random.random((30, 3))
    labels = random.integers(-1, 2, (30, 3))
    labels[:, 1] = np.where(labels[:, 1] > 0, 0, labels[:, 1])
    (result,) = _fed(ClassificationPrecision(SETUP), scores, labels).compute()
    expected = {
        NAMES[c]: slow_average_precision(
            scores[:, c], labels[:, c], (labels[:, c] > 0).sum(), "voc12"
        )
        for c in (0, 2)
    }
    assert result.left_out == ("dog",)
    assert result.per_class == pytest.approx(expected)
    assert result.value == pytest.approx(np.mean(list(expected.values())))
    assert "voc12" in result.convention


def test_order_and_merging_change_no_bit(random):
    scores = np.round(random.random((40, 3)), 1)
    labels = random.integers(-1, 2, (40, 3))
    whole = _fed(ClassificationPrecision(SETUP), scores, labels)
    shuffled = random.permutation(40)
    first = _fed(ClassificationPrecision(SETUP), scores, labels, shuffled[:15])
    first.merge(_fed(ClassificationPrecision(SETUP), scores, labels, shuffled[15:]))
    assert first.compute() == whole.compute()
    assert np.array_equal(first.compute()[0].replicates, whole.compute()[0].replicates)


def test_an_image_that_two_processes_measured_is_an_error(random):
    first = _fed(ClassificationPrecision(SETUP), np.ones((2, 3)), np.ones((2, 3)))
    second = _fed(ClassificationPrecision(SETUP), np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(PredictionsError, match=r"000\.jpg.*twice"):
        first.merge(second)


def test_without_any_positive_the_result_says_so():
    for labels in (np.empty((0, 3)), -np.ones((4, 3))):
        (result,) = _fed(ClassificationPrecision(SETUP), np.ones_like(labels), labels).compute()
        assert result.value is None
        assert result.unavailable == "no class has a positive"
        assert result.left_out == NAMES
        json.dumps(msgspec.to_builtins(result.record), allow_nan=False)


def test_a_missing_class_score_is_an_error():
    accumulator = ClassificationPrecision(SETUP)
    said = prediction("a.jpg", {"cat": 1, "dog": 0})
    with pytest.raises(PredictionsError, match=r"a\.jpg: class 'cow' has no score"):
        accumulator.update(case(sample("a.jpg", [1, -1, -1]), said, ClassIndex(NAMES)))


def test_accuracies_equal_scikit_learn(random):
    names = tuple("abcdefgh")
    scores = random.permuted(np.tile(np.arange(8.0), (50, 1)), axis=1)
    truth = random.integers(0, 7, 50)  # one class has no image
    labels = np.where(np.arange(8) == truth[:, None], 1, -1)
    results = {
        result.name: result
        for result in _fed(
            accuracy(MetricSetup(ClassIndex(names))), scores, labels, names=names
        ).compute()
    }
    for k in (1, 5):
        expected = top_k_accuracy_score(truth, scores, k=k, labels=np.arange(8))
        assert results[f"top_{k}_accuracy"].value == pytest.approx(expected)
    expected = np.mean([(scores[truth == c].argmax(1) == c).mean() for c in range(7)])
    assert results["mean_class_accuracy"].value == pytest.approx(expected)
    assert results["mean_class_accuracy"].left_out == ("h",)


def test_on_a_balanced_set_mean_class_accuracy_is_accuracy(random):
    truth = np.repeat(np.arange(3), 10)
    scores = random.random((30, 3))
    labels = np.where(np.arange(3) == truth[:, None], 1, -1)
    results = {r.name: r for r in _fed(accuracy(SETUP), scores, labels).compute()}
    assert results["mean_class_accuracy"].value == pytest.approx(results["top_1_accuracy"].value)
    assert results["mean_class_accuracy"].value == pytest.approx(
        balanced_accuracy_score(truth, scores.argmax(1))
    )
    assert "top_5_accuracy" not in results


def test_equal_scores_go_to_the_earlier_class():
    labels = [[1, -1, -1], [-1, 1, -1]]
    top_1 = _fed(accuracy(SETUP), np.ones((2, 3)), labels).compute()[0]
    assert top_1.per_class == {"cat": 1.0, "dog": 0.0}


def test_accuracy_of_an_image_with_two_tags_is_an_error():
    with pytest.raises(DataError, match="2 classes are present"):
        _fed(accuracy(SETUP), np.ones((1, 3)), [[1, 1, -1]])
