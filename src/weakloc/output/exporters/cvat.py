"""CVAT for images 1.1: `annotations.xml` with boxes, points, masks or polygons, and tags.

CVAT's coordinates are ours. An object's box and its parts share a group. Masks are run lengths
row by row within their box, starting with pixels that are not set; `mask_form="polygon"` writes one
polygon for each connected part. Coordinates have two decimals, as CVAT writes them itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from weakloc.files import open_whole
from weakloc.geometry import BoxLTRB
from weakloc.output.exporters.objects import BoolMask, outlines_of
from weakloc.output.exporters.selection import Content, xml_attribute, xml_text
from weakloc.output.settings import ExportOptions
from weakloc.rle import decode_mask, tight_box
from weakloc.structures import Prediction, objects_of


def export_cvat(content: Content, out: Path) -> Path:
    path = out / "annotations.xml"
    with open_whole(path) as stream:
        stream.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        stream.write("<version>1.1</version>\n")
        stream.writelines(_meta_lines(content.class_names))
        for number, prediction in enumerate(content.predictions):
            stream.writelines(_image_lines(number, prediction, content.options))
        stream.write("</annotations>\n")
    return path


def _meta_lines(class_names: Sequence[str]) -> Iterator[str]:
    yield "<meta><task><name>weakloc</name><mode>annotation</mode><labels>\n"
    score = (
        "<attribute><name>score</name><mutable>False</mutable><input_type>number</input_type>"
        "<default_value>1</default_value><values>0\n1\n0.0001</values></attribute>"
    )
    for name in class_names:
        yield f"<label><name>{xml_text(name)}</name><attributes>{score}</attributes></label>\n"
    yield "</labels></task></meta>\n"


def _image_lines(number: int, prediction: Prediction, options: ExportOptions) -> Iterator[str]:
    yield (
        f'<image id="{number}" name={xml_attribute(prediction.image)} '
        f'width="{prediction.width}" height="{prediction.height}">\n'
    )
    form = {"rle": "mask", "polygon": "polygon"}[options.mask_form]
    yield from map(_line, shapes_of(prediction, {"rectangle", form, "points"}))
    for name, score in prediction.scores.items():
        if score >= options.tag_threshold:
            yield f'<tag label={xml_attribute(name)} source="auto">{_score(score)}</tag>\n'
    yield "</image>\n"


class CvatShape(NamedTuple):
    """A rectangle, points or a polygon; or a mask: runs, then its box, whose last pixels count."""

    kind: str
    class_name: str
    values: Sequence[float]
    score: float
    group: int  # 0 of what belongs to none


def shapes_of(prediction: Prediction, kinds: Collection[str]) -> Iterator[CvatShape]:
    """The shapes of some kinds, object by object, each a group; then the points."""
    for group, item in enumerate(objects_of(prediction), start=1):
        values: dict[str, list[Sequence[float]]] = {"rectangle": [item.box]}
        if item.rle is not None:
            mask = decode_mask(item.rle)
            outlines = outlines_of(mask) if "polygon" in kinds else []
            values["polygon"] = [outline.ravel().tolist() for outline in outlines]
            values["mask"] = [_runs(mask, tight_box(item.rle))]
        for kind in filter(kinds.__contains__, values):
            for of_one in values[kind]:
                yield CvatShape(kind, item.class_name, of_one, item.score, group)
    for point in prediction.points if "points" in kinds else ():
        yield CvatShape("points", point.class_name, [point.x, point.y], point.score, 0)


def _runs(mask: BoolMask, box: BoxLTRB) -> list[float]:
    left, top, right, bottom = map(int, box)
    flat = mask[top:bottom, left:right].ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff(changes, prepend=0, append=flat.size).tolist()
    return [*runs, left, top, right - 1, bottom - 1]


def _line(shape: CvatShape) -> str:
    kind, values = shape.kind, shape.values
    if kind == "rectangle":
        sides = zip(("xtl", "ytl", "xbr", "ybr"), values, strict=True)
        kind, geometry = "box", " ".join(f'{side}="{value:.2f}"' for side, value in sides)
    elif kind == "mask":
        *runs, left, top, right, bottom = values
        frame = f'left="{left}" top="{top}" width="{right - left + 1}" height="{bottom - top + 1}"'
        geometry = f'rle="{", ".join(map(str, runs))}" {frame}'
    else:
        pairs = zip(values[::2], values[1::2], strict=True)
        geometry = f'points="{";".join(f"{x:.2f},{y:.2f}" for x, y in pairs)}"'
    grouped = f' group_id="{shape.group}"' if shape.group else ""
    return (
        f'<{kind} label={xml_attribute(shape.class_name)} source="auto" occluded="0" {geometry} '
        f'z_order="0"{grouped}>{_score(shape.score)}</{kind}>\n'
    )


def _score(score: float) -> str:
    return f'<attribute name="score">{score:.4f}</attribute>'
