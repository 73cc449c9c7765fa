"""A random generator in, a valid input of one format out: the parts of files by their paths."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from tests.fuzz.parts import Part
from weakloc.data.readers.voc import voc_palette
from weakloc.rle import encode_mask

Draft: TypeAlias = dict[str, Part]
CLASSES = ("cat", "dog", "bird")
WIDTH, HEIGHT = 13, 9  # of every image that is said to be one


@cache
def picture(form: str = "PNG", mode: str = "RGB") -> bytes:
    """A valid image of 13 x 9 pixels."""
    pixels = (np.arange(WIDTH * HEIGHT * 3).reshape(HEIGHT, WIDTH, 3) * 7 % 251).astype(np.uint8)
    content = io.BytesIO()
    wide = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    image = Image.fromarray(pixels)
    if mode in wide:
        image = Image.fromarray(pixels[..., 0].astype(wide[mode]))
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(content, form)
    return content.getvalue()


@cache
def _label_image() -> bytes:
    """Background and void of Pascal VOC."""
    values = Image.fromarray(np.tri(HEIGHT, WIDTH, dtype=np.uint8) * 255)
    values.putpalette(voc_palette())
    content = io.BytesIO()
    values.save(content, "PNG")
    return content.getvalue()


def _image() -> Part:
    return Part("raw", picture())


def _names(random: Random, most: int = 3) -> list[str]:
    stems = ("a", "b", "c d", "\u00e9", "0001", "x.y", "\u65e5")
    return [f"{stem}.png" for stem in random.sample(stems, random.randint(1, most))]


def _corners(random: Random) -> list[int]:
    left, top = random.randint(0, WIDTH - 3), random.randint(0, HEIGHT - 3)
    return [left, top, random.randint(left + 1, WIDTH), random.randint(top + 1, HEIGHT)]


def _xywh(random: Random) -> list[int]:
    left, top, right, bottom = _corners(random)
    return [left, top, right - left, bottom - top]


def _polygon(random: Random) -> list[float]:
    left, top, right, bottom = _corners(random)
    return [left, top, right, top, right + 0.0, bottom, left, bottom + 0.0]


def _rle(random: Random) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    left, top, right, bottom = _corners(random)
    mask[top:bottom, left:right] = 1
    rle = dict(encode_mask(mask))
    if random.random() < 0.3:
        flat = mask.ravel(order="F")
        edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
        runs = np.diff(edges).tolist()
        rle["counts"] = [0, *runs] if flat[0] else runs
    return rle


def folders(random: Random) -> Draft:
    splits = random.choice(((), ("train", "val"), ("train", "val", "test")))
    draft: Draft = {}
    for split in splits or ("",):
        for class_name in random.sample(CLASSES, random.randint(1, 2)):
            for name in _names(random, 2):
                draft["/".join(filter(None, (split, class_name, name)))] = _image()
    if not splits and random.random() < 0.4:
        lines = [[path] if random.random() < 0.7 else [path, 0] for path in draft]
        draft["train.txt"] = Part("words", lines)
    return draft


def table(random: Random) -> Draft:
    names = _names(random)
    draft: Draft = {f"images/{name}": _image() for name in names}
    form = random.random()
    listed = [f"images/{name}" for name in names]
    if form < 0.4:
        labels = [";".join(random.sample(CLASSES, random.randint(0, 2))) or "?" for _ in names]
        rows = [[image, tags] for image, tags in zip(listed, labels, strict=True)]
        header = [["path", "labels"]] if random.random() < 0.8 else []
        draft["labels.csv"] = Part("table", [*header, *rows])
    elif form < 0.6:
        states = ("1", "0", "", "?")
        rows = [[image, *random.choices(states, k=3), "train"] for image in listed]
        sign = random.choice(("table", "tabs"))
        name = "labels.csv" if sign == "table" else "labels.tsv"
        draft[name] = Part(sign, [["file_name", *CLASSES, "split"], *rows])
    else:
        draft |= _metadata(random, names)
    return draft


def _metadata(random: Random, names: list[str]) -> Draft:
    records = []
    for name in names:
        count = random.randint(0, 2)
        tags = random.sample(CLASSES, count)
        record: dict[str, Any] = {"file_name": f"images/{name}"}
        if random.random() < 0.5:
            record["objects"] = {"bbox": [_xywh(random) for _ in tags], "categories": tags}
        else:
            record["labels"] = random.choice((tags, ";".join(tags), dict.fromkeys(CLASSES, 1)))
        records.append(record)
    return {random.choice(("metadata.jsonl", "labels.jsonl")): Part("jsonl", records)}


def voc(random: Random) -> Draft:
    names = _names(random)
    draft: Draft = {f"JPEGImages/{name}": _image() for name in names}
    stems = [name.removesuffix(".png") for name in names]
    for stem, name in zip(stems, names, strict=True):
        sides = [["width", {}, str(WIDTH)], ["height", {}, str(HEIGHT)], ["depth", {}, "3"]]
        objects = [_voc_object(random) for _ in range(random.randint(0, 3))]
        children = [["filename", {}, name], ["size", {}, sides], *objects]
        draft[f"Annotations/{stem}.xml"] = Part("xml", ["annotation", {}, children])
    if random.random() < 0.8:
        folder = random.choice(("Main", "Main", "Segmentation", "Action"))
        acts = folder == "Action"
        lines = [[stem, "1"] if acts else [stem] for stem in stems]
        draft[f"ImageSets/{folder}/train.txt"] = Part("words", lines)
        if folder != "Segmentation":
            states = [[*line, random.choice(("1", "-1", "0"))] for line in lines]
            draft[f"ImageSets/{folder}/cat_train.txt"] = Part("words", states)
        if folder == "Segmentation":
            for kind in ("SegmentationClass", "SegmentationObject"):
                draft[f"{kind}/{stems[0]}.png"] = Part("raw", _label_image())
    if random.random() < 0.3:
        colours = [["background:0,0,0::"], ["cat:128,0,0::"], ["dog:0,128,0::"]]
        draft["labelmap.txt"] = Part("words", colours)
    return draft


def _voc_object(random: Random) -> list[Any]:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), _corners(random), strict=True)
    box = [[corner, {}, str(value)] for corner, value in corners]
    name = ["name", {}, random.choice(CLASSES)]
    difficult = ["difficult", {}, random.choice("01")]
    return ["object", {}, [name, difficult, ["bndbox", {}, box]]]


def coco(random: Random) -> Draft:
    names = _names(random)
    folder = random.choice(("", "images/"))
    draft: Draft = {f"{folder}{name}": _image() for name in names}
    images = [
        {"id": 10 + number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in enumerate(names)
    ]
    annotations = [
        _annotation(random, number, random.choice(images)["id"])
        for number in range(random.randint(0, 4))
    ]
    categories = [{"id": 3 * number, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    draft[random.choice(("instances_train.json", "annotations/instances_val.json"))] = Part(
        "json", content
    )
    return draft


def _annotation(random: Random, number: int, image_id: Any) -> dict[str, Any]:
    annotation = {
        "id": number,
        "image_id": image_id,
        "category_id": 3 * random.randrange(3),
        "bbox": _xywh(random),
        "iscrowd": random.randrange(2),
    }
    if random.random() < 0.7:
        annotation["segmentation"] = random.choice((lambda r: [_polygon(r)], _rle))(random)
        if random.random() < 0.3:
            del annotation["bbox"]
    return annotation


def yolo(random: Random) -> Draft:
    names = _names(random)
    folder = random.choice(("images/", "images/train/", "train/images/"))
    draft: Draft = {folder + name: _image() for name in names}
    labels = folder.replace("images", "labels")
    for name in names:
        lines = []
        for _ in range(random.randint(0, 3)):
            polygon = [value / WIDTH for value in _polygon(random)]
            box = [random.randint(1, 9) / 10 for _ in range(4)]
            lines.append([random.randrange(3), *random.choice((box, polygon))])
        draft[f"{labels}{name.removesuffix('.png')}.txt"] = Part("words", lines)
    if random.random() < 0.7:
        listed: Any = list(CLASSES) if random.random() < 0.5 else dict(enumerate(CLASSES))
        content = {"path": ".", "train": folder, "nc": 3, "names": listed}
        if random.random() < 0.3:
            content["train"] = "train.txt"
            draft["train.txt"] = Part("words", [[folder + name] for name in names])
        draft["data.yaml"] = Part("yaml", content)
    else:
        draft["classes.txt"] = Part("words", [[name] for name in CLASSES])
    return draft


def tiny_imagenet(random: Random) -> Draft:
    ids = ("n01", "n02")
    draft: Draft = {
        "wnids.txt": Part("words", [[class_id] for class_id in ids]),
        "words.txt": Part("tabs", [["n01", "cat, house cat"], ["n02", "dog"], ["n03", "x"]]),
    }
    for class_id in ids:
        names = [f"{class_id}_{number}.JPEG" for number in range(random.randint(1, 2))]
        for name in names:
            draft[f"train/{class_id}/images/{name}"] = _image()
        rows = [[name, *_corners(random)] for name in names]
        draft[f"train/{class_id}/{class_id}_boxes.txt"] = Part("tabs", rows)
    draft["val/images/v.JPEG"] = _image()
    rows = [["v.JPEG", random.choice(ids), *_corners(random)]]
    draft["val/val_annotations.txt"] = Part("tabs", rows)
    return draft


def wsol(random: Random) -> Draft:
    names = [f"{random.choice(CLASSES)}/{name}" for name in _names(random)]
    draft: Draft = {name: _image() for name in names}
    split = f"metadata/own/{random.choice(('train', 'val', 'test'))}"
    draft[f"{split}/image_ids.txt"] = Part("commas", [[name] for name in names])
    classes = [[name, random.randrange(3)] for name in names]
    draft[f"{split}/class_labels.txt"] = Part("commas", classes)
    sizes = [[name, WIDTH, HEIGHT] for name in names]
    draft[f"{split}/image_sizes.txt"] = Part("commas", sizes)
    if random.random() < 0.6:
        shapes = [[name, *_corners(random)] for name in names]
    else:
        shapes = [[name, "mask.png", random.choice(("", "mask.png"))] for name in names]
        draft["mask.png"] = Part("raw", picture("PNG", "L"))
    draft[f"{split}/localization.txt"] = Part("commas", shapes)
    return draft


def shards(random: Random) -> Draft:
    draft: Draft = {}
    for shard in random.choice((("train-0.tar",), ("train-0.tar", "val-0.tar"))):
        members: list[Any] = []
        for number in range(random.randint(1, 3)):
            label = random.choice((("cls", "1"), ("txt", "cat;dog"), ("json", {"labels": ["cat"]})))
            content = Part("json", label[1]) if label[0] == "json" else label[1]
            members += [
                {"name": f"a/{number}.png", "content": picture(), "type": 0, "size": None},
                {"name": f"a/{number}.{label[0]}", "content": content, "type": 0, "link": ""},
            ]
        draft[shard] = Part("tar", members)
    if random.random() < 0.6:
        draft["classes.txt"] = Part("words", [[name] for name in CLASSES])
    return draft


def review(random: Random) -> Draft:
    names = _names(random)
    images = []
    for name in names:
        decisions = []
        for class_name in random.sample(CLASSES, random.randint(0, 3)):
            verdict = random.choice(("accepted", "misplaced", "absent", "relabelled"))
            decision: dict[str, Any] = {"class": class_name, "verdict": verdict}
            if verdict in ("accepted", "relabelled"):
                decision["boxes"] = [_corners(random)]
            if verdict == "relabelled":
                decision["to"] = random.choice(CLASSES)
            decisions.append(decision)
        images.append({"image": name, "width": WIDTH, "height": HEIGHT, "decisions": decisions})
    content = {"schema": "weakloc.review/1", "class_names": list(CLASSES), "images": images}
    return {"review.json": Part("json", content), **{name: _image() for name in names}}


def predictions(random: Random) -> Draft:
    names = _names(random)
    lines = [_prediction(random, name) for name in names]
    draft: Draft = {f"images/{name}": _image() for name in names}
    draft["predictions.jsonl"] = Part("jsonl", lines)
    if random.random() < 0.5:
        thresholds = dict.fromkeys(CLASSES, 0.5)
        summary = {"images": "images", "classes": list(CLASSES), "thresholds": thresholds}
        summary["settings"] = {"image_size": 32, "threshold": 0.5, "masks": "none"}
        draft["predictions.json"] = Part("json", summary)
    return draft


def _prediction(random: Random, name: str) -> dict[str, Any]:
    tags = random.sample(CLASSES, 2)
    left, top, _, _ = _corners(random)
    record: dict[str, Any] = {
        "schema": "weakloc.predictions/1",
        "image": name,
        "width": WIDTH,
        "height": HEIGHT,
        "scores": {class_name: random.random() for class_name in CLASSES},
        "points": [{"class": tags[0], "x": left, "y": top, "score": 0.5, "heat": 0.25}],
        "boxes": [{"class": tags[0], "box": _corners(random), "score": random.random()}],
        "masks": [{"class": tags[1], "rle": _rle(random), "score": 0.75}],
        "doubt": 0.125,
        "disagreements": [{"class": tags[1], "kind": "missing", "score": 0.1}],
        "tags": tags,
    }
    for key in ("points", "masks", "disagreements", "tags"):
        if random.random() < 0.3:
            del record[key]
    return record


def tags(random: Random) -> Draft:
    names = _names(random)
    if random.random() < 0.7:
        rows = [[name, ";".join(random.sample(CLASSES, 1))] for name in names]
        return {"tags.csv": Part("table", [["path", "labels"], *rows])}
    records = [{"path": name, "labels": random.sample(CLASSES, 2)} for name in names]
    return {"tags.jsonl": Part("jsonl", records)}


def lists(random: Random) -> Draft:
    """What `predict` is pointed at: a list, a table or a shard of images."""
    draft = random.choice((table, shards))(random)
    names = [name for name in draft if name.endswith(".png")]
    if names and random.random() < 0.5:
        draft["list.txt"] = Part("words", [[name] for name in names])
    return draft


def mixed(random: Random) -> Draft:
    """Files of several layouts in one folder, of which none is named."""
    made = random.sample((folders, table, voc, coco, yolo, tiny_imagenet, wsol, shards, review), 2)
    return made[0](random) | (made[1](random) if random.random() < 0.5 else {})


IMAGE_FORMS = (
    *(("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16")),
    *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    *(("TIFF", mode) for mode in ("RGB", "L", "CMYK", "I;16", "I", "F", "P", "1", "YCbCr")),
    *(("GIF", "P"), ("GIF", "L"), ("BMP", "RGB"), ("BMP", "L"), ("BMP", "1"), ("WEBP", "RGB")),
    *(("WEBP", "RGBA"), ("PPM", "RGB"), ("PPM", "L"), ("PPM", "1")),
)


def images(random: Random) -> Draft:
    """An image whose structure is a tree where that is simple, else its bytes."""
    form, mode = random.choice(IMAGE_FORMS)
    content = picture(form, mode)
    if form == "PNG" and random.random() < 0.7:
        return {"image": Part("png", _chunks(content))}
    if form == "PPM" and mode == "RGB" and random.random() < 0.5:
        pixels = content[-3 * WIDTH * HEIGHT :]
        return {"image": Part("words", [["P6"], [WIDTH, HEIGHT], [255], [pixels]])}
    if form == "BMP" and random.random() < 0.6:
        return {"image": Part("little", _fields(content, (2, 4, 4, 4, 4, 4, 4, 2, 2, 4, 4)))}
    if form == "TIFF" and random.random() < 0.6:
        return {"image": Part("little", _tiff(content))}
    if form == "GIF" and random.random() < 0.6:
        return {"image": Part("little", _fields(content, (6, 2, 2, 1, 1, 1)))}
    return {"image": Part("raw", content)}


def _chunks(content: bytes) -> list[Any]:
    chunks: list[Any] = []
    at = 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4])
        name, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        if name == b"IHDR":
            sides = [[4, int.from_bytes(body[:4])], [4, int.from_bytes(body[4:8])]]
            chunks.append(["IHDR", [*sides, *([1, byte] for byte in body[8:])]])
        else:
            chunks.append([name.decode(), body])
        at += 12 + size
    return chunks


def _fields(content: bytes, widths: tuple[int, ...]) -> list[Any]:
    fields: list[Any] = []
    at = 0
    for width in widths:
        piece = content[at : at + width]
        fields.append([width, int.from_bytes(piece, "little")])
        at += width
    return [*fields, content[at:]]


def _tiff(content: bytes) -> list[Any]:
    """Header, pixels up to the directory, the directory's entries field by field, the rest."""
    at = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[at : at + 2], "little")
    entries: list[Any] = []
    for number in range(count):
        start = at + 2 + 12 * number
        entries += _fields(content[start : start + 12], (2, 2, 4, 4))[:4]
    head: list[Any] = _fields(content[:8], (4, 4))[:2]
    return [*head, content[8:at], [2, count], *entries, content[at + 2 + 12 * count :]]


GRAMMARS: Mapping[str, Callable[[Random], Draft]] = {
    "folders": folders,
    "table": table,
    "voc": voc,
    "coco": coco,
    "yolo": yolo,
    "tiny_imagenet": tiny_imagenet,
    "wsol": wsol,
    "shards": shards,
    "review": review,
    "mixed": mixed,
    "lists": lists,
    "tags": tags,
    "predictions": predictions,
    "images": images,
}
