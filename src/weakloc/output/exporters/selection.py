"""What all exporters share: selected predictions, splits of images, files, JSON and XML."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from random import Random
from typing import IO, Any, Literal, TypeAlias, TypeVar
from xml.sax.saxutils import escape, quoteattr

from weakloc.errors import PredictionsError, did_you_mean
from weakloc.files import ByName, is_so, leads_out
from weakloc.output.settings import ExportOptions
from weakloc.structures import Box, Mask, Point, Prediction

MaskForm: TypeAlias = Literal["rle", "polygon"]
AnyPlace = TypeVar("AnyPlace", Point, Box, Mask)
AT_ONCE = 64  # items; the encoder's start costs as much as a few items
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
# XML 1.0 has no way to write these, not even escaped.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Content:
    """What an exporter writes: predictions, which may be a stream, and what is said besides."""

    predictions: Iterable[Prediction]
    class_names: Sequence[str]
    image_root: Path | None = None
    options: ExportOptions = ExportOptions()
    groups: ByName[str] | None = None  # image -> what it must not be parted from


def selected(
    predictions: Iterable[Prediction], *, class_names: Sequence[str], options: ExportOptions
) -> Iterator[Prediction]:
    """Each prediction with the places that the options let through, in their order."""
    known = frozenset(class_names)
    is_everything = options.score_threshold <= 0 and not options.tagged_only
    is_everything &= options.best_per_class is None and options.best_per_image is None
    for prediction in predictions:
        for item in (*prediction.points, *prediction.boxes, *prediction.masks):
            if item.class_name not in known:
                raise PredictionsError(
                    f"there is no class {item.class_name!r}",
                    location=prediction.image,
                    remedy=did_you_mean(item.class_name, known),
                )
        yield prediction if is_everything else _select(prediction, known, options)


def _select(
    prediction: Prediction, class_names: Collection[str], options: ExportOptions
) -> Prediction:
    if options.tagged_only:
        tags = prediction.extra.get("tags")
        if not isinstance(tags, list | tuple):
            raise PredictionsError(
                "was predicted without tags, and only tagged classes are asked for",
                location=prediction.image,
                remedy="Predict with --tags",
            )
        class_names = frozenset(tags)
    return replace(
        prediction,
        points=_best(prediction.points, class_names, options),
        boxes=_best(prediction.boxes, class_names, options),
        masks=_best(prediction.masks, class_names, options),
    )


def _best(
    places: Sequence[AnyPlace], class_names: Collection[str], options: ExportOptions
) -> tuple[AnyPlace, ...]:
    """Among equal scores the first come is the better."""
    counts: Counter[str] = Counter()
    kept: list[int] = []
    for index in sorted(range(len(places)), key=lambda index: (-places[index].score, index)):
        name = places[index].class_name
        if places[index].score < options.score_threshold or name not in class_names:
            continue
        counts[name] += 1
        if options.best_per_class is None or counts[name] <= options.best_per_class:
            kept.append(index)
    return tuple(places[index] for index in sorted(kept[: options.best_per_image]))


class ImageSplits:
    """Says of one image after the other in which split it is.

    What a data set says an image is for stays. Of others some are drawn for val: of each class the
    second and then one at random out of every 1 / `val_share`. For an image the rarest of its
    classes decides, for a group its first image.
    """

    def __init__(self, content: Content) -> None:
        self._options = content.options
        self._groups = content.groups
        self._split_of_group: dict[str, str] = {}
        self._num_images: Counter[str] = Counter()  # of each class, watched ones included
        self._num_watched: Counter[str] = Counter()

    def split_of(self, prediction: Prediction) -> str:
        """train, val or test."""
        if (kept := prediction.extra.get("split")) in ("train", "val", "test"):
            return str(kept)
        tags = prediction.extra.get("tags")
        if not isinstance(tags, list | tuple):  # tags stay the same, whatever is selected
            tags = [item.class_name for item in (*prediction.boxes, *prediction.masks)]
        classes = set(map(str, tags)) or {""}
        self._num_images.update(classes)
        group = self._groups.get(prediction.image) if self._groups else None
        if self._options.group_by == "folder":
            group = str(image_stem(prediction.image).parent)
        split = self._split_of_group.get(group or "") or self._drawn(classes)
        if group:
            self._split_of_group[group] = split
        if split == "val":
            self._num_watched.update(classes)
        return split

    def _drawn(self, classes: Collection[str]) -> str:
        rarest = min(classes, key=lambda name: (self._num_images[name], name))
        num_watched = self._num_watched[rarest]
        # Not every tenth: what comes in turns (poses, cameras) would be watched in one of them.
        wait = Random(f"{rarest} {num_watched}").random() if num_watched else 0.0
        num_due = self._options.val_share * (self._num_images[rarest] - 1)
        return "val" if num_due > num_watched + wait else "train"


def put_image(content: Content, image: str, target: Path) -> None:
    """A link to an image that is there, or its copy where the file system knows no links."""
    image_stem(image)  # an error where it leads out
    if content.image_root is not None and is_so((source := content.image_root / image).is_file):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            target.symlink_to(source.resolve())
        except OSError:
            shutil.copyfile(source, target)


def image_stem(image: str) -> PurePosixPath:
    """The image's path without its suffix, below the folder given; nothing leads out of it."""
    path = PurePosixPath(image)
    if leads_out(image) or not path.name:
        raise PredictionsError(
            f"the image path {image!r} leads out of its folder",
            remedy="Predict again: paths in predictions.jsonl are below the folder that was given",
        )
    return path.with_suffix("")


def sidecar(folder: Path, image: str, suffix: str) -> Path:
    return folder / f"{image_stem(image)}{suffix}"


def with_stems_of_their_own(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """The predictions; two images that differ in their suffix only are an error."""
    stems: set[int] = set()  # hashes: the names themselves would take several times the memory
    for prediction in predictions:
        key = hash(image_stem(prediction.image))
        if key in stems:
            raise PredictionsError(
                f"{prediction.image!r} would share a file with an image before it, which differs "
                "in its suffix only",
                remedy="Rename one of them, or export to COCO, CVAT or CSV",
            )
        stems.add(key)
        yield prediction


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


def xml_text(name: str) -> str:
    return escape(_checked(name), {"\r": "&#13;"})


def xml_attribute(name: str) -> str:
    """With its quotation marks."""
    return quoteattr(_checked(name), {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})


def _checked(name: str) -> str:
    unwritable = _UNWRITABLE.search(name)
    if unwritable:
        raise PredictionsError(
            f"{name!r} holds the character U+{ord(unwritable.group()):04X}, which XML cannot write",
            remedy="Export to a JSON format, or rename it",
        )
    return name
