"""COCO: instance JSON files with images, categories and annotations.

Several files are splits, named by their ends (`instances_train2017.json`) or, for
`train/_annotations.coco.json`, by their folders. A class is present where anything of it is
annotated, a crowd as well, and absent elsewhere. Shapes and run lengths are for evaluation.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypeAlias, TypedDict

import numpy as np
from msgspec import Struct

from weakloc.data.readers.assembly import (
    ALL,
    SPLIT_NAMES,
    Assembly,
    Drawn,
    LabelClaim,
    Oddity,
    PolygonRle,
    Problems,
    read_box,
    split_name,
    usable_box,
)
from weakloc.data.readers.file_tree import file_names, is_image_name, subfolders
from weakloc.errors import DataError, PredictionsError
from weakloc.files import fit_json, parse_foreign_json, read_text
from weakloc.geometry import BoxLTRB, box_from_xywh, box_of_points
from weakloc.rle import MOST_PIXELS, compressed, filling_runs, tight_box
from weakloc.settings import ReaderOptions
from weakloc.structures import Box, DataSet, Mask, Prediction, Real, require_fitting


def _drawn(
    assembly: Assembly, source: _Source, image_id: Any, size: tuple[int, int] | None
) -> Iterator[Drawn]:
    """The objects of the chosen classes."""
    for record in source.annotations.get(image_id, ()):
        name = source.class_names[record["category_id"]]
        if name in assembly.class_index:
            problems = assembly.problems.at(f"{source.path.name}, annotation {record.get('id')}")
            rle = _run_lengths(record.get("segmentation"), size, problems)
            box = _box(record, rle, size, problems)
            yield Drawn(name, box, rle, crowd=bool(record.get("iscrowd")))


def _image_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        return None
    return (width, height) if width * height <= MOST_PIXELS else None


def _box(
    record: Mapping[str, Any],
    rle: Mapping[str, Any] | None,
    size: tuple[int, int] | None,
    problems: Problems,
) -> BoxLTRB | None:
    """The box as written, else the one around the shape."""
    if written := record.get("bbox"):
        return read_box(written, box_from_xywh, image_size=size, problems=problems)
    if rle is None:
        problems.warning(Oddity.UNREADABLE_BOX, "there is neither bbox nor segmentation")
        return None
    shape = record["segmentation"]
    if isinstance(shape, list):
        box = box_of_points(np.concatenate([np.asarray(polygon) for polygon in shape]))
    else:
        box = tight_box(rle)
    return box and usable_box(box, image_size=size, problems=problems)


def _run_lengths(
    shape: Any, size: tuple[int, int] | None, problems: Problems
) -> Mapping[str, Any] | None:
    """Run lengths of polygons (computed when read) or of RLE in either spelling."""
    if not shape:
        return None
    try:
        if isinstance(shape, list):
            if size is None:
                raise ValueError("the image has no width and height to draw polygons in")
            return PolygonRle(shape, size)
        height, width = (int(side) for side in shape["size"])
        if size is not None and (width, height) != size:
            raise ValueError(f"mask of {width} x {height} in an image of {size[0]} x {size[1]}")
        filling_runs(shape)
        return compressed({"size": [height, width], "counts": shape["counts"]})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        problems.warning(Oddity.UNREADABLE_MASK, str(error))
        return None


_NOT_INSTANCES = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")


@dataclass(frozen=True, slots=True)
class _Source:
    """One JSON file: its split, what is in it, and the folder its images are in."""

    path: Path
    split: str
    images: Mapping[Any, Mapping[str, Any]]  # image id -> record
    annotations: Mapping[Any, Sequence[Mapping[str, Any]]]  # image id -> records
    class_names: Mapping[Any, str]  # category id -> name
    folder: str


def read_coco(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """A JSON file, or a folder with one for each split."""
    files = find_instances(path, labels)
    assembly = Assembly(path, "coco", options)
    sources = [_read_source(assembly, file, split) for split, file in files.items()]
    assembly.set_classes(name for source in sources for name in source.class_names.values())
    for source in sources:
        _add_source(assembly, source)
    for folder in dict.fromkeys(source.folder for source in sources):
        names = sorted(filter(is_image_name, assembly.files.names(folder)))
        beside = (f"{folder}/{name}" for name in names)
        assembly.warn_of_unlisted(beside, "no file names it; left out")
    return assembly.finish()


def find_instances(path: Path, labels: Path | None) -> dict[str, Path]:
    """Split -> JSON file."""
    labels_at = labels or path
    if labels_at.is_file():
        return {ALL: labels_at}
    by_folder = {
        split_name(folder): labels_at / folder / "_annotations.coco.json"
        for folder in subfolders(str(labels_at))
        if (labels_at / folder / "_annotations.coco.json").is_file()
    }
    folder = labels_at / "annotations" if (labels_at / "annotations").is_dir() else labels_at
    names = [name for name in file_names(str(folder)) if name.endswith(".json")]
    instances = [name for name in names if name.startswith("instances")]
    chosen = instances or [name for name in names if not name.startswith(_NOT_INSTANCES)]
    files = by_folder or _by_split([folder / name for name in chosen])
    if not files:
        raise DataError("there is no instance JSON file", location=str(labels_at))
    return files


def _by_split(paths: Sequence[Path]) -> dict[str, Path]:
    if len(paths) == 1:
        return {_split_of(paths[0].stem) or ALL: paths[0]}
    stems = [path.stem for path in paths]
    short = [_split_of(stem) for stem in stems]
    if None in short or len(set(short)) < len(short):
        short = [stem.removeprefix("instances_") for stem in stems]
    return {str(name): path for name, path in zip(short, paths, strict=True)}


def _split_of(stem: str) -> str | None:
    """ "train" of "instances_train2017"."""
    last = re.sub(r"[-_.]?\d+$", "", stem.lower())
    last = re.split(r"[-_. ]", last)[-1]
    return SPLIT_NAMES.get(last)


def _read_source(assembly: Assembly, file: Path, split: str) -> _Source:
    content = _load(file)
    class_names = {record["id"]: str(record["name"]) for record in content["categories"]}
    images: dict[Any, Mapping[str, Any]] = {}
    problems = assembly.problems.at(file.name)
    for record in content["images"]:
        if "id" not in record or not isinstance(record.get("file_name"), str):
            message = f"image {record.get('id')} has no id or file_name"
            problems.error(Oddity.UNREADABLE_LABEL, message)
        elif record["id"] in images:
            message = f"image id {record['id']} is used twice; the first counts"
            problems.warning(Oddity.DUPLICATE_IMAGE, message)
        else:
            images[record["id"]] = record
    annotations: dict[Any, list[Mapping[str, Any]]] = {}
    for record in content.get("annotations", ()):
        at_record = problems.at(f"{file.name}, annotation {record.get('id')}")
        if record.get("image_id") not in images:
            message = f"there is no image with id {record.get('image_id')}"
            at_record.error(Oddity.LABEL_FOR_NO_IMAGE, message)
        elif record.get("category_id") not in class_names:
            message = f"there is no category with id {record.get('category_id')}"
            at_record.error(Oddity.UNKNOWN_CLASS, message)
        else:
            annotations.setdefault(record["image_id"], []).append(record)
    names = [record["file_name"] for record in images.values()]
    # Where its images may be, the likeliest first.
    end = file.stem.removeprefix("instances_")
    short = _split_of(file.stem) or end
    bases = list(dict.fromkeys((assembly.root, file.parent, file.parent.parent)))
    below = [end, f"images/{end}", short, f"images/{short}", "images", "JPEGImages", "."]
    folder = assembly.image_folder(
        [base / folder for base in bases for folder in below], names, str(file)
    )
    return _Source(file, split, images, annotations, class_names, folder)


_Id: TypeAlias = int | float | str | None


class _Record(TypedDict, total=False):
    id: _Id
    image_id: _Id
    category_id: _Id


class _Category(TypedDict):
    id: _Id
    name: str | int | float


class _Content(TypedDict):
    images: list[_Record]
    categories: list[_Category]
    annotations: NotRequired[list[_Record]]


def _load(file: Path) -> dict[str, Any]:
    try:
        content: Any = parse_foreign_json(read_text(file))
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = str(error).partition(":")[0].partition(";")[0]
        raise DataError(f"is not valid JSON: {reason}", location=f"{file}{line}") from error
    try:
        fit_json(content, _Content)
        return dict(content)
    except ValueError as error:
        reason = f"has no lists 'images' and 'categories' as COCO's ({error})"
        raise DataError(reason, location=str(file)) from error


def _add_source(assembly: Assembly, source: _Source) -> None:
    for image_id, image in source.images.items():
        location = f"{source.path.name}, image {image_id}"
        path = assembly.find_image(image["file_name"], [source.folder], location)
        if path is None:
            continue
        annotations = source.annotations.get(image_id, ())
        assembly.add(
            assembly.name_of(path),
            path,
            LabelClaim.showing(*(source.class_names[a["category_id"]] for a in annotations)),
            split=source.split,
            location=location,
            drawn=_drawn(assembly, source, image_id, _image_size(image)),
        )


class _Detection(Struct):
    image_id: _Id
    category_id: _Id
    score: Real
    bbox: tuple[Real, Real, Real, Real] | None = None
    segmentation: Any = None


def read_coco_results(path: Path, data_set: DataSet) -> list[Prediction]:
    """`[{image_id, category_id, bbox, score}, ...]`; ids are those of the data set's own JSON."""
    images, categories = _ids(data_set)
    try:
        entries = fit_json(parse_foreign_json(read_text(path)), list[_Detection])
    except (ValueError, DataError) as error:
        raise PredictionsError(
            f"is no list of detections ({error})",
            location=str(path),
            remedy="COCO results are [{image_id, category_id, bbox, score}, ...]",
        ) from error
    by_image: dict[_Id, list[_Detection]] = defaultdict(list)
    for number, entry in enumerate(entries):
        image_id, category_id = entry.image_id, entry.category_id
        if image_id not in images or category_id not in categories:
            raise PredictionsError(
                f"image {image_id!r} or category {category_id!r} is not in the data set",
                location=f"{path}, entry {number}",
            )
        by_image[image_id].append(entry)
    try:
        listed = (key for key in images if key in by_image)
        return [_prediction(images[key], by_image[key], categories) for key in listed]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PredictionsError(
            f"does not fit its data set ({error!r})", location=str(path)
        ) from error


def _prediction(
    image: Mapping[str, Any], entries: Sequence[_Detection], categories: Mapping[_Id, str]
) -> Prediction:
    boxes, masks = [], []
    for entry in entries:
        name = categories[entry.category_id]
        if entry.bbox is not None:
            boxes.append(Box(name, box_from_xywh(entry.bbox), entry.score))
        if isinstance(entry.segmentation, Mapping):
            filling_runs(entry.segmentation)
            masks.append(Mask(name, compressed(entry.segmentation), entry.score))
    file, size = str(image["file_name"]), (int(image["width"]), int(image["height"]))
    prediction = Prediction(file, *size, {}, (), tuple(boxes), tuple(masks))
    require_fitting(prediction)
    return prediction


def _ids(data_set: DataSet) -> tuple[dict[_Id, Mapping[str, Any]], dict[_Id, str]]:
    """Images and categories by their ids, from every annotation file of the data set."""
    root = data_set.root
    files = sorted([*root.glob("*.json"), *root.glob("*/*.json")])
    images: dict[_Id, Mapping[str, Any]] = {}
    categories: dict[_Id, str] = {}
    for file in files:
        with suppress(DataError):  # of another tool
            content = _load(file)
            images |= {image.get("id"): image for image in content["images"]}
            categories |= {category["id"]: category["name"] for category in content["categories"]}
    if not images:
        raise PredictionsError(
            "COCO results can only be read against a data set in COCO layout",
            location=str(root),
            remedy="Evaluate a predictions.jsonl, which names its images",
        )
    return images, categories
