"""Average precision against the published golden values, scikit-learn and a slow oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from weakloc.metrics.average_precision import grouped_precisions, rank, ranked_precision

from .oracles import slow_average_precision


def average_precision(scores, labels, *, definition="voc12", ties="stable", num_positives=None):
    """Of labels 1, 0 (ignored) and -1; None where there is no positive to find."""
    label = np.asarray(labels).ravel()
    ranking = rank(scores, label, ties=ties)
    positives = int((label > 0).sum()) if num_positives is None else num_positives
    value = ranked_precision(ranking, np.array([float(positives)]), definition=definition)[0]
    return None if np.isnan(value) else float(value)


DEFINITIONS = ["voc12", "voc07", "nonint", "coco"]
RANKINGS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([-1, 0, 1])), min_size=1, max_size=24
)


@pytest.mark.parametrize(
    ("definition", "expected"), [("voc12", 0.833333), ("voc07", 0.840909), ("nonint", 0.805556)]
)
def test_the_published_example_has_its_published_values(definition, expected):
    """MET-01."""
    labels = [1, -1, 1, 1, -1]
    value = average_precision([5, 4, 3, 2, 1], labels, definition=definition)
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("ties", ["stable", "grouped"])
@settings(max_examples=60, deadline=None)
@given(ranking=RANKINGS, unfound=st.integers(0, 3))
def test_every_definition_equals_its_slow_reading(definition, ties, ranking, unfound):
    scores, labels = zip(*ranking, strict=True)
    num_positives = sum(label > 0 for label in labels) + unfound
    value = average_precision(
        scores, labels, definition=definition, ties=ties, num_positives=num_positives
    )
    if num_positives == 0:
        assert value is None
        return
    expected = slow_average_precision(
        scores, labels, num_positives, definition, grouped=ties == "grouped"
    )
    assert value == pytest.approx(expected, abs=1e-12)


def test_grouped_ties_without_envelope_are_the_definition_of_scikit_learn(random):
    for _ in range(50):
        labels = random.integers(0, 2, 40)
        labels[0] = 1
        scores = random.integers(0, 12, 40)  # many ties
        ours = average_precision(scores, labels * 2 - 1, definition="nonint", ties="grouped")
        assert ours == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("definition", DEFINITIONS)
@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=30), data=st.data())
def test_distinct_scores_make_order_and_monotone_transforms_irrelevant(definition, labels, data):
    """MET-11."""
    scores = np.array(data.draw(st.permutations(range(len(labels)))), dtype=float)
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    value = average_precision(scores, labels, definition=definition)
    moved = average_precision(scores[order], np.array(labels)[order], definition=definition)
    bent = average_precision(np.exp(scores / 7) - 3, labels, definition=definition)
    assert value == moved == bent


@pytest.mark.parametrize("definition", DEFINITIONS)
@settings(max_examples=60, deadline=None)
@given(ranking=RANKINGS, score=st.integers(-1, 7))
def test_another_false_positive_never_raises_it(definition, ranking, score):
    scores, labels = (list(each) for each in zip(*ranking, strict=True))
    before = average_precision(scores, labels, definition=definition)
    after = average_precision([*scores, score], [*labels, -1], definition=definition)
    assert before is None or after <= before + 1e-12


@settings(max_examples=40, deadline=None)
@given(ranking=RANKINGS)
def test_grouping_ties_does_not_depend_on_the_order_of_equal_scores(ranking):
    forth = average_precision(*zip(*ranking, strict=True), ties="grouped")
    back = average_precision(*zip(*ranking[::-1], strict=True), ties="grouped")
    assert forth == back


def test_without_a_positive_there_is_no_number():
    assert average_precision([0.3, 0.2], [-1, 0]) is None
    assert average_precision([], []) is None
    assert average_precision([], [], num_positives=3) == 0.0


def test_all_scores_equal_give_the_class_frequency_when_ties_are_grouped():
    labels = [1, -1, -1, 1, -1]
    for definition in ("voc12", "nonint", "voc07"):
        value = average_precision([0.5] * 5, labels, definition=definition, ties="grouped")
        assert value == pytest.approx(2 / 5)


def test_not_a_number_is_refused_and_infinity_has_its_place():
    with pytest.raises(ValueError, match="NaN"):
        average_precision([0.5, np.nan], [1, -1])
    assert average_precision([-np.inf, 3.0, np.inf], [-1, -1, 1]) == 1.0


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_weighting_an_image_twice_is_the_same_as_giving_it_twice(definition, random):
    labels = np.where(random.random(20) < 0.4, 1, -1)
    scores, image = random.permutation(20).astype(float), np.arange(20)
    weights = random.integers(0, 3, (20, 6)).astype(np.uint8)
    positives = weights.T @ (labels > 0)
    ours = ranked_precision(
        rank(scores, labels, image=image), positives, definition=definition, weights=weights
    )
    for b in range(6):
        again = np.repeat(image, weights[:, b])
        # Copies of one image share a score: a group, at whose end precision is read.
        slow = slow_average_precision(
            scores[again], labels[again], positives[b], definition, grouped=True
        )
        assert ours[b] == pytest.approx(slow, abs=1e-12)


def test_histograms_have_the_average_precision_of_their_scores(random):
    labels = random.integers(0, 2, 300)
    scores = random.integers(0, 9, 300)
    positives = np.bincount(scores[labels == 1], minlength=12)
    negatives = np.bincount(scores[labels == 0], minlength=12)
    expected = average_precision_score(labels, scores)
    assert grouped_precisions(positives, negatives) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(grouped_precisions(np.zeros(3), np.ones(3)))
