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

from pathlib import Path
from typing import Literal

from msgspec import Struct, to_builtins

from weakloc.data.readers.assembly import ALL, Assembly, Drawn, LabelClaim, usable_box
from weakloc.data.readers.file_tree import file_names
from weakloc.errors import DataError
from weakloc.files import fit_json, read_json, write_json
from weakloc.geometry import BoxLTRB
from weakloc.settings import ReaderOptions
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, DataSet

SCHEMA = "weakloc.review/1"
_DENIALS = {"absent", "relabelled"}  # verdicts by which the class asked for is not there


class Decision(Struct, frozen=True, rename={"asked_for": "class"}):
    """What was said of one class of an image."""

    asked_for: str
    verdict: Literal["accepted", "misplaced", "absent", "relabelled"]
    to: str = ""
    boxes: tuple[BoxLTRB, ...] = ()

    @property
    def shown(self) -> str:
        """The class that the boxes are of."""
        return self.to if self.verdict == "relabelled" else self.asked_for


class ReviewedImage(Struct, frozen=True, rename={"name": "image"}, omit_defaults=True):
    """What was decided about one image, and by which task and annotation of Label Studio."""

    name: str
    width: int
    height: int
    decisions: tuple[Decision, ...]
    task: int = 0
    annotation: int = 0

    @property
    def claim(self) -> LabelClaim:
        """What one class was relabelled to may be another's verdict: being there wins."""
        denied = {i.asked_for: ABSENT for i in self.decisions if i.verdict in _DENIALS}
        present = {item.shown: PRESENT for item in self.decisions if item.verdict != "absent"}
        return LabelClaim.of(denied | present, UNKNOWN)

    @property
    def boxes(self) -> list[tuple[str, BoxLTRB]]:
        """(class, box) of the accepted objects."""
        with_boxes = [i for i in self.decisions if i.verdict in {"accepted", "relabelled"}]
        return [(decision.shown, box) for decision in with_boxes for box in decision.boxes]


class Review(Struct, frozen=True):
    class_names: tuple[str, ...]
    images: tuple[ReviewedImage, ...]


def read_review(path: Path) -> Review:
    """The decisions as tags and boxes; anything malformed is an error that names its place."""
    remedy = "Give the file that the report's button 'Download review' saved"
    record = read_json(path, error=DataError, remedy=remedy)
    if record.get("schema") != SCHEMA:
        raise DataError(f"is not a review of schema {SCHEMA!r}", location=str(path), remedy=remedy)
    try:
        review = fit_json(record, Review)
    except ValueError as error:
        raise DataError(f"this review is damaged: {error}", location=str(path)) from error
    for image in review.images:
        if not all(decision.shown for decision in image.decisions):
            location = f"{path}, image {image.name!r}"
            raise DataError("this review is damaged: a class has no name", location=location)
    return review


def write_review(path: Path, review: Review) -> None:
    write_json(path, {"schema": SCHEMA, **to_builtins(review)})


def read_review_data(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """A folder of images and the review that speaks of them."""
    labels_at = labels or path
    reviews = find_reviews(labels_at) if labels_at.is_dir() else [labels_at]
    if len(reviews) != 1:
        raise DataError(
            f"holds {len(reviews)} reviews",
            location=str(labels_at),
            remedy="Give one file as the labels",
        )
    file = reviews[0]
    review = read_review(file)
    assembly = Assembly(path, "review", options)
    assembly.set_classes(review.class_names)
    folder = assembly.image_root
    for item in review.images:
        location = f"{file}, image {item.name!r}"
        # Where the images were reviewed the folder may have been one above.
        below = (f"{parent.as_posix()}/{item.name}" for parent in folder.parents)
        inside = (path for path in below if path.startswith(f"{folder.as_posix()}/"))
        name = next(inside, item.name).removeprefix(f"{folder.as_posix()}/")
        image = assembly.find_image(name, [folder.as_posix()], location)
        if image is not None:
            size = float(item.width), float(item.height)
            problems = assembly.problems.at(location)
            drawn = (
                Drawn(shown, usable_box(box, image_size=size, problems=problems))
                for shown, box in item.boxes
            )
            assembly.add(name, image, item.claim, split=ALL, location=location, drawn=drawn)
    return assembly.finish()


def is_review(path: Path) -> bool:
    """Whether a JSON file says that it is one, in its first line or two."""
    with path.open("rb") as stream:
        return SCHEMA.encode() in stream.read(200)


def find_reviews(folder: Path) -> list[Path]:
    """The reviews right in a folder."""
    names = [name for name in file_names(str(folder)) if name.lower().endswith(".json")]
    return [folder / name for name in names if is_review(folder / name)]
