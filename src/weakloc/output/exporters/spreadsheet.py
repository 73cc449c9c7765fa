"""CSV: one row for each class score, point, box and mask, in columns that never change.

`kind` is "image" (one row an image, the score is its doubt), "class", "point", "box" or "mask".
Numbers have as many digits as it takes to give the same number back.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from weakloc.files import open_whole
from weakloc.output.exporters.objects import compressed
from weakloc.output.exporters.selection import Content
from weakloc.structures import Prediction

COLUMNS = (
    "image", "width", "height", "kind", "class", "score", "x", "y", "left", "top", "right",
    "bottom", "rle",
)  # fmt: skip


def export_csv(content: Content, out: Path) -> Path:
    path = out / "predictions.csv"
    with open_whole(path) as stream:
        table = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for prediction in content.predictions:
            shared = {
                "image": prediction.image,
                "width": prediction.width,
                "height": prediction.height,
            }
            table.writerows(shared | row for row in _rows(prediction))
    return path


def _rows(prediction: Prediction) -> Iterator[dict[str, str | float]]:
    yield {"kind": "image", "score": prediction.doubt}
    for name, score in prediction.scores.items():
        yield {"kind": "class", "class": name, "score": score}
    for point in prediction.points:
        at = {"x": point.x, "y": point.y}
        yield {"kind": "point", "class": point.class_name, "score": point.score, **at}
    for box in prediction.boxes:
        sides = zip(("left", "top", "right", "bottom"), box.box, strict=True)
        yield {"kind": "box", "class": box.class_name, "score": box.score, **dict(sides)}
    for mask in prediction.masks:
        counts = str(compressed(mask.rle)["counts"])
        yield {"kind": "mask", "class": mask.class_name, "score": mask.score, "rle": counts}
