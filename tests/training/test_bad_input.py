"""Odd data either trains or gets one line that says what would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.small_data import make_data_set, method, settings
from weakloc.errors import DataError, OutputError, SettingError, WeaklocError
from weakloc.methods.cam import Cam
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, DataSet, Sample
from weakloc.training.fit import fit

Relabel = Callable[[Sample], list[int]]


def changed(data_set: DataSet, relabel: Relabel, *, names: tuple[str, ...]) -> DataSet:
    splits = {
        split: [
            replace(sample, labels=np.array(relabel(sample), dtype=np.int8), truth=None)
            for sample in samples
        ]
        for split, samples in data_set.splits.items()
    }
    return DataSet(data_set.root, "folders", names, splits)


def only_train(data_set: DataSet, count: int) -> DataSet:
    return replace(data_set, splits={"train": data_set.splits["train"][:count]})


def test_one_image_trains(data_set: DataSet, tmp_path: Path) -> None:
    run = fit(only_train(data_set, 1), method(), settings(epochs=2), tmp_path)
    assert [record.classification_map for record in run.history] == [None, None]
    assert "too few" in run.selection.watched


def test_one_class_trains_and_softmax_says_why_it_cannot(data_set: DataSet, tmp_path: Path) -> None:
    one = changed(data_set, lambda sample: [int(sample.labels[0])], names=("red",))
    run = fit(one, method(), settings(epochs=1), tmp_path / "logistic")
    assert run.history[0].classification_map is not None
    with pytest.raises(SettingError, match="softmax cannot learn from a single class"):
        fit(one, Cam(loss="softmax"), settings(), tmp_path / "softmax")
    assert not (tmp_path / "softmax" / "last.ckpt").exists()


def test_a_class_without_any_image_trains_and_is_reported(
    data_set: DataSet, tmp_path: Path
) -> None:
    three = changed(
        data_set, lambda sample: [*sample.labels.tolist(), ABSENT], names=("red", "green", "blue")
    )
    run = fit(three, method(), settings(epochs=1), tmp_path)
    assert any("'blue' is on no image" in note for note in run.notes)
    assert run.labels.present[2] == 0
    assert all(value.isfinite().all() for value in run.network.state_dict().values())


def test_all_tags_unknown_is_refused(data_set: DataSet, tmp_path: Path) -> None:
    unknown = changed(data_set, lambda _: [UNKNOWN] * 2, names=("red", "green"))
    with pytest.raises(DataError, match=r"all training images are unknown.*Say for some"):
        fit(unknown, method(), settings(), tmp_path)


def test_unknown_tags_move_nothing(data_set: DataSet, tmp_path: Path) -> None:
    """A class that is unknown everywhere keeps the weights that chance gave it."""
    half = changed(data_set, lambda each: [int(each.labels[0]), UNKNOWN], names=("red", "green"))
    still = method(maps_per_class=1, optimisation=replace(method().optimisation, weight_decay=0.0))
    one, two = (
        fit(half, still, settings(epochs=epochs), tmp_path / str(epochs)) for epochs in (1, 2)
    )
    weights = [run.network.state_dict()["head.transfer.weight"] for run in (one, two)]
    assert torch.equal(weights[0][1], weights[1][1])
    assert not torch.equal(weights[0][0], weights[1][0])
    assert any("'green' is unknown on every image" in note for note in two.notes)


def test_a_batch_larger_than_the_data_is_the_data(data_set: DataSet, tmp_path: Path) -> None:
    all_at_once = fit(data_set, method(), settings(batch_size=22, epochs=2), tmp_path / "22")
    larger = fit(data_set, method(), settings(batch_size=500, epochs=2), tmp_path / "500")
    assert [r.loss for r in larger.history] == [r.loss for r in all_at_once.history]


def test_images_smaller_than_the_network_input_are_enlarged_and_inputs_too_small_refused(
    data_set: DataSet, tmp_path: Path
) -> None:
    assert fit(data_set, method(), settings(epochs=1, image_size=64), tmp_path / "64").history
    with pytest.raises(
        SettingError, match=r"--image-size is 7, but tiny needs at least \d+ pixels"
    ):
        fit(data_set, method(), settings(image_size=7), tmp_path / "7")


def test_broken_images_are_skipped_and_noted_unless_all_are(
    data_set: DataSet, tmp_path: Path
) -> None:
    own = make_data_set(tmp_path / "data", num_train=6, num_val=2)
    Path(own.splits["train"][3].path).write_bytes(b"no image")
    run = fit(own, method(), settings(epochs=1), tmp_path / "one")
    assert any("1 images could not be read; the first, train3.png" in note for note in run.notes)
    for sample in own.samples():
        Path(sample.path).unlink()
    for frozen in (False, True):
        with pytest.raises(WeaklocError, match="read"):
            fit(own, method(), settings(frozen=frozen), tmp_path / f"none {frozen}")


def test_an_unknown_backbone_names_the_nearest(data_set: DataSet, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Did you mean 'tiny'"):
        fit(data_set, method(), settings(backbone="tinny"), tmp_path)


def test_a_folder_that_cannot_be_made_is_said(data_set: DataSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"run: cannot be written .*another --out"):
        fit(data_set, method(), settings(), tmp_path / "file" / "run")


@pytest.mark.parametrize("name", ["model.safetensors", "cells.safetensors", "epochs.csv"])
def test_what_others_made_is_not_overwritten(data_set: DataSet, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("of another program")
    for resume in (False, True):
        with pytest.raises(DataError, match=f"{name}: is there already, and weakloc did not make"):
            fit(data_set, method(), settings(), tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_selection_by_the_best_epoch_and_patience_use_tags_alone(
    data_set: DataSet, tmp_path: Path
) -> None:
    fast = replace(method().optimisation, learning_rate=0.2)
    eager = settings(select="best", patience=2, epochs=30)
    run = fit(data_set, method(optimisation=fast), eager, tmp_path)
    maps = [record.classification_map or 0.0 for record in run.history]
    assert run.selection.epoch == int(np.argmax(maps)) + 1
    assert len(maps) == min(run.selection.epoch + 2, 30)
    assert "tags only" in run.selection.by
    scores = []
    for sample in data_set.splits["val"]:
        from weakloc.data.images import open_image

        pixels, _ = run.preprocessing.apply(open_image(sample.path))
        with torch.inference_mode():
            scores.append(run.network(pixels[None]).scores[0].numpy())
    labels = np.array([sample.labels for sample in data_set.splits["val"]])
    assert mean_precision(np.array(scores), labels) == pytest.approx(max(maps), abs=1e-9)


def mean_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """VOC 2012's area under the envelope, slowly."""
    values = []
    for column, label in zip(scores.T, labels.T, strict=True):
        right = label[np.argsort(-column, kind="stable")] == PRESENT
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        envelope = [precision[rank:].max() for rank in range(len(right))]
        values.append(sum(envelope[rank] for rank in np.flatnonzero(right)) / right.sum())
    return float(np.mean(values))
