"""Probabilities that know which classes were tagged together, against Eq. 2 to 4 by hand."""

from __future__ import annotations

import numpy as np

from weakloc.predictor.score_fusion import Rescoring, shares_from_counts

# 10 images of class 0, 4 of class 1 of which 3 also show class 0; class 2 has no image.
TOGETHER = np.array([[10, 3, 0], [3, 4, 0], [0, 0, 0]])


def test_shares_are_the_counts_of_both_by_the_counts_of_the_given_class() -> None:
    expected = [[0, 3 / 4, 0], [3 / 10, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(shares_from_counts(TOGETHER), expected)


def test_a_class_gains_from_those_it_occurs_with() -> None:
    shares = shares_from_counts(TOGETHER)
    scores = np.array([0.2, 0.8, 0.5])
    expected = [
        (0.2 + 0.5 * 0.75 * 0.8) / (1 + 0.5 * 0.75),
        (0.8 + 0.5 * 0.30 * 0.2) / (1 + 0.5 * 0.30),
        0.5,
    ]
    np.testing.assert_allclose(Rescoring(shares, 0.5)(scores), expected)


def test_rescored_probabilities_are_still_in_the_unit_interval(random: np.random.Generator) -> None:
    shares = random.random((5, 5))
    np.fill_diagonal(shares, 0.0)
    rescored = Rescoring(shares, 3.0)
    np.testing.assert_allclose(rescored(np.ones(5)), 1.0)
    for _ in range(20):
        found = rescored(random.random(5))
        assert ((found >= 0) & (found <= 1)).all()


def test_each_class_ranks_the_images_as_the_papers_sum_does(random: np.random.Generator) -> None:
    shares = shares_from_counts(TOGETHER)
    scores = random.random((40, 3))
    by_paper = scores + 0.4 * scores @ shares.T
    found = np.stack([Rescoring(shares, 0.4)(row) for row in scores])
    np.testing.assert_array_equal(np.argsort(found, axis=0), np.argsort(by_paper, axis=0))
