"""`Prediction` <-> one line of predictions.jsonl, the one true result; and -> rows of CSV.

Written without loss: the shortest digits that give the same number back. Keys that this version
does not know are kept in `Prediction.extra`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from operator import methodcaller
from pathlib import Path
from typing import Any

import msgspec

from weakloc.errors import PredictionsError
from weakloc.files import fit_json, open_whole, parse_json, require_regular, shown_json
from weakloc.output.exporters.selection import Content
from weakloc.rle import compressed
from weakloc.structures import Prediction, require_fitting

SCHEMA = "weakloc.predictions/1"
_KEYS = tuple(part.name for part in fields(Prediction) if part.name != "extra")
CSV_COLUMNS = (
    "image", "width", "height", "kind", "class", "score", "x", "y", "left", "top", "right",
    "bottom", "rle",
)  # fmt: skip


def predictions_file(source: str | Path) -> Path:
    """The predictions.jsonl of a folder; a file is taken as it is."""
    path = Path(source)
    return path / "predictions.jsonl" if path.is_dir() else path


def export_jsonl(content: Content, out: Path) -> Path:
    """A predictions.jsonl of what the options select."""
    path = out / "predictions.jsonl"
    write_predictions(path, content.predictions)
    return path


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Writes the file whole."""
    with open_whole(path) as stream:
        stream.writelines(map(prediction_line, predictions))


def record_of(prediction: Prediction) -> dict[str, Any]:
    """It in Python's own numbers, lists and dicts, by the names that files have for them."""
    record: dict[str, Any] = msgspec.to_builtins(
        prediction, builtin_types=(bytes,), enc_hook=methodcaller("item")
    )  # of NumPy's numbers
    return record


def prediction_line(prediction: Prediction) -> str:
    """One line, with its line feed."""
    plain = record_of(prediction)
    extra = plain.pop("extra")
    record = {"schema": SCHEMA, **plain}
    return f"{_encode(record | extra | record)}\n"


# Not msgspec's encoder, which writes NaN as null and 0.00001 for what Python writes as 1e-05.
# The default is for run lengths of pycocotools.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=bytes.decode).encode


def read_predictions(path: Path) -> Iterator[Prediction]:
    """One prediction at a time; a malformed line is an error that names it."""
    require_regular(path, PredictionsError)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise PredictionsError(
            f"cannot be read ({error.strerror})",
            location=str(path),
            remedy="Give a predictions.jsonl that `weakloc predict` wrote",
        ) from error
    with stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield parse_line(line, location=f"{path}, line {number}")


def parse_line(line: bytes | str, *, location: str) -> Prediction:
    """The prediction of one line; `location` names the line in errors."""
    try:
        record = parse_json(line)
    except ValueError as error:
        raise PredictionsError(
            f"is not JSON ({error})",
            location=location,
            remedy="If a run was interrupted here, `weakloc predict --resume` mends the file",
        ) from error
    try:
        return _prediction(record)
    except ValueError as error:
        raise PredictionsError(str(error), location=location) from error


def _prediction(record: object) -> Prediction:
    if not isinstance(record, dict):
        raise ValueError(f"holds {shown_json(record)} instead of an object")
    schema = record.get("schema")
    if schema != SCHEMA:
        raise ValueError(f"has the schema {shown_json(schema)}; this reads {SCHEMA!r}")
    known = {key: record[key] for key in _KEYS if record.get(key) is not None}
    extra = {key: record[key] for key in record if key not in _KEYS and key != "schema"}
    prediction = fit_json({**known, "extra": extra}, Prediction)
    require_fitting(prediction)
    return prediction


def export_csv(content: Content, out: Path) -> Path:
    """One row for each class score, point, box and mask, in columns that never change.

    `kind` is "image" (one row an image, the score is its doubt), "class", "point", "box" or "mask".
    """
    path = out / "predictions.csv"
    with open_whole(path) as stream:
        table = csv.DictWriter(stream, CSV_COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for prediction in content.predictions:
            shared = {
                "image": _cell(prediction.image),
                "width": prediction.width,
                "height": prediction.height,
            }
            table.writerows(shared | row for row in _rows(prediction))
    return path


def _cell(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _rows(prediction: Prediction) -> Iterator[dict[str, str | float]]:
    yield {"kind": "image", "score": prediction.doubt}
    for name, score in prediction.scores.items():
        yield {"kind": "class", "class": _cell(name), "score": score}
    for point in prediction.points:
        at = {"x": point.x, "y": point.y}
        yield {"kind": "point", "class": _cell(point.class_name), "score": point.score, **at}
    for box in prediction.boxes:
        sides = zip(("left", "top", "right", "bottom"), box.box, strict=True)
        yield {"kind": "box", "class": _cell(box.class_name), "score": box.score, **dict(sides)}
    for mask in prediction.masks:
        counts = str(compressed(mask.rle)["counts"])
        yield {"kind": "mask", "class": _cell(mask.class_name), "score": mask.score, "rle": counts}
