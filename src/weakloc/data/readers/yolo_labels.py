"""One YOLO label file in; its claim and the truth in pixels out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from weakloc.data.images import image_size
from weakloc.data.readers.assembly import (
    DUPLICATE_LABEL,
    UNKNOWN_CLASS,
    UNREADABLE_LABEL,
    LabelClaim,
)
from weakloc.data.readers.drawn_truth import PolygonRle, usable_box
from weakloc.data.readers.text_files import numbered_lines
from weakloc.errors import ImageError
from weakloc.geometry import box_from_yolo, box_of_points
from weakloc.structures import Problem, Truth, TruthBox, TruthMask


def read_label_file(
    path: Path,
    image: str,
    *,
    root: str,
    class_names: Sequence[str],
    class_index: Mapping[str, int],
    problems: list[Problem],
) -> tuple[LabelClaim, Truth | None]:
    """What the file says is present (all else is absent), and the boxes and masks in pixels.

    Problems name files below `root`, which ends in a slash.
    """
    place = path.as_posix().removeprefix(root)
    present: set[str] = set()
    shapes: list[tuple[str, list[float], str]] = []
    seen: set[str] = set()
    for number, line in numbered_lines(path):
        where = f"{place}, line {number}"
        if line in seen:
            problems.append(Problem(DUPLICATE_LABEL, f"{line!r} is repeated", where))
            continue
        seen.add(line)
        try:
            class_number, values = _parse(line)
        except ValueError:
            message = f"{line!r} is not a class number and a box or a polygon"
            problems.append(Problem(UNREADABLE_LABEL, message, where, "error"))
            continue
        if class_number >= len(class_names):
            message = f"class {class_number} is not among the {len(class_names)} names"
            problems.append(Problem(UNKNOWN_CLASS, message, where, "error"))
            continue
        present.add(class_names[class_number])
        shapes.append((class_names[class_number], values, where))
    chosen = [(class_index[name], v, w) for name, v, w in shapes if name in class_index]
    return LabelClaim(present=frozenset(present)), _truth(chosen, image, root, problems)


def _parse(line: str) -> tuple[int, list[float]]:
    """The class number and 4 numbers of a box, or at least 3 pairs of a polygon."""
    first, *rest = line.split()
    number, values = int(first), [float(value) for value in rest]
    if number < 0 or (len(values) != 4 and (len(values) < 6 or len(values) % 2)):
        raise ValueError(line)
    if not np.isfinite(values).all():
        raise ValueError(line)
    return number, values


def _truth(
    shapes: Sequence[tuple[int, Sequence[float], str]],
    image: str,
    root: str,
    problems: list[Problem],
) -> Truth | None:
    if not shapes:
        return None
    try:
        size = image_size(image)
    except ImageError as error:
        problems.append(Problem("broken image", error.message, image.removeprefix(root), "error"))
        return None
    boxes: list[TruthBox] = []
    masks: list[TruthMask] = []
    for index, values, where in shapes:
        if len(values) == 4:
            box = box_from_yolo((values[0], values[1], values[2], values[3]), size)
        else:
            corners = np.asarray(values).reshape(-1, 2) * size  # (N, 2) in pixels
            masks.append(TruthMask(index, PolygonRle([corners.ravel().tolist()], size)))
            box = box_of_points(corners)
        usable = usable_box(box, image_size=size, where=where, problems=problems)
        if usable is not None:
            boxes.append(TruthBox(index, usable))
    return Truth(tuple(boxes), tuple(masks)) if boxes or masks else None
