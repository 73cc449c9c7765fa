"""Reviews made on a report, read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from weakloc.data.readers import read_data_set
from weakloc.data.readers.review import read_review
from weakloc.errors import DataError
from weakloc.settings import ReaderOptions
from weakloc.structures import ABSENT, PRESENT, UNKNOWN

DECISIONS = [
    {"class": "cat", "verdict": "accepted", "boxes": [[10, 5, 40.5, 30], [50, 5, 60, 30]]},
    {"class": "dog", "verdict": "absent", "boxes": []},
    {"class": "cow", "verdict": "relabelled", "to": "horse", "boxes": [[0, 0, 20, 70]]},
    {"class": "hen", "verdict": "misplaced", "boxes": []},
]
NAMES = ["cat", "dog", "cow", "horse", "hen", "goat"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a b").mkdir()
    Image.new("RGB", (90, 60)).save(tmp_path / "a b" / "ü.png")
    return tmp_path


def write_review(folder: Path, decisions: object, **changes: object) -> Path:
    image = {"image": "a b/ü.png", "width": 90, "height": 60, "decisions": decisions}
    record = {"schema": "weakloc.review/1", "class_names": NAMES, "images": [image]}
    path = folder / "weakloc-review.json"
    path.write_text(json.dumps({**record, **changes}, indent=1))
    return path


def test_verdicts_become_tags_and_boxes_and_the_rest_is_unknown(folder):
    review = write_review(folder, DECISIONS)
    data_set = read_data_set(folder, labels=review, options=ReaderOptions())
    (sample,) = data_set.samples()
    assert data_set.layout == "review"
    assert sample.name == "a b/ü.png"
    assert sample.labels.tolist() == [PRESENT, ABSENT, ABSENT, PRESENT, PRESENT, UNKNOWN]
    assert sample.truth is not None
    boxes = [(NAMES[item.class_index], item.box) for item in sample.truth.boxes]
    assert boxes == [
        ("cat", (10, 5, 40.5, 30)),
        ("cat", (50, 5, 60, 30)),
        ("horse", (0, 0, 20, 60)),  # cut to the image, and reported
    ]
    assert "box outside the image" in {problem.kind for problem in data_set.problems}


def test_what_something_was_relabelled_to_is_there_though_it_was_rejected_elsewhere(folder):
    decisions = [
        {"class": "cat", "verdict": "absent", "boxes": []},
        {"class": "dog", "verdict": "relabelled", "to": "cat", "boxes": [[1, 1, 2, 2]]},
    ]
    (image,) = read_review(write_review(folder, decisions)).images
    assert image.claim.states == {("cat", PRESENT), ("dog", ABSENT)}


@pytest.mark.parametrize(
    ("decisions", "changes", "message"),
    [
        ([{"class": "cat", "verdict": "maybe"}], {}, r'decisions\[0\].verdict is "maybe"'),
        ([{"verdict": "absent"}], {}, "damaged: .*missing required field 'class'"),
        ([{"class": "cat", "verdict": "relabelled"}], {}, "ü.png'.*a class has no name"),
        ([{"class": "cat", "verdict": "accepted", "boxes": [[1, 2, 3]]}], {}, "damaged"),
        ([], {"schema": "weakloc.review/9"}, "is not a review"),
        ([], {"class_names": [1]}, r"damaged: class_names\[0\] is 1"),
    ],
)
def test_a_review_that_cannot_be_trusted_is_an_error_that_says_why(
    folder, decisions, changes, message
):
    with pytest.raises(DataError, match=message):
        read_review(write_review(folder, decisions, **changes))
