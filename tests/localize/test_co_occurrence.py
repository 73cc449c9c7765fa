"""The paper's worked example, and invariants of the co-occurrence shares."""

from __future__ import annotations

import numpy as np
import pytest

from weakloc.predictor.score_fusion import choose_alpha, rescore, shares_from_counts
from weakloc.structures import ABSENT, PRESENT

# Images {p, m}, {p, m}, {p}, {c} of the classes p, m, c and one class without images.
LABELS = np.array([[1, 1, -1, -1], [1, 1, -1, -1], [1, -1, -1, -1], [-1, -1, 1, -1]], dtype=np.int8)
SCORES = np.array([0.2, 0.9, 0.1, 0.0])


def co_occurrence(labels: np.ndarray) -> np.ndarray:
    present = (labels == PRESENT).astype(np.int64)
    return shares_from_counts(present.T @ present)


def test_rescoring_by_hand() -> None:
    """BEAM-19."""
    rescored = rescore(SCORES, co_occurrence(LABELS), alpha=0.5)
    np.testing.assert_allclose(rescored, [0.65, 0.9666667, 0.1, 0.0], atol=1e-7)


def test_no_weight_changes_nothing() -> None:
    assert np.array_equal(rescore(SCORES, co_occurrence(LABELS), alpha=0.0), SCORES)


def test_shares_are_shares(random: np.random.Generator) -> None:
    labels = random.choice([ABSENT, PRESENT], size=(60, 5)).astype(np.int8)
    shares = co_occurrence(labels)
    for i in range(5):
        for j in range(5):
            relevant = [row for row in labels if row[j] == PRESENT]
            expected = 0.0 if i == j else np.mean([row[i] == PRESENT for row in relevant])
            assert shares[i, j] == pytest.approx(expected)


def test_one_image_and_a_batch_are_rescored_alike(random: np.random.Generator) -> None:
    scores, shares = random.random((7, 4)), co_occurrence(LABELS)
    together = rescore(scores, shares, alpha=0.2)
    for row, expected in zip(scores, together, strict=True):
        np.testing.assert_allclose(rescore(row, shares, alpha=0.2), expected)


def test_no_images_or_no_classes() -> None:
    assert not co_occurrence(np.zeros((0, 3), dtype=np.int8)).any()
    assert co_occurrence(np.zeros((4, 0), dtype=np.int8)).shape == (0, 0)


def test_alpha_is_chosen_where_the_criterion_is_best() -> None:
    # Class 1 always comes with class 0, and only class 0 is recognised.
    labels = np.array([[1, 1], [1, 1], [-1, -1], [-1, -1]], dtype=np.int8)
    scores = np.array([[0.9, 0.30], [0.8, 0.31], [0.1, 0.35], [0.2, 0.40]])

    def share_of_right_pairs(ranked: np.ndarray, known: np.ndarray) -> float:
        positive, negative = ranked[known[:, 1] == 1, 1], ranked[known[:, 1] == -1, 1]
        return float(np.mean(positive[:, None] > negative))

    chosen = choose_alpha(scores, labels, co_occurrence(labels), share_of_right_pairs)
    assert chosen.alpha == 0.2  # 0.9 -> 0.48 and 0.8 -> 0.47 exceed 0.44; at 0.1 0.39 < 0.42
    assert chosen.mean_average_precision == 1.0


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_alpha_is_the_smallest_on_ties_and_when_nothing_can_be_measured(value: float) -> None:
    chosen = choose_alpha(SCORES[None], LABELS[:1], co_occurrence(LABELS), lambda *_: value)
    assert chosen.alpha == 0.0
