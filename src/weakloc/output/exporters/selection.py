"""What of the predictions is exported: thresholds, the best few, tagged classes only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, TypeAlias, TypeVar
from xml.sax.saxutils import escape, quoteattr

from weakloc.errors import PredictionsError, did_you_mean
from weakloc.settings import ExportOptions
from weakloc.structures import Box, Mask, Point, Prediction

MaskForm: TypeAlias = Literal["rle", "polygon"]
Place = TypeVar("Place", Point, Box, Mask)


@dataclass(frozen=True)
class Content:
    """What an exporter writes: predictions that were selected, and what is said besides."""

    predictions: Iterable[Prediction]
    class_names: Sequence[str]
    image_root: Path | None
    options: ExportOptions


def selected(
    predictions: Iterable[Prediction], *, class_names: Sequence[str], options: ExportOptions
) -> Iterator[Prediction]:
    """Each prediction with the places that the options let through, best first where cut."""
    known = frozenset(class_names)
    is_everything = options.score_threshold <= 0 and not options.tagged_only
    is_everything &= options.best_per_class is None and options.best_per_image is None
    for prediction in predictions:
        _check_classes(prediction, known)
        yield prediction if is_everything else _select(prediction, options)


def _check_classes(prediction: Prediction, known: frozenset[str]) -> None:
    for places in (prediction.points, prediction.boxes, prediction.masks):
        for place in places:
            if place.class_name not in known:
                raise PredictionsError(
                    f"there is no class {place.class_name!r}",
                    where=prediction.image,
                    remedy=did_you_mean(place.class_name, known),
                )


def _select(prediction: Prediction, options: ExportOptions) -> Prediction:
    wanted = _wanted_classes(prediction, options)

    def choose(places: Sequence[Place]) -> tuple[Place, ...]:
        return _choose(places, wanted, options)

    return replace(
        prediction,
        points=choose(prediction.points),
        boxes=choose(prediction.boxes),
        masks=choose(prediction.masks),
    )


def _wanted_classes(prediction: Prediction, options: ExportOptions) -> Callable[[str], bool]:
    if not options.tagged_only:
        return lambda _: True
    tags = prediction.extra.get("tags")
    if not isinstance(tags, list | tuple):
        raise PredictionsError(
            "was predicted without tags, and only tagged classes are asked for",
            where=prediction.image,
            remedy="Predict with --tags",
        )
    return frozenset(tags).__contains__


def _choose(
    places: Sequence[Place], is_wanted: Callable[[str], bool], options: ExportOptions
) -> tuple[Place, ...]:
    """Keeps the given order; among equal scores the first come is the better."""
    ranked = sorted(range(len(places)), key=lambda index: (-places[index].score, index))
    counts: dict[str, int] = {}
    kept: list[int] = []
    for index in ranked:
        place = places[index]
        if place.score < options.score_threshold or not is_wanted(place.class_name):
            continue
        counts[place.class_name] = counts.get(place.class_name, 0) + 1
        if options.best_per_class is None or counts[place.class_name] <= options.best_per_class:
            kept.append(index)
    return tuple(places[index] for index in sorted(kept[: options.best_per_image]))


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


AT_ONCE = 64  # items; the encoder's start costs as much as a few items
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_text(value: Any) -> str:
    return _ENCODER.encode(value)


class ItemWriter:
    """Writes the items of a list, without its brackets, some dozens at a time."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._waiting: list[Any] = []
        self._separator = "\n"

    def add(self, items: Iterable[Any]) -> None:
        self._waiting.extend(items)
        if len(self._waiting) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._stream.write(self._separator + _ENCODER.encode(self._waiting)[1:-1])
            self._separator = ",\n"
            self._waiting = []


def write_list(stream: IO[str], pieces: Iterable[list[Any]]) -> None:
    """All items of all pieces as one list."""
    stream.write("[")
    writer = ItemWriter(stream)
    for piece in pieces:
        writer.add(piece)
    writer.flush()
    stream.write("\n]")


# XML 1.0 has no way to write these, not even escaped.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def xml_text(name: str) -> str:
    return escape(_checked(name), {"\r": "&#13;"})


def xml_attribute(name: str) -> str:
    """With its quotation marks."""
    return quoteattr(_checked(name), {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})


def _checked(name: str) -> str:
    found = _UNWRITABLE.search(name)
    if found:
        raise PredictionsError(
            f"{name!r} holds the character U+{ord(found.group()):04X}, which XML cannot write",
            remedy="Export to a JSON format, or rename it",
        )
    return name
