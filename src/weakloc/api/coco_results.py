"""A COCO results file -> predictions named as the data set names its images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weakloc.errors import PredictionsError
from weakloc.geometry import box_from_xywh
from weakloc.structures import Box, DataSet, Mask, Prediction


def read_coco_results(path: Path, data_set: DataSet) -> list[Prediction]:
    """`[{image_id, category_id, bbox, score}, ...]`; ids are those of the data set's own JSON."""
    images, categories = _ids(data_set)
    entries = json.loads(path.read_text("utf-8"))
    if not isinstance(entries, list):
        raise PredictionsError(
            "is no list of detections",
            where=str(path),
            remedy="COCO results are [{image_id, category_id, bbox, score}, ...]",
        )
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for number, entry in enumerate(entries):
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        if image_id not in images or category_id not in categories:
            raise PredictionsError(
                f"image {image_id!r} or category {category_id!r} is not in the data set",
                where=f"{path}, entry {number}",
            )
        found[image_id].append(entry)
    return [_prediction(images[key], found[key], categories) for key in sorted(found)]


def _prediction(
    image: Mapping[str, Any], entries: list[Mapping[str, Any]], categories: Mapping[int, str]
) -> Prediction:
    boxes, masks = [], []
    for entry in entries:
        name, score = categories[entry["category_id"]], float(entry["score"])
        if "bbox" in entry:
            left, top, width, height = (float(value) for value in entry["bbox"])
            boxes.append(Box(name, box_from_xywh((left, top, width, height)), score))
        if isinstance(entry.get("segmentation"), Mapping):
            masks.append(Mask(name, entry["segmentation"], score))
    size = int(image["width"]), int(image["height"])
    return Prediction(str(image["file_name"]), *size, {}, (), tuple(boxes), tuple(masks))


def _ids(data_set: DataSet) -> tuple[dict[int, Mapping[str, Any]], dict[int, str]]:
    """Images and categories by their ids, from every annotation file of the data set."""
    root = data_set.root
    files = [root] if root.is_file() else sorted([*root.glob("*.json"), *root.glob("*/*.json")])
    images: dict[int, Mapping[str, Any]] = {}
    categories: dict[int, str] = {}
    for file in files:
        content = json.loads(file.read_text("utf-8"))
        if isinstance(content, dict) and {"images", "categories"} <= content.keys():
            images |= {image["id"]: image for image in content["images"]}
            categories |= {each["id"]: each["name"] for each in content["categories"]}
    if not images:
        raise PredictionsError(
            "COCO results can only be read against a data set in COCO layout",
            where=str(root),
            remedy="Evaluate a predictions.jsonl, which names its images",
        )
    return images, categories
