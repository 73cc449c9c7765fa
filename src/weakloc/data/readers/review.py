"""Reviews: the JSON that a report's review downloads, as tags and drawn boxes.

{"schema": "weakloc.review/1", "class_names": [...], "images": [{"image": "a.jpg", "width": 500,
 "height": 375, "decisions": [{"class": "cat", "verdict": "accepted", "boxes": [[...]]}]}]}

accepted    the class is there and the boxes are its objects
misplaced   the class is there, somewhere else
absent      the class is not there
relabelled  the boxes are objects of the class in "to"; "class" is not there

Classes without a decision are unknown. Boxes are (left, top, right, bottom) in image pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakloc.data.readers.assembly import (
    ALL,
    Assembly,
    LabelClaim,
    drawn_truth,
    usable_box,
)
from weakloc.data.readers.file_tree import file_names
from weakloc.errors import DataError
from weakloc.files import read_text
from weakloc.geometry import BoxLTRB
from weakloc.settings import ReaderOptions
from weakloc.structures import UNKNOWN, DataSet, Truth, TruthBox

SCHEMA = "weakloc.review/1"


@dataclass(frozen=True)
class ReviewedImage:
    """What was decided about one image; `boxes` are (class, box) of accepted objects."""

    name: str
    width: int
    height: int
    present: frozenset[str]
    absent: frozenset[str]
    boxes: tuple[tuple[str, BoxLTRB], ...]

    @property
    def claim(self) -> LabelClaim:
        return LabelClaim(present=self.present, absent=self.absent, rest=UNKNOWN)


@dataclass(frozen=True)
class Review:
    class_names: tuple[str, ...]
    images: tuple[ReviewedImage, ...]


def read_review(path: Path) -> Review:
    """The decisions as tags and boxes; anything malformed is an error that names the image."""
    try:
        record = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"is not JSON ({error})", location=str(path)) from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise DataError(
            f"is not a review of schema {SCHEMA!r}",
            location=str(path),
            remedy="Give the file that the report's button 'Download review' saved",
        )
    try:
        names = tuple(_text(name) for name in record["class_names"])
        images = tuple(_image(item, str(path)) for item in record["images"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"this review is damaged: {error}", location=str(path)) from error
    return Review(names, images)


def read_review_data(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """A folder of images and the review that speaks of them."""
    file = _the_review(labels or path)
    root = path if path.is_dir() else path.parent
    review = read_review(file)
    assembly = Assembly(root, "review", options)
    assembly.set_classes(review.class_names)
    folder = Path(options.image_root or root).absolute().as_posix()
    for item in review.images:
        location = f"{file}, image {item.name!r}"
        image = assembly.find_image(item.name, [folder], location)
        if image is not None:
            truth = _truth(item, assembly, location)
            assembly.add(item.name, image, item.claim, split=ALL, location=location, truth=truth)
    return assembly.finish()


def is_review(path: Path) -> bool:
    """Whether a JSON file says that it is one, in its first line or two."""
    with path.open("rb") as stream:
        return SCHEMA.encode() in stream.read(200)


def find_reviews(folder: Path) -> list[Path]:
    """The reviews right in a folder."""
    names = [name for name in file_names(str(folder)) if name.lower().endswith(".json")]
    return [folder / name for name in names if is_review(folder / name)]


def _the_review(labels_at: Path) -> Path:
    reviews = find_reviews(labels_at) if labels_at.is_dir() else [labels_at]
    if len(reviews) != 1:
        raise DataError(
            f"holds {len(reviews)} reviews",
            location=str(labels_at),
            remedy="Give one file as the labels",
        )
    return reviews[0]


def _truth(item: ReviewedImage, assembly: Assembly, location: str) -> Truth | None:
    size = float(item.width), float(item.height)
    drawn = []
    for name, box in item.boxes:
        usable = usable_box(box, image_size=size, problems=assembly.problems.at(location))
        if usable is not None and name in assembly.class_index:
            drawn.append(TruthBox(assembly.class_index[name], usable))
    return drawn_truth(drawn)


def _image(item: Mapping[str, Any], location: str) -> ReviewedImage:
    present: set[str] = set()
    absent: set[str] = set()
    boxes: list[tuple[str, BoxLTRB]] = []
    name = _text(item["image"])
    for decision in item["decisions"]:
        verdict, asked = decision["verdict"], _text(decision["class"])
        if verdict not in {"accepted", "misplaced", "absent", "relabelled"}:
            raise DataError(
                f"the verdict {verdict!r} is not known", location=f"{location}, image {name!r}"
            )
        shown = _text(decision["to"]) if verdict == "relabelled" else asked
        (absent if verdict == "absent" else present).add(shown)
        if shown != asked:
            absent.add(asked)
        if verdict in {"accepted", "relabelled"}:
            for box in decision.get("boxes", ()):
                left, top, right, bottom = (float(side) for side in box)
                boxes.append((shown, (left, top, right, bottom)))
    # What one class was relabelled to may be another's verdict: being there wins.
    return ReviewedImage(
        name, int(item["width"]), int(item["height"]),
        frozenset(present), frozenset(absent - present), tuple(boxes),
    )  # fmt: skip


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
