"""`--watch-maps`: what is drawn is what the network says after each epoch, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from tests.training.small_data import HEIGHT, WIDTH, make_data_set, method, settings
from tests.training.test_resume import KilledError, at_step
from weakloc.api.training import PICTURE_SIDE, WatchedMaps, train
from weakloc.errors import SettingError
from weakloc.methods.settings import to_settings
from weakloc.settings import TrainSettings
from weakloc.structures import PRESENT, DataSet
from weakloc.training.plan import chosen_hardware

CHOICES = {name: value for name, value in to_settings(method()).items() if name != "backbone"}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return make_data_set(tmp_path_factory.mktemp("watched"))


def trained(data_set: DataSet, out: Path, *, resume: bool = False, **more: object) -> Path:
    given = settings(watch_maps=3, **more)
    return train(data_set, choices=CHOICES, out=out, settings=given, resume=resume).path


def kept(run: Path, epoch: int) -> list[np.ndarray]:
    with np.load(run / "maps" / f"{epoch:04}.npz") as stored:
        return [stored[f"arr_{row}"] for row in range(len(stored.files))]


def test_the_maps_of_the_last_epoch_are_those_of_the_trained_network(
    data_set: DataSet, tmp_path: Path
) -> None:
    run = train(
        data_set, choices=CHOICES, out=tmp_path / "run", settings=settings(watch_maps=3)
    ).run
    tagged = [s for s in data_set.splits["val"] if (s.labels == PRESENT).any()]
    chosen = [tagged[row * len(tagged) // 3] for row in range(3)]
    for sample, heat in zip(chosen, kept(run.path, 3), strict=True):
        with Image.open(sample.path) as picture:
            images, _ = run.preprocessing.apply(picture.convert("RGB"))
        with torch.inference_mode():
            maps = run.network.eval()(images[None]).maps
        class_index = int(np.flatnonzero(sample.labels == PRESENT)[0])
        rows, columns = round(32 * HEIGHT / WIDTH), 32
        whole = interpolate(maps, (rows, columns), mode="bilinear", align_corners=False)
        expected = whole[0, class_index].sigmoid().numpy()
        np.testing.assert_allclose(heat.astype(np.float32), expected, atol=2e-3)
    assert {path.name for path in (run.path / "maps").iterdir()} == {
        "0001.npz",
        "0002.npz",
        "0003.npz",
    }
    with Image.open(run.path / "maps.png") as strip:
        assert strip.width == 4 * PICTURE_SIDE  # the picture and three epochs
        assert strip.height > 3 * PICTURE_SIDE


def test_watching_maps_changes_no_weight(data_set: DataSet, tmp_path: Path) -> None:
    plain = train(data_set, choices=CHOICES, out=tmp_path / "plain", settings=settings()).path
    watched = trained(data_set, tmp_path / "watched")
    name = "model.safetensors"
    assert (plain / name).read_bytes() == (watched / name).read_bytes()
    assert not (plain / "maps.png").exists()


def test_a_killed_run_ends_with_the_same_strip(
    data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(data_set, tmp_path / "whole")

    def die() -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patched:
        at_step(patched, 1, 2, die, step="training_step")
        with pytest.raises(KilledError):
            trained(data_set, tmp_path / "killed")
    assert len(list((tmp_path / "killed" / "maps").iterdir())) == 1
    killed = trained(data_set, tmp_path / "killed", resume=True)
    for epoch in (1, 2, 3):
        for one, other in zip(kept(whole, epoch), kept(killed, epoch), strict=True):
            assert np.array_equal(one, other)
    assert (whole / "maps.png").read_bytes() == (killed / "maps.png").read_bytes()


def test_an_epoch_whose_maps_cannot_be_drawn_is_done_again(
    data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        draw = WatchedMaps.__call__

        def failing(watched, plan, epoch):
            if epoch == 2:
                raise KilledError
            draw(watched, plan, epoch)

        patched.setattr(WatchedMaps, "__call__", failing)
        with pytest.raises(KilledError):
            trained(data_set, tmp_path / "run")
    run = trained(data_set, tmp_path / "run", resume=True)
    assert len(list((run / "maps").iterdir())) == 3


def test_no_process_of_fsdp_has_the_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weakloc.training.plan.accelerator", lambda: "gpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(SettingError, match="--watch-maps"):
        chosen_hardware(TrainSettings(watch_maps=2, strategy="fsdp", devices=1))
