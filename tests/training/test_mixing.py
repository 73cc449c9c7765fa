"""Blended and pasted images: their pixels, their tags, and what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.small_data import settings
from weakloc.data.augmentation import CutMix
from weakloc.data.loaders import Batch
from weakloc.methods.cam import Cam
from weakloc.methods.method import Optimisation
from weakloc.model.network import LocalizationNetwork
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, DataSet
from weakloc.training.fit import fit
from weakloc.training.module import LocalizationModule, mixed_batch, pasted_batch


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


def numbered(count: int, height: int, width: int) -> Batch:
    """Image i is i + 1 everywhere and has class i alone, so that a paste tells where it is."""
    values = torch.arange(1.0, count + 1)[:, None, None, None]
    labels = torch.full((count, count), ABSENT, dtype=torch.int8)
    return batch_of(values.expand(-1, 3, height, width), labels.fill_diagonal_(PRESENT))


def test_aug_10_the_share_is_that_of_the_pixels_left_when_the_box_is_clipped() -> None:
    batch = numbered(6, height=31, width=47)
    shares, is_clipped = [], 0
    for seed in range(300):
        pasted = pasted_batch(batch, CutMix(), torch.Generator().manual_seed(seed))
        own = pasted.batch.images[:, 0] == batch.images[:, 0]
        others = torch.where(pasted.other_labels == PRESENT)[1]
        moved = others != torch.arange(6)
        left = own[moved].double().mean(dim=(1, 2))  # (images whose box shows another one,)
        torch.testing.assert_close(left, torch.full_like(left, pasted.share))
        for index in torch.where(moved)[0].tolist():
            inside = pasted.batch.images[index, 0][~own[index]]
            assert (inside == others[index] + 1).all()
        rows, columns = torch.where(~own[moved][0]) if moved.any() else ((), ())
        is_clipped += bool(len(rows)) and bool(
            {0, 30} & set(rows.tolist()) or {0, 46} & set(columns.tolist())
        )
        shares.append(pasted.share)
    assert is_clipped > 50
    # Of a box of share u, uniform, whose centre is uniform, less than u is left inside.
    assert 0.6 < float(np.mean(shares)) < 0.8
    assert 0.0 <= min(shares) <= max(shares) <= 1.0


def test_aug_10_training_learns_from_both_tags_by_area(
    data_set: DataSet, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    before: list[torch.Tensor] = []
    losses: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward, step = LocalizationNetwork.forward, LocalizationModule.training_step

    def recording_forward(network, images):
        output = forward(network, images)
        if network.training:
            seen.append((images.detach().clone(), output.scores.detach()))
        return output

    def recording_step(module, carried, batch_idx):
        loss = step(module, carried, batch_idx)
        before.append(carried.batch.images)
        losses.append((loss.detach(), carried.batch.labels))
        return loss

    monkeypatch.setattr(LocalizationNetwork, "forward", recording_forward)
    monkeypatch.setattr(LocalizationModule, "training_step", recording_step)
    optimisation = Optimisation(kind="sgd", learning_rate=0.05, epochs=2, batch_size=4)
    method = Cam(augment="cutmix", loss="logistic_sum", optimisation=optimisation)
    fit(data_set, method, settings(epochs=2), tmp_path / "run")

    num_pasted = 0
    for (images, scores), plain, (loss, labels) in zip(seen, before, losses, strict=True):
        own = (images == plain).all(dim=1).double().mean(dim=(1, 2))
        share = own.min()  # an image may be its own partner
        partners = [
            next(
                other
                for other in range(len(images))
                if torch.where(images[row] == plain[row], plain[other], images[row]).equal(
                    plain[other]
                )
            )
            if own[row] < 1
            else row
            for row in range(len(images))
        ]
        targets = labels.double()

        def logistic(targets: torch.Tensor, scores: torch.Tensor = scores) -> torch.Tensor:
            return torch.log1p(torch.exp(-targets * scores.double())).sum(dim=1)

        expected = share * logistic(targets) + (1 - share) * logistic(targets[partners])
        torch.testing.assert_close(loss.double(), expected.mean(), rtol=1e-4, atol=1e-5)
        num_pasted += bool(share < 1)
    assert num_pasted >= len(seen) // 2
