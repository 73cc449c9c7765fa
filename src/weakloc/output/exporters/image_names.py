"""Where the files of an image go, for formats that keep one file for each image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from weakloc.errors import PredictionsError
from weakloc.structures import Prediction


def image_stem(image: str) -> PurePosixPath:
    """The image's path without its suffix, below the folder given; nothing leads out of it."""
    path = PurePosixPath(image)
    if path.is_absolute() or ".." in path.parts or "\\" in image or not path.name:
        raise PredictionsError(
            f"the image path {image!r} leads out of its folder",
            remedy="Predict again: paths in predictions.jsonl are below the folder that was given",
        )
    return path.with_suffix("")


def sidecar(folder: Path, image: str, suffix: str) -> Path:
    stem = image_stem(image)
    return folder / stem.parent / f"{stem.name}{suffix}"


def with_stems_of_their_own(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """The predictions; two images that differ in their suffix only are an error."""
    seen: set[int] = set()  # hashes: the names themselves would take several times the memory
    for prediction in predictions:
        key = hash(image_stem(prediction.image))
        if key in seen:
            raise PredictionsError(
                f"{prediction.image!r} would share a file with an image before it, which differs "
                "in its suffix only",
                remedy="Rename one of them, or export to COCO, CVAT or CSV",
            )
        seen.add(key)
        yield prediction
