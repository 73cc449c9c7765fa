"""The bootstrap against the textbook: its spread, its independence of order, its pairing."""

from __future__ import annotations

import numpy as np
import pytest

from weakloc.errors import PredictionsError
from weakloc.metrics.hits import HitRates, Rate
from weakloc.metrics.uncertainty import ResampledSums, draw_image, interval_of, paired_difference


def _accuracy(hits, names, resamples=1000):
    rates = HitRates(["cat", "dog"], [Rate("accuracy", "plain", "trials")], lambda _: ([0], [0]))
    for name, hit in zip(names, hits, strict=True):
        rates.add(draw_image(name, resamples), [int(hit), 0], [1, 0])
    return rates.compute()[0]


def _weights(names, resamples):
    """Of the resamples alone."""
    return np.stack([draw_image(name, resamples).weights for name in names])[:, 1:]


def test_draws_are_poisson_with_mean_one_and_independent():
    weights = _weights(map(str, range(2000)), 200).astype(float)
    assert weights.mean() == pytest.approx(1.0, abs=0.01)
    assert weights.var() == pytest.approx(1.0, abs=0.02)
    assert (weights == 0).mean() == pytest.approx(np.exp(-1), abs=0.005)
    neighbours = np.corrcoef(weights[:-1].ravel(), weights[1:].ravel())[0, 1]
    resamples = np.corrcoef(weights[:, :-1].ravel(), weights[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01
    assert abs(resamples) < 0.01


def test_a_draw_depends_on_name_and_seed_alone():
    forth = _weights("abc", 50)
    assert np.array_equal(_weights("ca", 50), forth[[2, 0]])


def test_the_interval_of_an_accuracy_is_that_of_the_binomial(random):
    hits = random.random(400) < 0.7
    result = _accuracy(hits, map(str, range(400)), resamples=4000)
    half = 1.96 * np.sqrt(result.value * (1 - result.value) / 400)
    assert result.interval.low == pytest.approx(result.value - half, abs=0.006)
    assert result.interval.high == pytest.approx(result.value + half, abs=0.006)


def test_about_95_of_100_intervals_hold_the_truth(random):
    held = 0
    for trial in range(200):
        hits = random.random(150) < 0.6
        names = [f"{trial}/{i}" for i in range(150)]
        interval = _accuracy(hits, names, resamples=300).interval
        held += interval.low <= 0.6 <= interval.high
    assert 180 <= held <= 199


def test_sums_are_the_weighted_sums_whatever_the_order_of_the_images(random):
    counts = random.integers(0, 9, (150, 3))
    names = [f"image {i}" for i in range(150)]
    expected = _weights(names, 40).T.astype(int) @ counts
    sums = ResampledSums(3)
    for i in random.permutation(150):
        sums.add(draw_image(names[i], 40), counts[i])
    assert np.array_equal(sums.total, counts.sum(0))
    for column in range(3):
        ours = sums.evaluate(lambda block, column=column: block[:, column])
        assert ours.tolist() == [counts[:, column].sum(), *expected[:, column]]
    assert sums.num_images == 150


def test_pairing_sees_a_difference_that_single_intervals_hide(random):
    names = [str(i) for i in range(300)]
    first = random.random(300) < 0.6
    second = first.copy()
    second[np.flatnonzero(first)[:12]] = False  # the same images, twelve fewer hits
    a, b = _accuracy(first, names), _accuracy(second, names[:])
    difference = paired_difference(a, b)
    assert a.interval.low < b.interval.high  # apart, the two cannot be told from each other
    assert difference.difference == pytest.approx(12 / 300)
    assert difference.interval.low > 0
    assert difference.share_above_zero == 1.0


def test_a_run_does_not_differ_from_itself(random):
    result = _accuracy(random.random(50) < 0.5, map(str, range(50)))
    difference = paired_difference(result, result)
    assert (difference.interval.low, difference.interval.high) == (0.0, 0.0)


def test_runs_on_different_images_cannot_be_compared(random):
    first = _accuracy([1, 0], ["a", "b"])
    with pytest.raises(PredictionsError, match="different images"):
        paired_difference(first, _accuracy([1, 0], ["a", "c"]))


def test_undefined_resamples_are_left_out_of_the_interval():
    assert interval_of(np.array([np.nan, 0.5, np.nan])).low == 0.5
    assert interval_of(np.array([np.nan])) is None
