"""What is learned from, what is watched, and what the tags say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from weakloc.errors import DataError, SettingError
from weakloc.settings import TrainSettings
from weakloc.structures import DataSet, Sample
from weakloc.training.plan import count_labels, divide


def data_set(rows: list[list[int]], **splits: list[list[int]]) -> DataSet:
    named = {"train": rows, **splits}
    samples = {
        split: [
            Sample(f"{split}{index}", "", np.array(row, dtype=np.int8))
            for index, row in enumerate(labels)
        ]
        for split, labels in named.items()
    }
    width = len(next((row for rows in named.values() for row in rows), []))
    names = tuple(f"class{index}" for index in range(width))
    return DataSet(Path("somewhere"), "folders", names, samples)


def test_the_validation_split_is_watched_where_there_is_one() -> None:
    division = divide(data_set([[1], [-1]], val=[[1]]), TrainSettings())
    assert [sample.name for sample in division.learned] == ["train0", "train1"]
    assert [sample.name for sample in division.watched] == ["val0"]


def test_with_one_a_share_is_held_out_only_where_it_is_asked_for() -> None:
    rows = [[1 if index % 2 else -1] for index in range(40)]
    whole = divide(data_set(rows, val=[[1], [-1]]), TrainSettings())
    assert (len(whole.learned), len(whole.held_out)) == (40, 0)
    asked = divide(data_set(rows, val=[[1], [-1]]), TrainSettings(hold_out=0.2))
    assert [sample.name for sample in asked.watched] == ["val0", "val1"]
    assert "'val'" in asked.watched_name
    names = [{sample.name for sample in part} for part in (asked.learned, asked.held_out)]
    assert tuple(map(len, names)) == (32, 8)
    assert names[0] | names[1] == {f"train{index}" for index in range(40)}


def test_without_one_a_seeded_share_is_kept_back() -> None:
    rows = [[1 if index % 2 else -1] for index in range(40)]
    first, again = (divide(data_set(rows), TrainSettings(hold_out=0.2)) for _ in range(2))
    other = divide(data_set(rows), TrainSettings(hold_out=0.2, seed=1))
    names = [sample.name for sample in first.watched]
    assert len(names) == 8
    assert names == [sample.name for sample in again.watched]
    assert names != [sample.name for sample in other.watched]
    together = {sample.name for sample in (*first.learned, *first.watched)}
    assert len(together) == 40
    assert "8 of 40" in first.watched_name


def with_joined(data: DataSet, **joined: list[str]) -> DataSet:
    """With splits of images that other splits have as well."""
    known = {sample.name: sample for samples in data.splits.values() for sample in samples}
    splits = {split: [known[name] for name in names] for split, names in joined.items()}
    return replace(data, splits={**data.splits, **splits})


VOC = with_joined(
    data_set([[1], [-1], [1], [-1]], val=[[1], [-1]], test=[[1]]),
    trainval=["train0", "train1", "train2", "train3", "val0", "val1"],
    half=["train0", "val0"],
)


@pytest.mark.parametrize("learned", ["trainval", "train+val", "val + train", "trainval+val"])
def test_val_is_not_watched_where_all_of_it_is_learned_from(learned: str) -> None:
    division = divide(VOC, TrainSettings(train_split=learned, hold_out=0.34))
    names = [sample.name for sample in (*division.learned, *division.watched)]
    assert sorted(names) == ["train0", "train1", "train2", "train3", "val0", "val1"]
    assert len(division.watched) == 2
    assert "2 of 6 training images" in division.watched_name
    everything = divide(VOC, TrainSettings(train_split=learned, hold_out=0))
    assert len(everything.learned) == 6
    assert len(everything.watched) == 0
    judged = divide(VOC, TrainSettings(train_split=learned, val_split="test"))
    assert len(judged.learned) == 6
    assert [sample.name for sample in judged.watched] == ["test0"]


def test_an_image_that_is_learned_from_is_never_watched() -> None:
    half = "1 of 2 images of split 'val' .* such as 'val0'"
    with pytest.raises(DataError, match=half):
        divide(VOC, TrainSettings(train_split="half"))
    with pytest.raises(DataError, match="2 of 6 images of split 'trainval'"):
        divide(VOC, TrainSettings(train_split="val", val_split="trainval"))
    with pytest.raises(DataError, match=r"1 of 3 images of split 'test\+half'"):
        divide(VOC, TrainSettings(val_split="test+half"))


def test_a_split_to_watch_that_was_asked_for_must_be_there() -> None:
    with pytest.raises(DataError, match=r"no split 'tests'.*'test'. \(--val-split\)"):
        divide(VOC, TrainSettings(val_split="tests"))


def test_the_best_epoch_needs_something_to_watch() -> None:
    with pytest.raises(SettingError, match=r"--hold-out is 0 .*--select best"):
        divide(VOC, TrainSettings(train_split="trainval", hold_out=0, select="best"))


def test_the_last_image_of_a_class_is_never_kept_back() -> None:
    rows = [[1, -1]] + [[-1, 1]] * 9
    for seed in range(20):
        division = divide(data_set(rows), TrainSettings(hold_out=0.9, seed=seed))
        assert "train0" in {sample.name for sample in division.learned}
        assert len(division.learned) == 2


def test_data_without_splits_is_learned_from_as_a_whole() -> None:
    rows = [[1 if index % 2 else -1] for index in range(10)]
    whole = DataSet(Path("photos"), "folders", ("cat",), {"all": data_set(rows).splits["train"]})
    division = divide(whole, TrainSettings())
    assert len(division.learned) == 9
    assert len(division.watched) == 1
    with pytest.raises(DataError, match="'learn'"):
        divide(whole, TrainSettings(train_split="learn"))


def test_one_image_is_learned_and_nothing_watched() -> None:
    division = divide(data_set([[1, -1]]), TrainSettings())
    assert len(division.learned) == 1
    assert len(division.watched) == 0


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([[0], [0]], TrainSettings(), "unknown.*Say for some images"),
        ([], TrainSettings(), "no image in split 'train'"),
        ([[1]], TrainSettings(train_split="trian"), "Did you mean 'train'"),
    ],
)
def test_data_without_anything_to_learn_is_refused(
    rows: list[list[int]], settings: TrainSettings, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        divide(data_set(rows), settings)


def test_labels_are_counted_by_hand() -> None:
    samples = data_set([[1, 1, 0], [1, -1, 0], [-1, -1, 0], [1, 1, 0]]).splits["train"]
    statistics = count_labels(samples, 3)
    assert statistics.present == [3, 2, 0]
    assert statistics.absent == [1, 2, 0]
    assert statistics.unknown == [0, 0, 4]
    assert statistics.co_occurrence == [[3, 2, 0], [2, 2, 0], [0, 0, 0]]


def test_classes_that_cannot_be_learned_are_reported() -> None:
    samples = data_set([[1, 1, -1, 0], [-1, 1, -1, 0]]).splits["train"]
    odd = count_labels(samples, 4).odd_classes(("good", "always", "never", "unsaid"))
    assert [note.split(" ")[1] for note in odd] == ["'always'", "'never'", "'unsaid'"]
    assert "is on no image" in odd[1]
