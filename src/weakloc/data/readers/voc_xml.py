"""One Pascal VOC annotation file in, its objects in the image frame out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from weakloc.data.readers.assembly import UNREADABLE_LABEL
from weakloc.data.readers.drawn_truth import UNREADABLE_BOX, usable_box
from weakloc.geometry import BoxLTRB, Size, box_from_voc
from weakloc.structures import Problem

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class DrawnObject:
    """One object; its box is None where it cannot be used, but its class still counts."""

    class_name: str
    box: BoxLTRB | None
    difficult: bool


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one XML file says about its image."""

    objects: tuple[DrawnObject, ...]

    @property
    def present(self) -> frozenset[str]:
        return frozenset(o.class_name for o in self.objects if not o.difficult)

    @property
    def only_difficult(self) -> frozenset[str]:
        return frozenset(o.class_name for o in self.objects) - self.present


def read_annotation(path: Path, problems: list[Problem]) -> Annotation | None:
    """The objects of an XML file, or None where it cannot be parsed, which is reported."""
    where = f"{path.parent.name}/{path.name}"
    try:
        tree = parse(str(path)).getroot()
    except ParseError as error:
        line = error.position[0]
        problems.append(Problem(UNREADABLE_LABEL, str(error), f"{where}, line {line}", "error"))
        return None
    except (DefusedXmlException, OSError, ValueError) as error:
        message = f"refused as unsafe or unreadable XML ({error})"
        problems.append(Problem(UNREADABLE_LABEL, message, where, "error"))
        return None
    size = _image_size(tree)
    found = (
        _object(node, n, size, where, problems) for n, node in enumerate(tree.iter("object"), 1)
    )
    return Annotation(tuple(o for o in found if o is not None))


def _image_size(tree: Element) -> Size | None:
    try:
        width, height = (float(tree.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _object(
    node: Element, number: int, size: Size | None, where: str, problems: list[Problem]
) -> DrawnObject | None:
    place = f"{where}, object {number}"
    name = (node.findtext("name") or "").strip()
    if not name:
        problems.append(Problem(UNREADABLE_LABEL, "the object has no name", place, "error"))
        return None
    difficult = (node.findtext("difficult") or "").strip() in {"1", "true", "True"}
    return DrawnObject(name, _box(node, size, place, problems), difficult)


def _box(node: Element, size: Size | None, where: str, problems: list[Problem]) -> BoxLTRB | None:
    texts = [node.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    try:
        left, top, right, bottom = (float(text or "missing") for text in texts)
    except ValueError:
        problems.append(Problem(UNREADABLE_BOX, f"corners {texts} are not numbers", where))
        return None
    box = box_from_voc((left, top, right, bottom))
    return usable_box(box, image_size=size, where=where, problems=problems)
