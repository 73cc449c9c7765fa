"""The formula by hand, its bounds, and what must raise or lower it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weakloc.localize.places import disagreements, doubt, heat_entropy, instability
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, Disagreement

TAGS = np.array([PRESENT, ABSENT, UNKNOWN], dtype=np.int8)


def test_the_doubt_of_a_tag_by_hand() -> None:
    for tag, doubts in ((PRESENT, (0.2, 1.0)), (ABSENT, (0.8, 0.0)), (UNKNOWN, (0.4, 0.0))):
        labels = np.array([tag], dtype=np.int8)
        for probability, expected in zip((0.8, 0.0), doubts, strict=True):
            assert doubt(np.array([probability]), {}, labels=labels) == pytest.approx(expected)
    assert doubt(np.array([0.8]), {}) == pytest.approx(0.4)


def test_doubt_by_hand() -> None:
    evidence = {0: (0.4, 0.1, 0.1)}  # 0.2 in the mean
    # Class 0: 1 - 0.8 * 0.8 = 0.36; class 1: 0.3; class 2: 1 - |2 * 0.9 - 1| = 0.2.
    assert doubt(np.array([0.8, 0.3, 0.9]), evidence, labels=TAGS) == pytest.approx(0.36)
    assert doubt(np.array([0.8, 0.5, 0.9]), evidence, labels=TAGS) == pytest.approx(0.5)


def test_what_was_not_measured_does_not_count() -> None:
    sure = np.array([1.0, 0.0, 1.0])
    assert doubt(sure, {0: (0.6,)}, labels=TAGS) == 0.6
    assert doubt(sure, {}, labels=TAGS) == 0.0


def test_a_sure_disagreement_or_a_lost_place_alone_makes_an_image_doubtful() -> None:
    sure = np.array([1.0, 0.0, 0.0])
    assert doubt(sure, {0: (1.0, 1.0, 1.0)}, labels=TAGS) == 1.0
    assert doubt(np.array([0.0, 0.0, 0.0]), {0: (0.0,)}, labels=TAGS) == 1.0


def test_no_classes_leave_no_doubt() -> None:
    assert doubt(np.zeros(0), {}) == 0.0


def test_doubt_stays_between_0_and_1_and_grows_with_each_part(random: np.random.Generator) -> None:
    for _ in range(200):
        probabilities = random.random(3)
        parts = random.random(3)
        value = doubt(probabilities, {0: parts.tolist()}, labels=TAGS)
        assert 0.0 <= value <= 1.0
        parts[random.integers(3)] = 1.0
        assert doubt(probabilities, {0: parts.tolist()}, labels=TAGS) >= value


def test_entropy_by_hand() -> None:
    assert heat_entropy(np.array([[0.0, 0.5], [1.0, 0.0]])) == pytest.approx(0.25)
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert heat_entropy(np.array([[-1.0, 0.0, 3.0]])) == pytest.approx(quarter / 3)


def test_entropy_does_not_depend_on_the_size_of_a_clear_object() -> None:
    for side in (1, 10, 19):
        heat = np.zeros((20, 30))
        heat[:side, :side] = 7.0
        assert heat_entropy(heat) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("heat", [np.zeros((3, 4)), np.full((3, 4), np.nan), np.ones((1, 1))])
def test_a_map_that_says_nothing_has_full_entropy(heat: np.ndarray) -> None:
    assert heat_entropy(heat) == 1.0


def test_instability_by_hand() -> None:
    box, half = (0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 4.0, 2.0)
    assert instability([(box, box), (box, half)]) == pytest.approx(0.25)
    assert instability([(box, half)]) == 0.5
    assert instability([(box, None)]) == 1.0
    assert instability([(None, None)]) == 0.0


def test_disagreements_are_listed_worst_first() -> None:
    labels = np.array([PRESENT, PRESENT, ABSENT, ABSENT, UNKNOWN], dtype=np.int8)
    probabilities = np.array([0.08, 0.5, 0.95, 0.99, 0.99])
    limits = {"missing_below": 0.1, "unexpected_above": 0.9}
    assert disagreements(probabilities, labels, ["a", "b", "c", "d", "e"], **limits) == (
        Disagreement("d", "unexpected", 0.99),
        Disagreement("c", "unexpected", 0.95),
        Disagreement("a", "missing", 0.08),
    )
