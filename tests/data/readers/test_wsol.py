"""The metadata folder of wsolevaluation, whole and broken."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from weakloc.data.readers import read_data_set
from weakloc.errors import DataError
from weakloc.rle import decode_mask
from weakloc.settings import ReaderOptions
from weakloc.structures import TruthBox

OPTIONS = ReaderOptions()
METADATA = {
    "train/image_ids.txt": "001.Gull/a, b.jpg\n002.Tern/ü.jpg\n",
    "train/class_labels.txt": "001.Gull/a, b.jpg,0\n002.Tern/ü.jpg,1\n",
    "test/image_ids.txt": "001.Gull/3.jpg\n",
    "test/class_labels.txt": "001.Gull/3.jpg,0\n",
    "test/image_sizes.txt": "001.Gull/3.jpg,40,30\n",
    "test/localization.txt": "001.Gull/3.jpg,1,2,10,20\n001.Gull/3.jpg,0,0,39,29\n",
}
IMAGES = {"001.Gull/a, b.jpg": "", "002.Tern/ü.jpg": "", "001.Gull/3.jpg": ""}


def laid_out(metadata: dict[str, str], images: dict[str, str]) -> dict[str, str]:
    return {
        **{f"metadata/CUB/{name}": text for name, text in metadata.items()},
        **{f"dataset/CUB/{name}": text for name, text in images.items()},
    }


def test_numbers_are_named_by_the_folders_and_corners_count_in(write, states, kinds):
    data_set = read_data_set(write(laid_out(METADATA, IMAGES)), options=OPTIONS)
    assert data_set.layout == "wsol"
    assert data_set.class_names == ("001.Gull", "002.Tern")
    assert states(data_set) == {
        "train": {"dataset/CUB/001.Gull/a, b.jpg": "+-", "dataset/CUB/002.Tern/ü.jpg": "-+"},
        "test": {"dataset/CUB/001.Gull/3.jpg": "+-"},
    }
    assert data_set.splits["test"][0].truth.boxes == (
        TruthBox(0, (1, 2, 11, 21)),
        TruthBox(0, (0, 0, 40, 30)),
    )
    assert kinds(data_set) == {"class in one split only": 1}


def test_the_metadata_may_lie_elsewhere_and_the_classes_be_named(write, states, tmp_path):
    root = write({f"pictures/{name}": text for name, text in IMAGES.items()})
    write({f"lists/{name}": text for name, text in METADATA.items()})
    options = ReaderOptions(class_names=("gull", "tern"))
    data_set = read_data_set(root / "pictures", labels=root / "lists", options=options)
    assert data_set.layout == "wsol"
    assert states(data_set)["test"] == {"001.Gull/3.jpg": "+-"}


def test_classes_whose_images_lie_in_one_folder_keep_their_numbers(write):
    metadata = {
        "val/image_ids.txt": "v/1.jpg\nv/2.jpg\n",
        "val/class_labels.txt": "v/1.jpg,0\nv/2.jpg,2\n",
    }
    root = write(laid_out(metadata, {"v/1.jpg": "", "v/2.jpg": ""}))
    assert read_data_set(root, options=OPTIONS).class_names == ("0", "1", "2")


def test_masks_are_read_when_asked_for_and_what_to_ignore_is_crowd(write):
    metadata = {
        "val/image_ids.txt": "a/1.jpg\n",
        "val/class_labels.txt": "a/1.jpg,0\n",
        "val/localization.txt": "a/1.jpg,m/1.png,m/skip.png\na/1.jpg,m/gone.png,\n",
    }
    root = write(laid_out(metadata, {"a/1.jpg": ""}))
    expected = np.zeros((5, 7), dtype=bool)
    expected[1:3, 2:6] = True
    folder = root / "dataset" / "CUB" / "m"
    folder.mkdir()
    Image.fromarray(expected.astype(np.uint8) * 255).save(folder / "1.png")
    Image.fromarray((~expected).astype(np.uint8) * 9).save(folder / "skip.png")
    data_set = read_data_set(root, options=OPTIONS)
    mask, ignored = data_set.splits["val"][0].truth.masks
    np.testing.assert_array_equal(decode_mask(mask.rle), expected)
    np.testing.assert_array_equal(decode_mask(ignored.rle), ~expected)
    assert (mask.crowd, ignored.crowd) == (False, True)
    assert [p.kind for p in data_set.problems] == ["unreadable mask"]


def test_every_flaw_is_reported_with_its_line(write, states, places):
    metadata = {
        **METADATA,
        "train/image_ids.txt": "001.Gull/a, b.jpg\n002.Tern/ü.jpg\ngone.jpg\n002.Tern/ü.jpg\n",
        "train/class_labels.txt": "001.Gull/a, b.jpg,x\n002.Tern/ü.jpg,1\nother.jpg,1\n"
        "002.Tern/ü.jpg,1\nnothing\n001.Gull/a, b.jpg,22000\n001.Gull/a, b.jpg,1000000000\n",
        "test/localization.txt": "001.Gull/3.jpg,9,2,1,20\n001.Gull/3.jpg,30,20,90,25\n"
        "other.jpg,1,1,2,2\n001.Gull/3.jpg,1,x,2,2\n001.Gull/3.jpg\n",
    }
    data_set = read_data_set(write(laid_out(metadata, IMAGES)), options=OPTIONS)
    assert list(states(data_set)["train"].values()) == ["??", "-+"]
    assert places(data_set, "duplicate image") == ["train/image_ids.txt, line 4"]
    assert places(data_set, "duplicate label") == ["train/class_labels.txt, line 4"]
    assert places(data_set, "label for no image") == [
        "test/localization.txt, line 3",
        "train/class_labels.txt, line 3",
    ]
    assert places(data_set, "unreadable label") == [
        "test/localization.txt, line 5",
        "train/class_labels.txt, line 1",
        "train/class_labels.txt, line 5",
        "train/class_labels.txt, line 6",
        "train/class_labels.txt, line 7",
    ]
    assert places(data_set, "missing image") == ["train/image_ids.txt, line 3"]
    assert places(data_set, "image without labels") == ["train/image_ids.txt, line 1"]
    assert places(data_set, "zero-area box") == ["test/localization.txt, line 1"]
    assert places(data_set, "box outside the image") == ["test/localization.txt, line 2"]
    assert places(data_set, "unreadable box") == ["test/localization.txt, line 4"]


def test_metadata_of_several_data_sets_or_without_images_is_an_error(write):
    root = write({f"metadata/CUB/{name}": text for name, text in METADATA.items()})
    with pytest.raises(DataError, match="none of its images was found"):
        read_data_set(root, options=OPTIONS)
    write({f"metadata/ILSVRC/{name}": text for name, text in METADATA.items()})
    with pytest.raises(DataError, match="several folders of metadata: CUB, ILSVRC"):
        read_data_set(root, options=OPTIONS)
