"""`Prediction` <-> one line of predictions.jsonl, the one true result.

Written without loss: the shortest digits that give the same number back. Keys that this version
does not know are kept in `Prediction.extra`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from weakloc.errors import PredictionsError
from weakloc.files import open_whole
from weakloc.output.exporters.selection import Content
from weakloc.structures import Box, Disagreement, Mask, Point, Prediction

SCHEMA = "weakloc.predictions/1"
_KEYS = frozenset(
    ("schema", "image", "width", "height", "scores", "points", "boxes", "masks", "doubt",
     "disagreements")
)  # fmt: skip
_KINDS = ("missing", "unexpected")
Part = TypeVar("Part")


def export_jsonl(content: Content, out: Path) -> Path:
    """A predictions.jsonl of what the options select."""
    path = out / "predictions.jsonl"
    write_predictions(path, content.predictions)
    return path


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> int:
    """Writes the file whole; the number of lines."""
    count = 0
    with open_whole(path) as stream:
        for prediction in predictions:
            stream.write(prediction_line(prediction))
            count += 1
    return count


def prediction_line(prediction: Prediction) -> str:
    """One line, with its line feed."""
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "image": prediction.image,
        "width": prediction.width,
        "height": prediction.height,
        "scores": dict(prediction.scores),
        "points": [_point_record(point) for point in prediction.points],
        "boxes": [
            {"class": box.class_name, "box": list(box.box), "score": box.score}
            for box in prediction.boxes
        ],
        "masks": [
            {"class": mask.class_name, "rle": _plain_rle(mask.rle), "score": mask.score}
            for mask in prediction.masks
        ],
        "doubt": prediction.doubt,
        "disagreements": [
            {"class": item.class_name, "kind": item.kind, "score": item.score}
            for item in prediction.disagreements
        ],
    }
    record.update((key, prediction.extra[key]) for key in prediction.extra if key not in _KEYS)
    return f"{json.dumps(record, ensure_ascii=False, allow_nan=False)}\n"


def _point_record(point: Point) -> dict[str, Any]:
    record = {"class": point.class_name, "x": point.x, "y": point.y, "score": point.score}
    return record if point.heat is None else {**record, "heat": point.heat}


def _plain_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def read_predictions(path: Path) -> Iterator[Prediction]:
    """One prediction at a time; a malformed line is an error that names it."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise PredictionsError(
            f"cannot be read ({error.strerror})",
            where=str(path),
            remedy="Give a predictions.jsonl that `weakloc predict` wrote",
        ) from error
    with stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield parse_line(line, where=f"{path}, line {number}")


def parse_line(line: bytes | str, *, where: str) -> Prediction:
    """The prediction of one line; `where` names the line in errors."""
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise PredictionsError(
            f"is not JSON ({error})",
            where=where,
            remedy="If a run was interrupted here, `weakloc predict --resume` mends the file",
        ) from error
    try:
        return _prediction(record)
    except _LineError as error:
        raise PredictionsError(str(error), where=where) from error


class _LineError(Exception):
    """What is wrong with a line; becomes a PredictionsError that says where."""


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _prediction(record: object) -> Prediction:
    if not isinstance(record, dict):
        raise _LineError(f"holds {_shown(record)} instead of an object")
    if record.get("schema") != SCHEMA:
        raise _LineError(f"has the schema {_shown(record.get('schema'))}; this reads {SCHEMA!r}")
    width, height = _whole(record, "width"), _whole(record, "height")
    scores = _value(record, "scores", dict)
    for name in scores:
        _number(scores, name)
    return Prediction(
        image=_value(record, "image", str),
        width=width,
        height=height,
        scores=scores,
        points=_parts(record, "points", _point),
        boxes=_parts(record, "boxes", _box),
        masks=_parts(record, "masks", lambda item: _mask(item, width=width, height=height)),
        doubt=_number(record, "doubt") if "doubt" in record else 0.0,
        disagreements=_parts(record, "disagreements", _disagreement),
        extra={key: record[key] for key in record if key not in _KEYS},
    )


def _parts(
    record: dict[str, Any], key: str, parse: Callable[[dict[str, Any]], Part]
) -> tuple[Part, ...]:
    items = record.get(key)
    if items is None:
        return ()
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _LineError(f"has {key!r} {_shown(items)}; a list of objects is needed")
    return tuple(parse(item) for item in items)


def _point(item: dict[str, Any]) -> Point:
    heat = _number(item, "heat") if "heat" in item else None
    place = _number(item, "x"), _number(item, "y")
    return Point(_value(item, "class", str), *place, _number(item, "score"), heat)


def _box(item: dict[str, Any]) -> Box:
    box = item.get("box")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise _LineError(f"has the box {_shown(box)}; [left, top, right, bottom] is needed")
    left, top, right, bottom = box
    if left > right or top > bottom:
        raise _LineError(f"has the box {_shown(box)}, whose sides are exchanged")
    return Box(_value(item, "class", str), (left, top, right, bottom), _number(item, "score"))


def _mask(item: dict[str, Any], *, width: int, height: int) -> Mask:
    rle = _value(item, "rle", dict)
    if rle.get("size") != [height, width]:
        raise _LineError(f"has a mask of size {_shown(rle.get('size'))}, not {[height, width]}")
    if not isinstance(rle.get("counts"), str | list):
        raise _LineError("has a mask without 'counts'")
    return Mask(_value(item, "class", str), rle, _number(item, "score"))


def _disagreement(item: dict[str, Any]) -> Disagreement:
    kind = item.get("kind")
    if kind not in _KINDS:
        raise _LineError(f"has a disagreement of kind {_shown(kind)}, not {' or '.join(_KINDS)}")
    return Disagreement(_value(item, "class", str), kind, _number(item, "score"))


def _value(record: dict[str, Any], key: str, kind: type[Part]) -> Part:
    value = record.get(key)
    if not isinstance(value, kind):
        raise _LineError(f"has {key!r} {_shown(value)}; {_KIND_NAMES[kind]} is needed")
    return value


_KIND_NAMES: dict[type, str] = {str: "a text", dict: "an object"}


def _whole(record: dict[str, Any], key: str) -> int:
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _LineError(f"has {key!r} {_shown(value)}; a whole number from 1 on is needed")
    return value


def _number(record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    if value is None or not _is_number(value):
        raise _LineError(f"has {key!r} {_shown(value)}; a number is needed")
    return float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if value is not None else "nothing"
    return text if len(text) <= 60 else f"{text[:57]}..."
