"""Blended images: their pixels, their tags, and what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weakloc.data.loaders import Batch
from weakloc.structures import ABSENT, PRESENT, UNKNOWN
from weakloc.training.module import mixed_batch


def batch_of(images: torch.Tensor, labels: torch.Tensor) -> Batch:
    count = len(images)
    names = tuple(f"{index}.png" for index in range(count))
    return Batch(images, labels, names, (None,) * count, torch.arange(count))


def marked(count: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Image i lights up cell i alone and has class i alone, so that a blend tells its parts."""
    images = torch.eye(count, dtype=dtype).reshape(count, 1, 1, count).repeat(1, 3, 2, 1)
    labels = torch.full((count, count), ABSENT, dtype=torch.int8)
    return batch_of(images, labels.fill_diagonal_(PRESENT))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_blend_shows_two_images_and_has_the_tags_of_both(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    batch = marked(8, dtype)
    mixed = mixed_batch(batch, 1.0)
    assert mixed.images.dtype == dtype
    assert mixed.names == batch.names
    partners = []
    for index in range(8):
        shown = mixed.images[index, 0, 0].double().numpy()
        (partner,) = set(np.flatnonzero(shown)) - {index}
        partners.append(partner)
        assert shown.sum() == pytest.approx(1, abs=0.01)
        assert 0.19 < shown[partner] < 0.81
        assert torch.equal(mixed.images[index], mixed.images[index, :1, :1].expand(3, 2, 8))
        assert set(torch.where(mixed.labels[index] == PRESENT)[0].tolist()) == {index, partner}
    assert sorted(partners) == list(range(8))


def test_the_share_is_how_many_are_blended_and_the_others_stay_untouched() -> None:
    torch.manual_seed(0)
    batch = marked(400)
    mixed = mixed_batch(batch, 0.25)
    is_mixed = (mixed.labels == PRESENT).sum(dim=1) == 2
    assert is_mixed.sum() == pytest.approx(100, abs=30)
    assert torch.equal(mixed.images[~is_mixed], batch.images[~is_mixed])
    assert torch.equal(mixed.labels[~is_mixed], batch.labels[~is_mixed])


@pytest.mark.parametrize(("count", "share"), [(8, 0.0), (1, 1.0)])
def test_without_a_share_or_a_partner_nothing_is_drawn(count: int, share: float) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    batch = marked(count)
    assert mixed_batch(batch, share) is batch
    assert torch.equal(torch.rand(1), expected)


def test_tags_of_both_are_present_and_what_one_does_not_know_stays_open() -> None:
    table = {
        (PRESENT, PRESENT): PRESENT,
        (PRESENT, UNKNOWN): PRESENT,
        (PRESENT, ABSENT): PRESENT,
        (UNKNOWN, UNKNOWN): UNKNOWN,
        (UNKNOWN, ABSENT): UNKNOWN,
        (ABSENT, ABSENT): ABSENT,
    }
    for (first, second), expected in table.items():
        labels = torch.tensor([[first], [second]], dtype=torch.int8)
        mixed = mixed_batch(batch_of(torch.zeros(2, 3, 2, 2), labels), 1.0)
        assert mixed.labels.tolist() == [[expected], [expected]]
        assert mixed.labels.dtype == torch.int8
