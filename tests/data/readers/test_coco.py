"""COCO, whole and broken; masks are compared with masks drawn by hand."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from weakloc.api.data_sets import read
from weakloc.data.readers import read_data_set
from weakloc.errors import DataError
from weakloc.rle import decode_mask
from weakloc.settings import DataSettings, ReaderOptions
from weakloc.structures import TruthBox

OPTIONS = ReaderOptions()
SQUARE = [10, 5, 20, 5, 20, 15, 10, 15]  # columns 10 to 19, rows 5 to 14
CONTENT = {
    "images": [
        {"id": 7, "file_name": "a b.jpg", "width": 40, "height": 30},
        {"id": 9, "file_name": "sub/ü.jpg", "width": 4, "height": 3},
        {"id": 11, "file_name": "3.jpg", "width": 40, "height": 30},
    ],
    "categories": [{"id": 90, "name": "tooth/brush"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 10, 10],
         "segmentation": [SQUARE, [0, 0, 4, 0, 4, 2, 0, 2]], "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 90, "bbox": [0, 0, 2, 3],
         "segmentation": {"size": [3, 4], "counts": [1, 4, 7]}, "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 90, "segmentation": [SQUARE]},
    ],
}  # fmt: skip
IMAGES = {"images/a b.jpg": "", "images/sub/ü.jpg": "", "images/3.jpg": ""}


def drawn(content: object = CONTENT) -> dict[str, str]:
    return {"annotations/instances_val2017.json": json.dumps(content), **IMAGES}


def changed(**changes: list[dict[str, object]]) -> dict[str, object]:
    """The content with more records."""
    content = copy.deepcopy(CONTENT)
    for key, records in changes.items():
        content[key] = [*content[key], *records]
    return content


def test_categories_with_gaps_become_classes_and_no_annotation_means_absent(write, states, kinds):
    data_set = read_data_set(write(drawn()), options=OPTIONS)
    assert data_set.layout == "coco"
    assert data_set.class_names == ("tooth/brush", "cat")
    assert states(data_set) == {
        "val": {"images/a b.jpg": "++", "images/sub/ü.jpg": "+-", "images/3.jpg": "--"}
    }
    assert kinds(data_set) == {}
    first, second, third = data_set.splits["val"]
    assert first.truth.boxes == (TruthBox(1, (10, 5, 20, 15)), TruthBox(0, (10, 5, 20, 15)))
    assert second.truth.boxes == (TruthBox(0, (0, 0, 2, 3), crowd=True),)
    assert third.truth is None


def test_polygons_and_both_kinds_of_run_lengths_give_the_masks_drawn_by_hand(write):
    run_lengths = {"size": [3, 4], "counts": "147"}  # the same as [1, 4, 7], compressed
    content = changed(annotations=[{"id": 4, "image_id": 9, "category_id": 3,
                                    "segmentation": run_lengths}])  # fmt: skip
    first, second, _ = read_data_set(write(drawn(content)), options=OPTIONS).splits["val"]
    expected = np.zeros((30, 40), dtype=bool)
    expected[5:15, 10:20] = True
    np.testing.assert_array_equal(decode_mask(first.truth.masks[1].rle), expected)
    expected[0:2, 0:4] = True
    np.testing.assert_array_equal(decode_mask(first.truth.masks[0].rle), expected)
    by_columns = np.zeros((3, 4), dtype=bool)
    by_columns[1:, 0] = True  # pixels 1 to 4, down the columns
    by_columns[:2, 1] = True
    assert second.truth.masks[0].crowd
    for mask in second.truth.masks:
        np.testing.assert_array_equal(decode_mask(mask.rle), by_columns)
    assert second.truth.boxes[1] == TruthBox(1, (0, 0, 2, 3))  # around the run lengths
    assert set(first.truth.masks[0].rle) == {"size", "counts"}
    again = pickle.loads(pickle.dumps(first)).truth.masks[0].rle
    assert dict(again) == dict(first.truth.masks[0].rle)


def test_several_files_are_splits_with_the_same_classes(write, states):
    train = {**CONTENT, "images": CONTENT["images"][:1], "annotations": CONTENT["annotations"][:1]}
    root = write(
        {
            **drawn(),
            "annotations/instances_train2017.json": json.dumps(train),
            "annotations/captions_train2017.json": "{}",
            "train2017/a b.jpg": "",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["train"] == {"train2017/a b.jpg": "-+"}
    assert len(data_set.splits["val"]) == 3


def test_annotations_may_lie_in_the_folders_of_the_splits(write, states):
    root = write(
        {
            "train/_annotations.coco.json": json.dumps(CONTENT),
            "valid/_annotations.coco.json": json.dumps(CONTENT),
            **{
                f"{s}/{n}": ""
                for s in ("train", "valid")
                for n in ("a b.jpg", "3.jpg", "sub/ü.jpg")
            },
        }
    )
    assert list(states(read_data_set(root, options=OPTIONS))) == ["train", "val"]


def test_the_image_folder_can_be_given(write, states, tmp_path):
    root = write({"my.json": json.dumps(CONTENT), **{f"far/{n}": "" for n in IMAGES}})
    with pytest.raises(DataError, match=r"none of its images .* 'a b.jpg'.*--image-root"):
        read_data_set(root / "my.json", options=OPTIONS)
    options = ReaderOptions(image_root=str(root / "far" / "images"))
    data_set = read_data_set(root / "my.json", options=options)
    assert next(iter(states(data_set)["all"])) == "far/images/a b.jpg"
    assert states(read_data_set(root, labels=root / "my.json", options=options)) == states(data_set)
    settings = DataSettings(labels=root / "my.json", image_root=options.image_root)
    assert states(read(root, settings)) == states(data_set)


def test_every_flaw_is_reported_with_its_record(write, states, places):
    shape = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2]}
    content = changed(
        images=[{"id": 7, "file_name": "3.jpg"}, {"id": 13, "file_name": "gone.jpg"}, {"id": 14},
                {"id": 15, "file_name": "3.jpg"}],
        annotations=[
            {"id": 21, "image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2]},
            {"id": 22, "image_id": 7, "category_id": 4, "bbox": [1, 1, 2, 2]},
            {"id": 23, "image_id": 7, "category_id": 3, "bbox": [1, 1, 0, 2]},
            {"id": 24, "image_id": 7, "category_id": 3, "bbox": [30, 20, 20, 20]},
            {"id": 25, "image_id": 7, "category_id": 3, "bbox": [1, 1, "x", 2]},
            {"id": 26, "image_id": 7, "category_id": 3},
            {"id": 27, **shape, "segmentation": [[1, 1, 2, 2]]},
            {"id": 28, **shape, "segmentation": {"size": [3, 4], "counts": [12]}},
            {"id": 29, **shape, "segmentation": {"size": [30, 40], "counts": [12]}},
            {"id": 30, **shape, "segmentation": [[1, 1, 5, float("nan"), 5, 5]]},
            {"id": 31, "image_id": 7, "category_id": 3, "bbox": [1, 1, float("inf"), 2]},
            {"id": 32, **shape, "segmentation": {"size": [30, 40], "counts": "147"}},
        ],
    )  # fmt: skip
    root = write({**drawn(content), "images/unlisted.jpg": ""})
    data_set = read_data_set(root, options=OPTIONS)
    location = {n: f"instances_val2017.json, annotation {n}" for n in range(21, 33)}
    assert places(data_set, "label for no image") == [location[21]]
    assert places(data_set, "unknown class") == [location[22]]
    assert places(data_set, "zero-area box") == [location[23]]
    assert places(data_set, "box outside the image") == [location[24]]
    assert places(data_set, "unreadable box") == [location[25], location[26], location[31]]
    assert places(data_set, "unreadable mask") == [
        location[27],
        location[28],
        location[29],
        location[30],
        location[32],
    ]
    assert places(data_set, "missing image") == ["instances_val2017.json, image 13"]
    assert places(data_set, "duplicate image") == [
        "instances_val2017.json",
        "instances_val2017.json, image 15",
    ]
    assert places(data_set, "unreadable label") == ["instances_val2017.json"]
    assert places(data_set, "image without labels") == ["images/unlisted.jpg"]
    boxes = [b.box for b in data_set.splits["val"][0].truth.boxes]
    assert (30, 20, 40, 30) in boxes
    assert len(boxes) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [("{\n]", "line 2: is not valid JSON"), ("[]", "no lists"),
     ('{"images": [], "categories": [1]}', "no lists"),
     ('{"images": [], "categories": [{"id": 1}]}', "missing required field 'name'")],
)  # fmt: skip
def test_a_file_that_is_not_coco_is_an_error(write, text, message):
    root = write({"annotations/instances_val.json": text, **IMAGES})
    with pytest.raises(DataError, match=message):
        read_data_set(root, options=OPTIONS)
