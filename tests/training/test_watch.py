"""What is watched in training, over the images of several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weakloc.data.loaders import Batch
from weakloc.geometry import GridTransform
from weakloc.model.trunk import CellGeometry
from weakloc.structures import ABSENT, PRESENT, Sample
from weakloc.training import module
from weakloc.training.module import Watch, Watched


def test_a_process_without_images_hands_on_nothing_of_the_epoch_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sample = Sample("a.png", "a.png", np.array([PRESENT, ABSENT], dtype=np.int8))
    labels = torch.from_numpy(sample.labels)[None]
    transform = GridTransform.identity((36.0, 28.0))
    batch = Batch(torch.zeros(1, 3, 4, 6), labels, ("a.png",), (transform,), torch.zeros(1))
    full, empty = (Watch([sample], ["red", "green"]) for _ in range(2))
    full.update(
        batch, torch.tensor([[0.9, 0.2]]), torch.rand(1, 2, 4, 6), CellGeometry(6, "uniform", 6.0)
    )
    monkeypatch.setattr(module, "_of_other_processes", lambda _: [(full._scores, full._points)])
    assert empty.read().classification_map == 1.0
    monkeypatch.setattr(module, "_of_other_processes", lambda _: [])
    assert empty.read() == Watched(None, None)
