"""Bad losses stop training at once; good ones are averaged."""

from __future__ import annotations

import pytest
import torch

from weakloc.errors import TrainingError
from weakloc.training.module import LossGuard


def test_the_mean_is_over_all_losses_since_the_last() -> None:
    guard = LossGuard()
    for value in (1.0, 2.0, 6.0):
        guard.add(torch.tensor(value), ["a"], 0.1)
    assert guard.mean() == 3.0
    guard.add(torch.tensor(5.0), ["a"], 0.1)
    assert guard.mean() == 5.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2e5])
def test_a_bad_loss_names_images_rate_and_remedy(value: float) -> None:
    guard = LossGuard()
    guard.add(torch.tensor(14.0), ["a"], 0.1)  # the limit is 1e4 times this
    with pytest.raises(TrainingError) as caught:
        guard.add(torch.tensor(value), [f"{i}.png" for i in range(10)], 0.02)
    assert caught.value.exit_code == 1
    assert "0.png, 1.png" in str(caught.value)
    assert "and 2 more" in str(caught.value)
    assert "rate 0.02" in str(caught.value)
    assert "--learning-rate 0.002" in str(caught.value)


def test_a_not_a_number_in_the_very_first_batch_stops_too() -> None:
    with pytest.raises(TrainingError, match="nan"):
        LossGuard().add(torch.tensor(float("nan")), ["a"], 0.1)


def test_a_large_first_loss_is_no_explosion() -> None:
    guard = LossGuard()
    guard.add(torch.tensor(3e6), ["a"], 0.1)
    guard.add(torch.tensor(4e6), ["a"], 0.1)
    assert guard.latest == 4e6


def test_its_state_survives_a_restart() -> None:
    guard, restored = LossGuard(), LossGuard()
    guard.add(torch.tensor(2.0), ["a"], 0.1)
    restored.restore(guard.state())
    restored.add(torch.tensor(4.0), ["a"], 0.1)
    assert restored.mean() == 3.0
