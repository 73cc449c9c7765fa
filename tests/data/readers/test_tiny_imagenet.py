"""Tiny ImageNet's own layout, whole and broken."""

from __future__ import annotations

import pytest

from weakloc.data.readers import read_data_set
from weakloc.errors import DataError
from weakloc.settings import ReaderOptions
from weakloc.structures import TruthBox

OPTIONS = ReaderOptions()
WHOLE = {
    "wnids.txt": "n2\nn1\n",
    "words.txt": "n0\tnothing\nn1\tgoldfish, Carassius auratus\nn2\tblack stork\n",
    "train/n1/images/n1_0.JPEG": "",
    "train/n1/images/n1_1.JPEG": "",
    "train/n1/n1_boxes.txt": "n1_0.JPEG\t0\t10\t63\t58\nn1_1.JPEG\t63\t10\t63\t53\n",
    "train/n2/images/n2_0.JPEG": "",
    "train/n2/n2_boxes.txt": "n2_0.JPEG\t1\t2\t3\t4\n",
    "val/images/val_0.JPEG": "",
    "val/images/val_1.JPEG": "",
    "val/val_annotations.txt": "val_0.JPEG\tn1\t4\t0\t60\t55\nval_1.JPEG\tn2\t0\t0\t63\t63\n",
}


def test_classes_are_in_the_order_of_the_list_and_boxes_half_open(write, states, kinds):
    data_set = read_data_set(write(WHOLE), options=OPTIONS)
    assert data_set.layout == "tiny_imagenet"
    assert data_set.class_names == ("black stork", "goldfish")
    assert states(data_set) == {
        "train": {
            "train/n1/images/n1_0.JPEG": "-+",
            "train/n1/images/n1_1.JPEG": "-+",
            "train/n2/images/n2_0.JPEG": "+-",
        },
        "val": {"val/images/val_0.JPEG": "-+", "val/images/val_1.JPEG": "+-"},
    }
    boxes = {s.name.rpartition("/")[2]: s.truth.boxes for s in data_set.samples()}
    assert boxes["n1_0.JPEG"] == (TruthBox(1, (0, 10, 64, 59)),)
    assert boxes["n1_1.JPEG"] == (TruthBox(1, (63, 10, 64, 54)),)  # one pixel wide, not empty
    assert boxes["val_0.JPEG"] == (TruthBox(1, (4, 0, 61, 56)),)
    assert boxes["val_1.JPEG"] == (TruthBox(0, (0, 0, 64, 64)),)
    assert kinds(data_set) == {}


def test_without_words_and_list_the_sorted_ids_are_the_classes(write):
    root = write({n: c for n, c in WHOLE.items() if "/" in n})
    assert read_data_set(root, options=OPTIONS).class_names == ("n1", "n2")


def test_two_classes_with_the_same_word_stay_apart(write):
    root = write({**WHOLE, "words.txt": "n1\tcrane, bird\nn2\tcrane, machine\n"})
    assert read_data_set(root, options=OPTIONS).class_names == ("crane (n2)", "crane (n1)")


def test_every_flaw_is_reported_with_its_line(write, states, places):
    root = write(
        {
            **WHOLE,
            "train/n1/n1_boxes.txt": "n1_0.JPEG\t9\t10\t5\t58\nn1_1.JPEG\t1\t10\t99\t53\n"
            "gone.JPEG\t1\t2\t3\t4\nn1_0.JPEG\t1\t2\tx\t4\n",
            "train/n9/images/n9_0.JPEG": "",
            "val/images/val_2.JPEG": "",
            "val/images/val_3.JPEG": "",
            "val/val_annotations.txt": WHOLE["val/val_annotations.txt"]
            + "val_3.JPEG\tn9\t1\t1\t2\t2\nval_0.JPEG\tn1\t1\t1\t2\t2\n",
            "test/images/test_0.JPEG": "",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["val"] == {"val/images/val_0.JPEG": "-+", "val/images/val_1.JPEG": "+-"}
    assert places(data_set, "zero-area box") == ["n1_boxes.txt, line 1"]
    assert places(data_set, "box outside the image") == ["n1_boxes.txt, line 2"]
    assert places(data_set, "unreadable box") == ["n1_boxes.txt, line 4"]
    assert places(data_set, "label for no image") == ["n1_boxes.txt, line 3"]
    assert places(data_set, "unknown class") == ["train/n9"]
    assert places(data_set, "image without labels") == [
        "val/images/val_2.JPEG",
        "val/images/val_3.JPEG",
        "test/images",
    ]
    first, second = (s.truth for s in data_set.splits["train"][:2])
    assert first is None
    assert second.boxes[0].box == (1, 10, 64, 54)
    assert len(data_set.splits["val"][0].truth.boxes) == 2


def test_a_chosen_class_that_is_not_there_is_an_error(write):
    options = ReaderOptions(class_names=("goldfisch", "black stork"))
    with pytest.raises(DataError, match="Did you mean 'goldfish'"):
        read_data_set(write(WHOLE), options=options)
