"""Order, repetition and shares, checked by counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakloc.data.loaders import (
    EpochBatches,
    EveryImageOnce,
    SampleKey,
    draw_repeats,
    mixed_seed,
    repetition_weights,
)
from weakloc.structures import Sample


def samples_of(*classes: tuple[int, ...], num_classes: int = 3) -> list[Sample]:
    samples = []
    for number, present in enumerate(classes):
        labels = np.full(num_classes, -1, np.int8)
        labels[list(present)] = 1
        samples.append(Sample(f"{number}.png", f"{number}.png", labels))
    return samples


def keys_of(batches: EpochBatches | EveryImageOnce) -> list[SampleKey]:
    return [key for batch in batches for key in batch]


def test_weights_are_the_median_count_over_the_count_of_the_rarest_class() -> None:
    # Counts 6, 2, 1 with median 2: weights 1/3 -> 1, 1, 2; an image without a class counts once.
    samples = samples_of((0,), (0,), (0,), (0,), (0, 1), (0, 2), (1,), ())
    assert repetition_weights(samples).tolist() == [1, 1, 1, 1, 1, 2, 1, 1]


def test_weights_stop_at_ten_and_unknown_labels_count_for_nothing() -> None:
    samples = samples_of(*[(0,)] * 50, *[(1,)] * 50, (2,))
    assert repetition_weights(samples)[-1] == 10
    samples[-1].labels[1] = 0
    assert repetition_weights(samples)[-1] == 10
    assert repetition_weights(samples_of((), ())).tolist() == [1, 1]


@given(st.lists(st.floats(1, 10), min_size=1, max_size=40), st.integers(0, 5))
def test_repeats_are_the_weight_rounded_up_or_down_with_a_fixed_sum(
    weights: list[float], seed: int
) -> None:
    array = np.array(weights)
    repeats = draw_repeats(array, np.random.default_rng(seed))
    assert repeats.sum() == len(weights) + round(float((array - 1).sum()))
    scale = (repeats.sum() - len(weights)) / max((array - 1).sum(), 1e-12)
    expected = 1 + (array - 1) * scale
    assert (np.abs(repeats - expected) < 1 + 1e-6).all()
    assert repeats.min() >= 1


def test_repeats_average_to_the_weights() -> None:
    weights = np.array([1.0, 1.3, 2.5, 1.0, 9.2])
    random = np.random.default_rng(0)
    mean = np.mean([draw_repeats(weights, random) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, weights, atol=0.03)


def test_an_epoch_uses_every_image_once_in_an_order_that_changes() -> None:
    batches = EpochBatches(23, batch_size=5, seed=1)
    assert len(batches) == 5
    first = keys_of(batches)
    assert sorted(key.index for key in first) == list(range(23))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert keys_of(batches) == first
    batches.set_epoch(1)
    assert [key.index for key in keys_of(batches)] != [key.index for key in first]
    batches.set_epoch(0)
    assert keys_of(batches) == first
    other_seed = EpochBatches(23, batch_size=5, seed=2)
    assert keys_of(other_seed) != first


def test_balancing_brings_rare_classes_to_the_median() -> None:
    samples = samples_of(*[(0,)] * 40, *[(1,)] * 20, *[(2,)] * 4)
    batches = EpochBatches(64, batch_size=8, seed=0, weights=repetition_weights(samples))
    for epoch in range(3):
        batches.set_epoch(epoch)
        keys = keys_of(batches)
        counts = Counter(samples[key.index].labels.tolist().index(1) for key in keys)
        assert counts == {0: 40, 1: 20, 2: 20}
        assert len(batches) == 10
        # Uses of one image are numbered, so that each gets random numbers of its own.
        assert len(set(keys)) == len(keys)
        rare = sorted((key.index, key.num_repeat) for key in keys if key.index >= 60)
        assert rare == [(index, use) for index in range(60, 64) for use in range(5)]


@pytest.mark.parametrize(("num_samples", "world_size"), [(23, 3), (24, 3), (2, 4), (7, 1)])
def test_ranks_share_an_epoch_in_equal_parts(num_samples: int, world_size: int) -> None:
    ranks = [
        EpochBatches(num_samples, batch_size=4, seed=0, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    sizes = [[len(batch) for batch in rank] for rank in ranks]
    assert all(size == sizes[0] for size in sizes)
    uses = Counter(key.index for rank in ranks for key in keys_of(rank))
    assert set(uses) == set(range(num_samples))
    assert sum(uses.values()) - num_samples < world_size


def test_ranks_together_see_the_same_steps_as_one_process() -> None:
    alone = [[key.index for key in batch] for batch in EpochBatches(24, batch_size=6, seed=3)]
    shares = [
        [
            [key.index for key in batch]
            for batch in EpochBatches(24, batch_size=3, seed=3, rank=rank, world_size=2)
        ]
        for rank in range(2)
    ]
    for step, whole in enumerate(alone):
        assert sorted(shares[0][step] + shares[1][step]) == sorted(whole)


def test_the_last_batch_may_be_short() -> None:
    assert [len(batch) for batch in EpochBatches(23, batch_size=5, seed=1)] == [5, 5, 5, 5, 3]
    assert [len(batch) for batch in EpochBatches(3, batch_size=50, seed=1)] == [3]


@pytest.mark.parametrize("world_size", [1, 3, 10])
def test_evaluation_meets_every_image_exactly_once(world_size: int) -> None:
    found = []
    for rank in range(world_size):
        share = EveryImageOnce(7, batch_size=2, rank=rank, world_size=world_size)
        keys = keys_of(share)
        assert len(list(share)) == len(share)
        assert [key.index for key in keys] == sorted(key.index for key in keys)
        found += [key.index for key in keys]
    assert sorted(found) == list(range(7))


def test_near_numbers_give_different_seeds() -> None:
    seeds = {mixed_seed(seed, epoch, index, 0) for seed in range(5) for epoch in range(5)
             for index in range(100)}  # fmt: skip
    assert len(seeds) == 2500
    assert mixed_seed(1, 2) != mixed_seed(2, 1)
    assert max(seeds) < 2**64
