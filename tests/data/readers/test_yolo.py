"""YOLO, whole and broken."""

from __future__ import annotations

import numpy as np
import pytest

from weakloc.data.readers import read_data_set
from weakloc.errors import DataError
from weakloc.rle import decode_mask
from weakloc.settings import ReaderOptions
from weakloc.structures import TruthBox

OPTIONS = ReaderOptions()
# Images are 40 x 30.
WHOLE = {
    "data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames: {0: big cat, 2: ü/dog}",
    "images/train/a b.png": None,
    "images/train/2.png": None,
    "images/val/3.png": None,
    "images/val/deep/4.png": None,
    "labels/train/a b.txt": "2 0.5 0.5 0.5 0.2\r\n0 0.25 0.5 0.5 1\r\n",
    "labels/train/2.txt": "",
    "labels/val/deep/4.txt": "0 0.25 0 0.75 0 0.75 0.5 0.25 0.5\n",
}


def test_boxes_are_shares_and_missing_files_mean_unknown_empty_ones_no_object(
    write, states, places
):
    data_set = read_data_set(write(WHOLE), options=OPTIONS)
    assert data_set.layout == "yolo"
    assert data_set.class_names == ("big cat", "1", "ü/dog")
    assert states(data_set) == {
        "train": {"images/train/2.png": "---", "images/train/a b.png": "+-+"},
        "val": {"images/val/3.png": "???", "images/val/deep/4.png": "+--"},
    }
    truth = data_set.splits["train"][1].truth
    assert truth.boxes == (TruthBox(2, (10, 12, 30, 18)), TruthBox(0, (0, 0, 20, 30)))
    assert data_set.splits["train"][0].truth is None
    assert places(data_set, "image without labels") == ["images/val/3.png"]


def test_polygons_become_masks_and_the_boxes_around_them(write):
    truth = read_data_set(write(WHOLE), options=OPTIONS).splits["val"][1].truth
    assert truth.boxes == (TruthBox(0, (10, 0, 30, 15)),)
    expected = np.zeros((30, 40), dtype=bool)
    expected[:15, 10:30] = True
    np.testing.assert_array_equal(decode_mask(truth.masks[0].rle), expected)


def test_images_may_be_listed_in_a_file_and_lie_in_several_folders(write, states, places):
    root = write(
        {
            **WHOLE,
            "data.yaml": "train: [../images/train, images/val/deep]\nval: val.txt\nnames: [a,b,c]",
            "val.txt": "./images/val/3.png\nimages/val/gone.png\n",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set) == {
        "train": {
            "images/train/2.png": "---",
            "images/train/a b.png": "+-+",
            "images/val/deep/4.png": "+--",
        },
        "val": {"images/val/3.png": "???"},
    }
    assert places(data_set, "missing image") == ["val.txt, line 2"]


def test_without_description_the_names_come_from_a_text_file(write, states):
    root = write(
        {
            "classes.txt": "cat\nsea dog\n",
            "train/images/1.png": None,
            "train/labels/1.txt": "1 0.5 0.5 1 1",
            "valid/images/2.png": None,
            "valid/labels/2.txt": "0 0.5 0.5 1 1",
        }
    )
    assert states(read_data_set(root, options=OPTIONS)) == {
        "train": {"train/images/1.png": "-+"},
        "val": {"valid/images/2.png": "+-"},
    }


def test_labels_may_lie_beside_the_images(write, states, kinds):
    root = write({"classes.txt": "cat\n", "1.png": None, "1.txt": "0 0.5 0.5 1 1", "2.png": None})
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["all"] == {"1.png": "+", "2.png": "?"}
    assert kinds(data_set) == {"image without labels": 1}


def test_every_flaw_is_reported_with_its_line(write, states, places):
    lines = [
        "0 0.5 0.5 0.5 0.2",
        "0 0.5 0.5 0.5 0.2",
        "7 0.5 0.5 0.5 0.2",
        "0 0.5 0.5 0.5",
        "cat 0.5 0.5 0.5 0.2",
        "-1 0.5 0.5 0.5 0.2",
        "2 0.5 0.5 0.5 0",
        "0 0.9 0.5 0.4 0.2",
        "0 nan 0.5 0.4 0.2",
    ]
    root = write(
        {
            **WHOLE,
            "labels/train/a b.txt": "\n".join(lines),
            "labels/train/orphan.txt": "",
            "images/train/2.png": "not an image",
            "labels/train/2.txt": "0 0.5 0.5 0.5 0.5",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["train"] == {"images/train/2.png": "+--", "images/train/a b.png": "+-+"}
    location = [f"labels/train/a b.txt, line {n}" for n in range(10)]
    assert places(data_set, "duplicate label") == [location[2]]
    assert places(data_set, "unknown class") == [location[3]]
    assert places(data_set, "unreadable label") == [
        location[4],
        location[5],
        location[6],
        location[9],
    ]
    assert places(data_set, "zero-area box") == [location[7]]
    assert places(data_set, "box outside the image") == [location[8]]
    assert places(data_set, "label for no image") == ["labels/train/orphan.txt"]
    assert places(data_set, "broken image") == ["images/train/2.png"]
    assert data_set.splits["train"][1].truth.boxes[1] == TruthBox(0, (28, 12, 40, 18))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [", "data.yaml, line 1: is not valid YAML"),
        ("train: images", "names no classes"),
        ("names: 3\ntrain: images", "neither a list nor a map"),
        ("names: {99999: a}\ntrain: images", "class 99999 is far beyond 1 names"),
        ("names: [a]", "names neither train nor val"),
        ("names: [a]\ntrain: nowhere", "'nowhere' does not exist"),
        ("names: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_a_description_that_says_too_little_is_an_error(write, text, message):
    with pytest.raises(DataError, match=message):
        read_data_set(write({**WHOLE, "data.yaml": text}), options=OPTIONS)
