"""Two real data sets, where they are there; the counts are those of their publishers."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import shared_file
from weakloc.data.readers import raise_if_strict, read_data_set
from weakloc.settings import ReaderOptions
from weakloc.structures import PRESENT, DataSet, TruthBox

pytestmark = pytest.mark.shared


def unpacked(shared_archive: Path, folder: Path) -> DataSet:
    with tarfile.open(shared_archive) as tar:
        tar.extractall(folder, filter="data")
    return read_data_set(folder / shared_archive.stem, options=ReaderOptions())


def test_the_steel_defects_are_read_as_published(tmp_path):
    data_set = unpacked(shared_file("data/neu-det.tar"), tmp_path)
    assert data_set.layout == "voc"
    assert {split: len(samples) for split, samples in data_set.splits.items()} == {
        "train": 1200,
        "val": 300,
    }
    assert data_set.class_names == (
        "crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches",
    )  # fmt: skip
    raise_if_strict(data_set)
    drawn = Counter(len({b.class_index for b in s.truth.boxes}) for s in data_set.samples())
    assert set(drawn) == {1, 2, 3}
    assert drawn[2] + drawn[3] == 106
    for sample in data_set.samples():
        sure = {box.class_index for box in sample.truth.boxes if not box.difficult}
        assert sure == {index for index, state in enumerate(sample.labels) if state == PRESENT}
    (sample,) = [s for s in data_set.samples() if s.name == "JPEGImages/scratches_99.jpg"]
    assert sample.truth.boxes == (TruthBox(5, (0, 135, 199, 163)),)


def test_the_twenty_classes_of_tiny_imagenet_are_read_as_published(tmp_path):
    data_set = unpacked(shared_file("data/tiny-imagenet-20.tar"), tmp_path)
    assert data_set.layout == "tiny_imagenet"
    assert len(data_set.class_names) == 20
    assert data_set.class_names[:2] == ("goldfish", "centipede")
    assert data_set.problems == ()
    for split, each in (("train", 500), ("val", 50)):
        present = Counter(s.labels.tobytes() for s in data_set.splits[split])
        assert set(present.values()) == {each}
        assert len(present) == 20
    assert all(len(sample.truth.boxes) == 1 for sample in data_set.samples())
    (sample,) = [s for s in data_set.samples() if s.name == "val/images/val_13.JPEG"]
    assert sample.truth.boxes[0].box == (21, 33, 37, 44)
