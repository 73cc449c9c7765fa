"""Settings that cannot work name their flag, the value met and what would do."""

from __future__ import annotations

import pytest

from weakloc.config import TrainSettings
from weakloc.errors import SettingError


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
