"""Pascal VOC, whole and broken."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from weakloc.data.readers import raise_if_strict, read_data_set
from weakloc.data.readers.voc import voc_palette
from weakloc.data.summary import summarise
from weakloc.errors import DataError
from weakloc.rle import decode_mask
from weakloc.settings import ReaderOptions
from weakloc.structures import TruthBox

OPTIONS = ReaderOptions()


def annotation(*objects: tuple[str, int, tuple[object, ...]], size: str = "40 30") -> str:
    """The XML of (class, difficult, corners) objects."""
    width, height = size.split()
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax>"
        "</bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
        "<ymax>2</ymax></bndbox></part></object>"
        for name, difficult, b in objects
    )
    return (
        f"<annotation><size><width>{width}</width><height>{height}</height></size>{body}"
        "</annotation>"
    )


WHOLE = {
    "JPEGImages/a 1.jpg": "",
    "JPEGImages/ü2.png": "",
    "JPEGImages/3.jpg": "",
    "Annotations/a 1.xml": annotation(("cat", 0, (1, 1, 40, 30)), ("dog", 1, (2, 3, 2, 3))),
    "Annotations/ü2.xml": annotation(("dog", 0, (5, 6, 7.5, 9)), ("dog", 1, (1, 1, 9, 9))),
    "Annotations/3.xml": annotation(),
    "ImageSets/Main/train.txt": "a 1\r\nü2\r\n",
    "ImageSets/Main/val.txt": "3\n",
    "ImageSets/Main/trainval.txt": "3\na 1\nü2\n",
}


def test_objects_give_labels_and_half_open_boxes(write, states):
    data_set = read_data_set(write(WHOLE), options=OPTIONS)
    assert data_set.layout == "voc"
    assert data_set.class_names == ("cat", "dog")
    assert states(data_set) == {
        "train": {"JPEGImages/a 1.jpg": "+?", "JPEGImages/ü2.png": "-+"},
        "val": {"JPEGImages/3.jpg": "--"},
        "trainval": {
            "JPEGImages/3.jpg": "--", "JPEGImages/a 1.jpg": "+?", "JPEGImages/ü2.png": "-+",
        },
    }  # fmt: skip
    first, second = data_set.splits["train"]
    assert first.truth.boxes == (
        TruthBox(0, (0.0, 0.0, 40.0, 30.0)),
        TruthBox(1, (1.0, 2.0, 2.0, 3.0), difficult=True),
    )
    assert second.truth.boxes[0] == TruthBox(1, (4.0, 5.0, 7.5, 9.0))
    assert data_set.splits["val"][0].truth is None


def test_only_difficult_objects_can_count_as_present(write, states):
    options = ReaderOptions(difficult="present")
    assert states(read_data_set(write(WHOLE), options=options))["train"] == {
        "JPEGImages/a 1.jpg": "++",
        "JPEGImages/ü2.png": "-+",
    }


def test_trainval_is_a_split_and_counts_nothing_twice(write, states, kinds, places):
    lists = {"train": "a 1\nü2\ngone\n", "val": "3\n", "trainval": "a 1\nü2\ngone\n3\n"}
    named = {f"ImageSets/Main/{split}.txt": ids for split, ids in lists.items()}
    data_set = read_data_set(write({**WHOLE, **named}), options=OPTIONS)
    assert list(data_set.splits) == ["train", "val", "trainval"]
    apart = states(data_set)
    assert apart["trainval"] == apart["train"] | apart["val"]
    assert len(list(data_set.samples())) == 3
    assert places(data_set, "missing image") == ["train.txt, line 3"]
    assert "image in two splits" not in kinds(data_set)
    assert kinds(data_set)["split within another"] == 2
    assert summarise(data_set).splits["trainval"].images == 3


def test_a_trainval_that_lacks_images_of_val_is_reported_image_by_image(write, places):
    more = {f"JPEGImages/{n}.jpg": "" for n in (4, 5)}
    more |= {f"Annotations/{n}.xml": annotation() for n in (4, 5)}
    lists = {"val": "3\r\n4\r\n", "trainval": "a 1\r\nü2\r\n3\r\n"}
    named = {f"ImageSets/Main/{split}.txt": ids for split, ids in lists.items()}
    data_set = read_data_set(write({**WHOLE, **more, **named}), options=OPTIONS)
    assert places(data_set, "image in two splits") == ["trainval.txt, line 3"]


def test_an_image_of_train_in_val_is_reported_even_where_val_holds_no_other(write, places):
    root = write({**WHOLE, "ImageSets/Main/val.txt": "a 1\n"})
    data_set = read_data_set(root, options=OPTIONS)
    assert places(data_set, "image in two splits") == ["val.txt, line 1"]


def test_an_empty_list_is_no_split(write):
    data_set = read_data_set(write({**WHOLE, "ImageSets/Main/val.txt": "\r\n"}), options=OPTIONS)
    assert list(data_set.splits) == ["train", "trainval"]
    with pytest.raises(DataError, match="no split 'val'"):
        data_set.split("train+val")


def palette_picture(values: np.ndarray) -> bytes:
    picture, stream = Image.fromarray(values.astype(np.uint8)), BytesIO()
    picture.putpalette(voc_palette())
    picture.save(stream, "PNG")
    return stream.getvalue()


def test_the_segmentation_lists_have_masks_of_classes_and_of_objects(write, states, kinds):
    objects = np.zeros((30, 40))
    objects[5:9, 3:11], objects[20:22, 30:39], objects[9, 3:11] = 1, 2, 255
    classes = np.select([objects == 1, objects == 2], [8, 12], 255 * (objects == 255))
    root = write(
        {
            **WHOLE,
            "JPEGImages/3.jpg": "",
            "ImageSets/Segmentation/train.txt": "a 1\n",
            "ImageSets/Segmentation/val.txt": "3\n",
            "ImageSets/Segmentation/train_aug.txt": "ü2\r\na 1\r\n",  # as SBD's are kept
            "SegmentationClass/a 1.png": palette_picture(classes),
            "SegmentationObject/a 1.png": palette_picture(objects),
        }
    )
    assert "train_aug" not in read_data_set(root, options=OPTIONS).splits
    data_set = read_data_set(root, options=ReaderOptions(image_set="Segmentation"))
    assert {split: list(named) for split, named in states(data_set).items()} == {
        "train": ["JPEGImages/a 1.jpg"],
        "val": ["JPEGImages/3.jpg"],
        "train_aug": ["JPEGImages/ü2.png", "JPEGImages/a 1.jpg"],
    }
    assert kinds(data_set) == {"split within another": 1, "class in one split only": 2}
    (sample,) = data_set.splits["train"]
    assert np.array_equal(np.asarray(Image.open(sample.truth.segmentation_path)), classes)
    assert [mask.class_index for mask in sample.truth.masks] == [0, 1]  # cat and dog, as drawn
    for number, mask in enumerate(sample.truth.masks, start=1):
        assert np.array_equal(decode_mask(mask.rle), objects == number)


ACTING = {
    **{f"JPEGImages/{n}.jpg": "" for n in (1, 2, 3)},
    "Annotations/1.xml": annotation(("person", 0, (1, 2, 9, 8)), ("person", 0, (11, 2, 19, 8))),
    "Annotations/2.xml": annotation(("dog", 0, (1, 1, 4, 4)), ("person", 0, (5, 6, 30, 28))),
    "SegmentationClass/1.png": None,
    "ImageSets/Main/train.txt": "1\n2\n",
    "ImageSets/Action/train.txt": "1 1\n1 2\n2 2\n",
    "ImageSets/Action/val.txt": "3 1\n",
    "ImageSets/Action/trainval.txt": "1 1\n1 2\n2 2\n3 1\n",
    "ImageSets/Action/reading_train.txt": "1  1 -1\r\n1  2  1\r\n2  2 -1\r\n",
    "ImageSets/Action/reading_trainval.txt": "1  1 -1\n1  2  1\n2  2 -1\n3  1  1\n",
    "ImageSets/Action/walking_train.txt": "1  1 0\n1  2 -1\n2  2  1\n2 9 1\nbroken\n",
}


def test_an_action_is_present_where_anyone_does_it(write, states, places):
    data_set = read_data_set(write(ACTING), options=ReaderOptions(image_set="Action"))
    assert data_set.class_names == ("reading", "walking")
    assert states(data_set) == {
        "train": {"JPEGImages/1.jpg": "+?", "JPEGImages/2.jpg": "-+"},
        "val": {"JPEGImages/3.jpg": "+?"},  # no list says who walks there
        "trainval": {
            "JPEGImages/1.jpg": "+?", "JPEGImages/2.jpg": "-+", "JPEGImages/3.jpg": "+?",
        },
    }  # fmt: skip
    first, second = data_set.splits["train"]
    assert set(first.truth.boxes) == {
        TruthBox(0, (10, 1, 19, 8)),
        TruthBox(1, (0, 1, 9, 8), difficult=True),
    }
    assert second.truth.boxes == (TruthBox(1, (4, 5, 30, 28)),)
    assert first.truth.segmentation_path is None  # its values are objects, not actions
    assert places(data_set, "unreadable box") == ["walking_train.txt, line 4"]
    assert places(data_set, "unreadable label") == ["walking_train.txt, line 5"]
    assert read_data_set(write({}), options=OPTIONS).class_names == ("dog", "person")


def test_a_folder_of_lists_that_is_not_there_is_an_error(write):
    root = write({**WHOLE, "ImageSets/Segmentation/train.txt": "a 1\n"})
    with pytest.raises(DataError, match=r"list of images in 'Segmentaton'.*'Segmentation'"):
        read_data_set(root, options=ReaderOptions(image_set="Segmentaton"))


def test_a_test_split_without_annotations_is_unknown(write, states, places):
    root = write({**WHOLE, "JPEGImages/9.jpg": "", "ImageSets/Main/test.txt": "9\n"})
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["test"] == {"JPEGImages/9.jpg": "??"}
    assert places(data_set, "image without labels") == ["test.txt, line 1"]


def test_without_image_sets_every_annotated_image_is_used(write, states):
    root = write({n: c for n, c in WHOLE.items() if "ImageSets" not in n})
    assert list(states(read_data_set(root, options=OPTIONS))["all"]) == [
        "JPEGImages/3.jpg",
        "JPEGImages/a 1.jpg",
        "JPEGImages/ü2.png",
    ]


def test_class_files_label_images_without_xml(write, states, places):
    root = write(
        {
            **{f"JPEGImages/{n}.jpg": "" for n in (1, 2, 3)},
            "ImageSets/Main/big_cat_train.txt": "1  1\n2 -1\n3  0\nbroken line\n",
            "ImageSets/Main/dog_train.txt": "1  0\n2 -1\n",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.class_names == ("big_cat", "dog")
    assert states(data_set)["train"] == {
        "JPEGImages/1.jpg": "+?",
        "JPEGImages/2.jpg": "--",
        "JPEGImages/3.jpg": "??",
    }
    assert places(data_set, "unreadable label") == ["big_cat_train.txt, line 4"]
    options = ReaderOptions(difficult="present")
    assert states(read_data_set(root, options=options))["train"]["JPEGImages/1.jpg"] == "++"


def test_a_split_may_be_called_small_train(write, states):
    root = write({**WHOLE, "ImageSets/Main/small_train.txt": "a 1\n"})
    assert states(read_data_set(root, options=OPTIONS))["small_train"] == {
        "JPEGImages/a 1.jpg": "+?"
    }


def test_the_xml_wins_over_class_files_and_the_difference_is_reported(write, states, places):
    root = write({**WHOLE, "ImageSets/Main/cat_train.txt": "a 1 -1\nü2 -1\n"})
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["train"]["JPEGImages/a 1.jpg"] == "+?"
    assert places(data_set, "labels disagree") == ["train.txt, line 1"]


def test_classes_whose_names_are_no_file_names_are_matched(write, kinds):
    root = write(
        {
            "JPEGImages/1.jpg": "",
            "Annotations/1.xml": annotation(("a/b", 0, (1, 1, 9, 9))),
            "ImageSets/Main/train.txt": "1\n",
            "ImageSets/Main/a%2Fb_train.txt": "1 1\n",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.class_names == ("a/b",)
    assert kinds(data_set) == {}


def test_mask_values_follow_the_label_map_else_voc_else_the_order(write):
    root = write({**WHOLE, "SegmentationClass/a 1.png": None})
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.segmentation_values == {8: 0, 12: 1}  # cat and dog among VOC's twenty
    path = data_set.splits["train"][0].truth.segmentation_path
    assert path == (root / "SegmentationClass" / "a 1.png").as_posix()
    assert data_set.splits["train"][1].truth.segmentation_path is None
    write({"labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
           "dog:128,0,0::\na:b:0,128,0::\ncat:128,128,0::\n"})  # fmt: skip
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.class_names == ("dog", "a:b", "cat")
    assert data_set.segmentation_values == {1: 0, 2: 1, 3: 2}
    write({"Annotations/3.xml": annotation(("unicorn", 0, (1, 1, 2, 2)))})
    (root / "labelmap.txt").unlink()
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.class_names == ("cat", "dog", "unicorn")
    assert data_set.segmentation_values == {1: 0, 2: 1, 3: 2}


def test_every_flaw_is_reported_with_its_place(write, states, places):
    bad = annotation(
        ("cat", 0, (10, 10, 9, 20)),  # right of itself
        ("cat", 0, (30, 20, 60, 25)),  # cut to the image
        ("cat", 0, (50, 40, 60, 50)),  # all outside
        ("cat", 0, ("ten", 1, 2, 3)),
        ("", 0, (1, 1, 2, 2)),
    )
    root = write(
        {
            **WHOLE,
            "Annotations/ü2.xml": "<annotation>\n<object>",
            "Annotations/a 1.xml": bad,
            "Annotations/orphan.xml": annotation(),
            "JPEGImages/5.jpg": "",
            "JPEGImages/3.png": "",
            "ImageSets/Main/train.txt": "a 1\nü2\ngone\na 1\n",
            "ImageSets/Main/trainval.txt": "a 1\nü2\ngone\n3\n",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["train"] == {"JPEGImages/a 1.jpg": "+", "JPEGImages/ü2.png": "?"}
    (box,) = data_set.splits["train"][0].truth.boxes
    assert box.box == (29.0, 19.0, 40.0, 25.0)
    objects = [f"Annotations/a 1.xml, object {n}" for n in range(1, 6)]
    assert places(data_set, "zero-area box") == [objects[0]]
    assert places(data_set, "box outside the image") == [objects[1], objects[2]]
    assert places(data_set, "unreadable box") == [objects[3]]
    assert places(data_set, "unreadable label") == [objects[4], "Annotations/ü2.xml, line 2"]
    assert places(data_set, "missing image") == ["train.txt, line 3"]
    assert places(data_set, "duplicate image") == ["JPEGImages/3.png", "train.txt, line 4"]
    assert places(data_set, "label for no image") == ["Annotations/orphan.xml"]
    assert places(data_set, "image without labels") == ["train.txt, line 2", "JPEGImages/5.jpg"]
    with pytest.raises(DataError):
        raise_if_strict(data_set)


def test_a_size_that_is_missing_checks_only_what_can_be_known(write, kinds):
    text = annotation(("cat", 0, (1, 1, 900, 900)), ("cat", 0, (0, 1, 9, 9)), size="0 x")
    root = write({**WHOLE, "Annotations/a 1.xml": text})
    data_set = read_data_set(root, options=OPTIONS)
    assert [b.box for b in data_set.splits["train"][0].truth.boxes] == [
        (0, 0, 900, 900),
        (0, 0, 9, 9),
    ]
    assert kinds(data_set)["box outside the image"] == 1


def test_dangerous_xml_is_refused(write, places):
    bomb = (
        '<!DOCTYPE a [<!ENTITY b "boom"><!ENTITY c "&b;&b;&b;">]>'
        "<annotation><object><name>&c;</name></object></annotation>"
    )
    root = write({**WHOLE, "Annotations/ü2.xml": bomb})
    data_set = read_data_set(root, options=OPTIONS)
    assert places(data_set, "unreadable label") == ["Annotations/ü2.xml"]


def test_a_devkit_with_one_folder_is_entered_and_with_two_is_an_error(write):
    root = write({f"VOC2007/{name}": content for name, content in WHOLE.items()})
    assert read_data_set(root, options=OPTIONS).root == root / "VOC2007"
    write({f"VOC2012/{name}": content for name, content in WHOLE.items()})
    with pytest.raises(DataError, match="several VOC folders: VOC2007, VOC2012"):
        read_data_set(root, options=OPTIONS)
