"""Rates and schedules against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from weakloc.errors import SettingError
from weakloc.methods.method import (
    PRACTICAL,
    Optimisation,
    build_optimiser,
    build_schedule,
    rate_factor,
)
from weakloc.methods.wildcat import Wildcat
from weakloc.model.backbones import build_backbone
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec


def make_network(weights: str = "none") -> LocalizationNetwork:
    spec = BackboneSpec.parse("tiny[width=4]", weights=weights)
    return Wildcat.practical().build_network(build_backbone(spec), 3)


def test_cosine_falls_to_zero_after_a_linear_rise() -> None:
    plan = replace(PRACTICAL, epochs=10, warm_up_epochs=2)
    for step in (0, 1, 4, 7, 8, 20, 39, 40):
        cosine = (1 + math.cos(math.pi * step / 40)) / 2
        rise = min(1, (step + 1) / 8)
        assert rate_factor(plan, step, 4) == pytest.approx(rise * cosine)
    assert rate_factor(plan, 40, 4) == pytest.approx(0)


def test_a_schedule_sets_the_rates_of_all_groups_step_by_step() -> None:
    plan = Optimisation(
        kind="sgd",
        learning_rate=0.4,
        backbone_factor=0.25,
        epochs=9,
        batch_size=4,
        schedule="stages",
        num_stages=3,
        drop_factor=0.5,
    )
    optimiser = build_optimiser(make_network(), plan)
    schedule = build_schedule(optimiser, plan, steps_per_epoch=2)
    seen = []
    for _ in range(18):
        seen.append({group["name"]: group["lr"] for group in optimiser.param_groups})
        optimiser.step()
        schedule.step()
    for step, rates in enumerate(seen):
        factor = 0.5 ** (step // 6)
        assert rates == {"backbone": pytest.approx(0.1 * factor), "head": 0.4 * factor}


def test_a_schedule_resumes_where_it_was() -> None:
    optimiser = build_optimiser(make_network(), PRACTICAL)
    schedule = build_schedule(optimiser, PRACTICAL, steps_per_epoch=5)
    for _ in range(7):
        optimiser.step()
        schedule.step()
    other = build_optimiser(make_network(), PRACTICAL)
    resumed = build_schedule(other, PRACTICAL, steps_per_epoch=5)
    other.load_state_dict(optimiser.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    optimiser.step()
    schedule.step()
    other.step()
    resumed.step()
    assert resumed.get_last_lr() == schedule.get_last_lr()


def test_a_pretrained_backbone_learns_more_slowly_by_itself(tmp_path) -> None:
    torch.save(make_network().backbone.trunk.state_dict(), tmp_path / "w.pt")
    for weights, factor in (("none", 1.0), (str(tmp_path / "w.pt"), 0.1)):
        groups = build_optimiser(make_network(weights), PRACTICAL).param_groups
        rates = {group["name"]: group["lr"] for group in groups}
        assert rates["backbone"] == pytest.approx(factor * rates["head"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("warm_up_epochs", -1),
        ("backbone_factor", -0.5),
        ("backbone_factor", "slow"),
        ("kind", "adam"),
        ("schedule", "linear"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"optimisation.{name} is"):
        replace(PRACTICAL, **{name: value})
