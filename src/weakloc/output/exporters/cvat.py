"""CVAT for images 1.1: `annotations.xml` with boxes, points, masks or polygons, and tags.

CVAT's coordinates are ours. An object's box and its parts share a group. Masks are run lengths
row by row within their box, starting with pixels that are not set; `mask_form="polygon"` writes one
polygon for each connected part. Coordinates have two decimals, as CVAT writes them itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from weakloc.files import open_whole
from weakloc.output.exporters.objects import outlines_of_rle
from weakloc.output.exporters.selection import Content, MaskForm, xml_attribute, xml_text
from weakloc.output.settings import ExportOptions
from weakloc.rle import decode_mask, tight_box
from weakloc.structures import PlacedObject, Prediction, objects_of


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
    for group, item in enumerate(objects_of(prediction), start=1):
        sides = zip(("xtl", "ytl", "xbr", "ybr"), item.box, strict=True)
        box = " ".join(f'{side}="{value:.2f}"' for side, value in sides)
        yield _shape("box", item.class_name, box, item.score, group=group)
        yield from _mask_lines(item, group, prediction.image, options.mask_form)
    for point in prediction.points:
        corner = f'points="{point.x:.2f},{point.y:.2f}"'
        yield _shape("points", point.class_name, corner, point.score, group=0)
    for name, score in prediction.scores.items():
        if score >= options.tag_threshold:
            yield f'<tag label={xml_attribute(name)} source="auto">{_score(score)}</tag>\n'
    yield "</image>\n"


def _mask_lines(item: PlacedObject, group: int, image: str, form: MaskForm) -> Iterator[str]:
    if item.rle is None:
        return
    if form == "rle":
        left, top, right, bottom = (int(side) for side in tight_box(item.rle))
        flat = decode_mask(item.rle)[top:bottom, left:right].ravel()
        changes = np.flatnonzero(np.diff(flat, prepend=False))
        runs = ", ".join(map(str, np.diff(changes, prepend=0, append=flat.size).tolist()))
        frame = f'left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
        yield _shape("mask", item.class_name, f'rle="{runs}" {frame}', item.score, group=group)
        return
    for outline in outlines_of_rle(item.rle, image=image):
        corners = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline.tolist())
        yield _shape("polygon", item.class_name, f'points="{corners}"', item.score, group=group)


def _shape(kind: str, class_name: str, geometry: str, score: float, *, group: int) -> str:
    grouped = f' group_id="{group}"' if group else ""
    return (
        f'<{kind} label={xml_attribute(class_name)} source="auto" occluded="0" {geometry} '
        f'z_order="0"{grouped}>{_score(score)}</{kind}>\n'
    )


def _score(score: float) -> str:
    return f'<attribute name="score">{score:.4f}</attribute>'
