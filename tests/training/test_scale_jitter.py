"""The sizes at which Max-MIL's preset learns, read off the network while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.training.small_data import settings
from weakloc.methods.max_mil import MaxMil
from weakloc.methods.method import Optimisation
from weakloc.model.network import LocalizationNetwork, NetworkOutput
from weakloc.structures import DataSet
from weakloc.training.fit import fit


def test_mil_14_every_batch_is_seen_at_one_size_of_its_own(
    data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One s ~ U(0.7, 1.4) for a batch of padded squares, which become round(500 s) wide.

    Watched images stay at 500.
    """
    learned: list[tuple[int, ...]] = []
    watched: list[tuple[int, ...]] = []
    forward: Callable[..., NetworkOutput] = LocalizationNetwork.forward

    def recorded(self: LocalizationNetwork, images: Tensor, **options: object) -> NetworkOutput:
        (learned if self.training else watched).append(tuple(images.shape))
        return forward(self, images, **options)

    monkeypatch.setattr(LocalizationNetwork, "forward", recorded)
    literal = MaxMil.literal()
    assert (literal.side, literal.optimisation.batch_size) == (500, 16)
    optimisation = Optimisation(kind="adagrad", learning_rate=0.01, epochs=6, batch_size=8)
    method = replace(literal, hidden=4, trains_backbone=True, optimisation=optimisation)
    how = settings(backbone="tiny[width=4]", image_size=500, epochs=6, batch_size=8)
    fit(data_set, method, how, tmp_path)
    assert all(shape[1] == 3 and shape[2] == shape[3] for shape in learned)
    sides = np.array([shape[2] for shape in learned])
    assert len(sides) == 18  # of 22 images an epoch
    assert 350 <= sides.min() < 430
    assert 620 < sides.max() <= 700
    assert len(set(sides.tolist())) >= 10
    assert {shape[2:] for shape in watched} == {(500, 500)}
