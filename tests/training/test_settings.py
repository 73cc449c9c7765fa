"""Settings that cannot work name their flag, the value met and what would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.small_data import make_data_set, method, settings
from weakloc.errors import SettingError
from weakloc.model.trunk import TinyTrunk
from weakloc.settings import TrainSettings
from weakloc.training.inputs import inputs_of
from weakloc.training.plan import make_plan
from weakloc.work import silent


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("epochs", 0, "--epochs is 0"),
        ("batch_size", -3, "--batch-size is -3"),
        ("learning_rate", float("nan"), "--learning-rate is nan"),
        ("learning_rate", 0.0, "--learning-rate is 0.0"),
        ("image_size", 0, "--image-size is 0"),
        ("seed", -1, "--seed is -1"),
        ("workers", -1, "--workers is -1"),
        ("accumulate", 0, "--accumulate is 0"),
        ("devices", 0, "--devices is 0"),
        ("nodes", 0, "--nodes is 0"),
        ("patience", 0, "--patience is 0"),
        ("hold_out", 1.0, "--hold-out is 1.0"),
        ("mixup", 1.5, "--mixup is 1.5"),
        ("checkpoint_minutes", 0.0, "--checkpoint-minutes is 0.0"),
        ("feature_scales", (), r"--feature-scales is \(\)"),
        ("val_split", "train", "--val-split is 'train'"),
        ("backbone", "", "--backbone is ''"),
    ],
)
def test_a_bad_setting_names_its_flag(name: str, value: object, flag: str) -> None:
    with pytest.raises(SettingError, match=flag) as caught:
        TrainSettings(**{name: value})  # type: ignore[arg-type]
    assert caught.value.remedy


def test_cached_features_cannot_be_turned() -> None:
    with pytest.raises(SettingError, match="--quarter-turns is True") as caught:
        TrainSettings(frozen=True, quarter_turns=True)
    assert "--frozen" in str(caught.value.remedy)


def test_the_licence_of_published_weights_is_said_before_they_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyTrunk, "licence", "cc-by-nc-4.0")
    plan = make_plan(make_data_set(tmp_path), method(), settings())
    assert plan.notes[-1] == "timm says of the weights of tiny: licence cc-by-nc-4.0"


def test_quarter_turns_reach_the_images_that_are_learned_from(tmp_path: Path) -> None:
    data_set, upright = make_data_set(tmp_path), settings()
    seen = {}
    for chosen in (upright, replace(upright, quarter_turns=True)):
        plan = make_plan(data_set, method(flip=False), chosen)
        inputs = inputs_of(plan, tmp_path, silent)
        seen[chosen.quarter_turns] = torch.cat([each.batch.images for each in inputs.learned])
    turns = [
        next(n for n in range(4) if torch.equal(turned, image.rot90(n, (1, 2))))
        for image, turned in zip(seen[False], seen[True], strict=True)
    ]
    assert set(turns) == {0, 1, 2, 3}
