"""Class folders, whole and broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weakloc.data.readers import raise_if_strict, read_data_set
from weakloc.errors import DataError
from weakloc.settings import ReaderOptions

OPTIONS = ReaderOptions()


def test_the_folder_of_an_image_is_its_only_class(write, states, kinds):
    root = write(
        {
            "big cat/1.jpg": "",
            "big cat/2.PNG": "",
            "big cat/.hidden.jpg": "",
            "big cat/notes.txt": "",
            "Käse/a b.webp": "",
            "__MACOSX/big cat/1.jpg": "",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.layout == "folders"
    assert data_set.class_names == ("Käse", "big cat")
    assert states(data_set) == {
        "all": {"Käse/a b.webp": "+-", "big cat/1.jpg": "-+", "big cat/2.PNG": "-+"}
    }
    assert Path(data_set.splits["all"][0].path) == root / "Käse" / "a b.webp"
    assert kinds(data_set) == {}
    raise_if_strict(data_set)


def test_folders_below_a_class_belong_to_it_and_levels_of_folders_name_it(write, states):
    root = write(
        {
            "animals/cat/1.jpg": "",
            "animals/cat/winter/deep/2.jpg": "",
            "animals/dog/3.jpg": "",
            "plants/4.jpg": "",
            "plants/trees/oak/5.jpg": "",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.class_names == ("animals/cat", "animals/dog", "plants")
    assert states(data_set)["all"] == {
        "animals/cat/1.jpg": "+--",
        "animals/cat/winter/deep/2.jpg": "+--",
        "animals/dog/3.jpg": "-+-",
        "plants/4.jpg": "--+",
        "plants/trees/oak/5.jpg": "--+",
    }


def test_splits_are_recognised_by_any_of_their_names(write, states, places):
    root = write(
        {
            "Training/cat/1.jpg": "",
            "Training/dog/2.jpg": "",
            "valid/cat/3.jpg": "",
            "valid/dog/odd/4.jpg": "",
            "test/cat/5.jpg": "",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set) == {
        "train": {"Training/cat/1.jpg": "+-", "Training/dog/2.jpg": "-+"},
        "val": {"valid/cat/3.jpg": "+-", "valid/dog/odd/4.jpg": "-+"},
        "test": {"test/cat/5.jpg": "+-"},
    }
    assert list(data_set.splits) == ["train", "val", "test"]
    (problem,) = data_set.problems
    assert problem.kind == "class in one split only"
    assert problem.message == "'dog' is in train and val, not in test"
    with pytest.raises(DataError, match="class in one split only"):
        raise_if_strict(data_set)


def test_a_class_may_be_called_train(write, states):
    root = write({"train/1.jpg": "", "bus/2.jpg": ""})
    assert states(read_data_set(root, options=OPTIONS))["all"] == {
        "bus/2.jpg": "+-",
        "train/1.jpg": "-+",
    }


def test_split_folders_among_class_folders_are_reported(write, kinds):
    root = write({"train/cat/1.jpg": "", "val/cat/2.jpg": "", "extra/3.jpg": ""})
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.class_names == ("extra", "train/cat", "val/cat")
    assert kinds(data_set) == {"split folder among class folders": 1}


def test_links_are_followed_once_and_never_in_circles(write, states, kinds, places, tmp_path):
    root = write({"cat/1.jpg": "", "dog/2.jpg": ""})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "3.jpg").touch()
    (root / "cow").symlink_to(elsewhere, target_is_directory=True)
    (root / "cat" / "loop").symlink_to(root, target_is_directory=True)
    (root / "dog" / "linked.jpg").symlink_to(root / "cat" / "1.jpg")
    (root / "dog" / "lost.jpg").symlink_to(root / "nowhere.jpg")
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["all"] == {
        "cat/1.jpg": "+--",
        "cow/3.jpg": "-+-",
        "dog/2.jpg": "--+",
        "dog/linked.jpg": "--+",
    }
    assert kinds(data_set) == {"missing image": 1}
    assert places(data_set, "missing image") == ["dog/lost.jpg"]


def test_images_outside_of_class_folders_are_reported_and_left_out(write, places):
    root = write({"cat/1.jpg": "", "dog/2.jpg": "", "3.jpg": "", "4.jpg": ""})
    data_set = read_data_set(root, options=OPTIONS)
    assert len(list(data_set.samples())) == 2
    assert places(data_set, "image without labels") == ["."]


def test_chosen_classes_fix_the_order_and_expose_the_others(write, states, kinds):
    root = write({"cat/1.jpg": "", "dgo/2.jpg": ""})
    data_set = read_data_set(root, options=ReaderOptions(class_names=("dog", "cat")))
    assert states(data_set)["all"] == {"cat/1.jpg": "-+", "dgo/2.jpg": "--"}
    assert kinds(data_set) == {"unknown class": 1, "class without images": 1}
    with pytest.raises(DataError, match=r"dgo/2.jpg: unknown class: class 'dgo'.*mean 'dog'"):
        raise_if_strict(data_set)


def test_label_vectors_are_shared_and_cannot_be_written(write):
    root = write({"cat/1.jpg": "", "cat/2.jpg": "", "dog/3.jpg": ""})
    first, second, third = read_data_set(root, options=OPTIONS).splits["all"]
    assert first.labels is second.labels
    assert first.labels is not third.labels
    with pytest.raises(ValueError, match="read-only"):
        first.labels[0] = 0


MIT67 = {
    **{f"Images/{name}.jpg": "" for name in ("bar/1", "bar/2", "bar/3", "inside_bus/1")},
    "TrainImages.txt": "bar/1.jpg\r\ninside_bus/1.jpg\r\n",
    "TestImages.txt": "bar/2.jpg\n",
}


def test_the_lists_of_mit67_are_its_splits(write, states, kinds):
    data_set = read_data_set(write(MIT67), options=OPTIONS)
    assert data_set.layout == "folders"
    assert data_set.class_names == ("bar", "inside_bus")
    assert states(data_set) == {
        "train": {"Images/bar/1.jpg": "+-", "Images/inside_bus/1.jpg": "-+"},
        "test": {"Images/bar/2.jpg": "+-"},
    }
    assert kinds(data_set) == {"image in no split": 1, "class in one split only": 1}


def test_lists_beside_the_class_folders_may_number_the_classes(write, states, places):
    """As 15 Scene is handed on: folders alone, or with train.txt and test.txt."""
    images = {f"{name}.jpg": "" for name in ("bedroom/image_0001", "bedroom/image_0002", "coast/1")}
    root = write({**images, "readme.txt": "15 scenes", "empty.txt": ""})
    assert states(read_data_set(root, options=OPTIONS)) == {
        "all": {
            "bedroom/image_0001.jpg": "+-", "bedroom/image_0002.jpg": "+-", "coast/1.jpg": "-+",
        }
    }  # fmt: skip
    write(
        {
            "train.txt": "bedroom/image_0001.jpg 0\r\n.\\coast\\1.jpg 1\nbedroom/gone.jpg\n",
            "test_list.txt": "bedroom/image_0002.jpg,0\nalone.jpg\n",
            "val.txt": "",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set) == {
        "train": {"bedroom/image_0001.jpg": "+-", "coast/1.jpg": "-+"},
        "test": {"bedroom/image_0002.jpg": "+-"},
    }
    assert places(data_set, "missing image") == ["train.txt, line 3"]
    assert places(data_set, "unreadable label") == ["test_list.txt, line 2"]
    write({"train.txt": "a/1.jpg\n", "test_list.txt": ""})
    with pytest.raises(DataError, match=r"such as 'a/1.jpg'.*--image-root"):
        read_data_set(root, options=OPTIONS)


def test_a_folder_without_images_is_an_error(write):
    root = write({"cat/readme.md": ""})
    with pytest.raises(DataError, match="holds no image"):
        read_data_set(root, layout="folders", options=OPTIONS)


def test_names_that_are_no_text_are_reported_and_left_out(write, tmp_path):
    root = write({"cat/1.jpg": "", "dog/1.jpg": ""})
    for name in (b"cat/caf\xe9.jpg", b"caf\xe9/1.jpg"):
        path = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.class_names == ("cat", "dog")
    assert [sample.name for sample in data_set.samples()] == ["cat/1.jpg", "dog/1.jpg"]
    assert sorted(problem.message for problem in data_set.problems) == [
        "the name 'caf\\udce9/1.jpg' is not UTF-8; left out",
        "the name 'cat/caf\\udce9.jpg' is not UTF-8; left out",
    ]
