"""The logistic regression of scores against a slow minimiser, and what it does with few tags."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from weakloc.predictor.score_fusion import fit_late_classifier
from weakloc.structures import ABSENT, PRESENT, UNKNOWN


@pytest.mark.parametrize("separable", [False, True])
def test_weights_minimise_the_stated_loss(random: np.random.Generator, separable: bool) -> None:
    logits = random.normal(size=(60, 5, 1)) * 3 + 1
    slope = logits[:, :, 0] @ np.array([1.0, -2.0, 0.5, 0.0, 0.0]) - 0.7
    noise = 0.0 if separable else 6.0
    signs = np.where(slope + noise * random.normal(size=60) > 0, 1, -1)
    late = fit_late_classifier(logits, np.where(signs > 0, PRESENT, ABSENT)[:, None].astype("i1"))
    standard = (logits[:, :, 0] - logits[:, :, 0].mean(0)) / logits[:, :, 0].std(0)

    def loss(values: np.ndarray) -> float:
        margins = signs * (standard @ values[:5] + values[5])
        return float(np.logaddexp(0, -margins).sum() + 0.5 * (values[:5] ** 2).sum())

    best = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(late.weights[0], best[:5], rtol=1e-4, atol=1e-5)
    assert late.biases[0] == pytest.approx(best[5], rel=1e-4, abs=1e-5)


def test_scores_of_all_networks_and_classes_are_weighed(random: np.random.Generator) -> None:
    """Class 1 shows only in how the second network scores class 0."""
    logits = random.normal(size=(200, 2, 3)) * 5 + 2
    labels = np.full((200, 3), ABSENT, dtype=np.int8)
    labels[logits[:, 1, 0] > 3, 1] = PRESENT
    late = fit_late_classifier(logits[:100], labels[:100])
    found = np.array([late(row)[1] for row in logits[100:]])
    assert ((found > 0.5) == (labels[100:, 1] == PRESENT)).mean() > 0.9
    assert np.argmax(np.abs(late.weights[1])) == 3  # network 1, class 0 of 3


def test_the_range_of_a_networks_scores_gives_it_no_weight(random: np.random.Generator) -> None:
    """Object-Bank fusion is regularised: scores that are not standardised would be."""
    logits = random.normal(size=(50, 2, 2))
    noise = random.normal(size=(50, 2))
    labels = np.where(logits.sum(axis=1) + noise > 0, PRESENT, ABSENT).astype(np.int8)
    wide = logits * [[1.0], [40.0]] + [[0.0], [-7.0]]
    plain, stretched = fit_late_classifier(logits, labels), fit_late_classifier(wide, labels)
    for row, same in zip(logits, wide, strict=True):
        assert stretched(same) == pytest.approx(plain(row), abs=1e-6)


def test_unknown_tags_do_not_count(random: np.random.Generator) -> None:
    logits = random.normal(size=(40, 2, 1))
    labels = np.where(logits[:, 0] > 0, PRESENT, ABSENT).astype(np.int8)
    hidden = labels.copy()
    hidden[10:20] = UNKNOWN
    some = fit_late_classifier(logits, hidden)
    flipped = labels.copy()
    flipped[10:20] = -flipped[10:20]
    assert not np.allclose(some.weights, fit_late_classifier(logits, flipped).weights)
    spoiled = np.where(hidden == UNKNOWN, UNKNOWN, labels).astype(np.int8)
    np.testing.assert_array_equal(some.weights, fit_late_classifier(logits, spoiled).weights)


def test_a_class_without_contrast_keeps_the_mean_of_its_scores(random: np.random.Generator) -> None:
    logits = random.normal(size=(20, 3, 2)) * [[1.0, 4.0]] + 1.5
    labels = np.full((20, 2), PRESENT, dtype=np.int8)
    labels[:7, 0] = ABSENT
    late = fit_late_classifier(logits, labels)
    for row in logits:
        expected = 1 / (1 + np.exp(-row[:, 1].mean()))
        assert late(row)[1] == pytest.approx(expected, rel=1e-9)
