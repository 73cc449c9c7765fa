"""Layouts are recognised, and what is ambiguous or unknown is said."""

from __future__ import annotations

import pytest

from weakloc.data.readers import READERS, detect_layout, read_data_set
from weakloc.errors import DataError, SettingError
from weakloc.settings import ReaderOptions

FILES = {
    "folders": {"cat/1.jpg": ""},
    "table": {"labels.csv": "path,labels\n", "images/1.jpg": ""},
    "voc": {"Annotations/1.xml": "", "JPEGImages/1.jpg": "", "tags.csv": ""},
    "review": {"weakloc-review.json": '{"schema": "weakloc.review/1"}', "1.jpg": ""},
    "coco": {"annotations/instances_val.json": "", "val/1.jpg": ""},
    "yolo": {"data.yaml": "", "images/1.jpg": "", "labels/1.txt": ""},
    "tiny_imagenet": {"wnids.txt": "", "train/n1/images/1.JPEG": ""},
    "wsol": {"metadata/CUB/train/image_ids.txt": "", "CUB/a/1.jpg": ""},
    "shards": {"a.tar": ""},
}


@pytest.mark.parametrize("layout", READERS)
def test_each_layout_is_recognised_by_what_only_it_has(write, layout):
    assert detect_layout(write(FILES[layout]), None) == layout


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        ({"ImageSets/Main/train.txt": "1"}, "voc"),
        ({"VOC2012/Annotations/1.xml": ""}, "voc"),
        ({"train/_annotations.coco.json": "", "train/1.jpg": ""}, "coco"),
        ({"mine.json": '{"images": [], "categories": []}', "pictures/1.jpg": ""}, "coco"),
        ({"coco8.yaml": "names: [a]", "images/1.jpg": ""}, "yolo"),
        ({"classes.txt": "a", "1.jpg": "", "1.txt": ""}, "yolo"),
        ({"val/val_annotations.txt": "", "val/images/1.JPEG": ""}, "tiny_imagenet"),
        ({"test/image_ids.txt": ""}, "wsol"),
        ({"train/a-{0}.tar": ""}, "shards"),
        ({"train/cat/deep/1.jpg": ""}, "folders"),
        ({"config.json": "{}", "cat/1.jpg": ""}, "folders"),
    ],
)
def test_variants_are_recognised_as_well(write, files, layout):
    assert detect_layout(write(files), None) == layout


@pytest.mark.parametrize(
    ("name", "layout"),
    [("a.csv", "table"), ("a.JSONL", "table"), ("a.json", "coco"), ("a.yml", "yolo")],
)
def test_the_label_file_decides(write, name, layout):
    root = write({**FILES["voc"], name: ""})
    assert detect_layout(root, root / name) == layout
    assert detect_layout(root / name, None) == layout


def test_a_folder_with_a_brace_in_its_name_is_no_pattern(write):
    assert detect_layout(write({"{a}/cat/1.jpg": ""}) / "{a}", None) == "folders"


def test_what_fits_several_layouts_is_an_error_that_lists_them(write):
    root = write({**FILES["yolo"], **FILES["voc"]})
    with pytest.raises(DataError, match=r"fits several layouts: voc, yolo. Name the layout"):
        detect_layout(root, None)
    root = write({"x/labels.csv": "", "x/cat/1.jpg": "", "x/dog/1.jpg": ""}) / "x"
    with pytest.raises(DataError, match="fits several layouts: table, folders"):
        detect_layout(root, None)


def test_what_fits_none_says_what_was_looked_for(write):
    root = write({"images/1.jpg": "", "notes.md": ""})
    with pytest.raises(DataError, match="looked for class folders with images, a CSV"):
        detect_layout(root, None)
    with pytest.raises(DataError, match=r"label files end in .*, not in '.md'"):
        detect_layout(root, root / "notes.md")


NO_CLASS_FOLDERS = {
    "the root of a download of COCO": (
        ["images/train2017/1.jpg", "panoptic_segmentation/1.jpg", "annotations/a/instances.json"],
        "holds images in images/train2017, and images is no name of a class",
    ),
    "numbered splits": (["train2017/1.jpg", "val2017/2.jpg"], "train2017 is no name of a class"),
    "images and masks": (["photos/1.jpg", "masks/1.png"], "masks is no name of a class"),
    "masks of a split": (["train/images/1.jpg", "train/masks/1.png"], "masks is no name"),
    "masks of classes": (["cat/1.jpg", "cat/ground_truth/1.png"], "ground_truth is no name"),
    "class folders one level below": (
        ["download/train/cat/1.jpg", "download/val/cat/2.jpg"],
        r"a data set \(folders\) in download. Give that",
    ),
    "class folders in images": (["images/cat/1.jpg", "images/dog/2.jpg"], "images is no name"),
    "VOC one level below": (
        ["VOCdevkit/VOC2012/Annotations/1.xml", "previews/1.jpg"],
        r"a data set \(voc\) in VOCdevkit",
    ),
    "YOLO one level below": (["mine/data.yaml", "mine/images/1.jpg", "old/1.jpg"], "(yolo)"),
}


@pytest.mark.parametrize("kind", NO_CLASS_FOLDERS)
def test_what_cannot_be_class_folders_is_refused_with_what_would_do(write, kind):
    files, message = NO_CLASS_FOLDERS[kind]
    root = write(dict.fromkeys(files, ""))
    with pytest.raises(DataError, match=rf"{message}.*--layout folders"):
        detect_layout(root, None)
    read_data_set(root, layout="folders", options=ReaderOptions())


CLASS_FOLDERS = {
    "splits": ["train/cat/1.jpg", "valid/cat/2.jpg", "test/cat/3.jpg"],
    "lists": ["Images/bar/1.jpg", "Images/inside_bus/2.jpg", "TrainImages.txt"],
    "classes with a number": ["ward 7/1.jpg", "trainer 2/1.jpg", "validated/2.jpg"],
    "levels of folders": ["animals/cat/1.jpg", "animals/dog/2.jpg", "cars/deep/deeper/3.jpg"],
    "notes in a class": ["cat/1.jpg", "cat/1.json", "dog/2.jpg", "dog/notes.txt"],
}


@pytest.mark.parametrize("kind", CLASS_FOLDERS)
def test_class_folders_of_every_kind_stay_so(write, kind):
    assert detect_layout(write(dict.fromkeys(CLASS_FOLDERS[kind], "")), None) == "folders"


def test_a_path_or_layout_that_does_not_exist_is_an_error(write):
    root = write(FILES["folders"])
    with pytest.raises(DataError, match="there is no such file or folder"):
        read_data_set(root / "nowhere", options=ReaderOptions())
    with pytest.raises(DataError, match="there is no such file or folder"):
        read_data_set(root, labels=root / "nowhere.csv", options=ReaderOptions())
    with pytest.raises(SettingError, match=r"no layout 'folder'. Did you mean 'folders'\?"):
        read_data_set(root, layout="folder", options=ReaderOptions())


@pytest.mark.parametrize(
    "wrong", [{"difficult": "absent"}, {"label_delimiter": ""}, {"class_names": ("a", "a")}]
)
def test_options_that_cannot_work_are_refused(wrong):
    with pytest.raises(SettingError):
        ReaderOptions(**wrong)
