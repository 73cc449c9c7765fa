"""Tables: CSV, TSV, JSON lines or Parquet with a path and labels on each line.

`path,labels` with `cat;dog` between labels: classes that are not listed are absent, an empty
cell means that no class is present, `?cat` that cat is unknown, a lone `?` that all not listed
are. Or one column for each class: 1, 0, or blank for unknown. A column `split` is optional; without
it, tables named train.csv, val.csv and test.csv are splits. An image on several lines has all
their labels.

Hugging Face's image folders have a table `metadata` in the root or in folders right below it: paths
are relative to its folder and never leave it, folders named like splits are splits, and `objects`,
with `bbox` (x, y, width, height) and `categories`, are drawn boxes.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from weakloc.data.readers.assembly import (
    ALL,
    NOTHING_KNOWN,
    SPLIT_NAMES,
    Assembly,
    Drawn,
    LabelClaim,
    Oddity,
    Problems,
    read_box,
    split_name,
)
from weakloc.data.readers.file_tree import (
    file_names,
    image_paths_below,
    is_image_name,
    join,
    require_one,
    subfolders,
)
from weakloc.errors import DataError, did_you_mean, needing
from weakloc.files import at_line, leads_out, numbered_lines, parse_foreign_json, text_lines
from weakloc.geometry import box_from_xywh
from weakloc.settings import ReaderOptions
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, DataSet

JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})
RECORD_SUFFIXES = JSON_SUFFIXES | {".parquet"}
TABLE_SUFFIXES = RECORD_SUFFIXES | {".csv", ".tsv"}
METADATA_NAMES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
PATH_HEADERS = (
    "path", "image", "file", "filename", "file_name", "filepath", "file_path", "image_path",
    "image_name", "image_file", "img", "img_path", "image_id", "name", "id",
)  # fmt: skip
LABELS_HEADERS = (
    "labels", "label", "tags", "tag", "classes", "class", "categories", "category", "class_name",
    "class_names", "label_name",
)  # fmt: skip
OBJECT_HEADERS = ("categories", "category", "labels", "label")  # of the classes in `objects`
SPLIT_HEADERS = ("split", "subset", "set", "partition")
_STATES: Mapping[str, int] = {
    "1": PRESENT, "1.0": PRESENT, "true": PRESENT, "yes": PRESENT, "y": PRESENT, "+1": PRESENT,
    "0": ABSENT, "0.0": ABSENT, "false": ABSENT, "no": ABSENT, "n": ABSENT,
    "-1": ABSENT, "-1.0": ABSENT,
    "": UNKNOWN, "?": UNKNOWN, "nan": UNKNOWN, "na": UNKNOWN, "n/a": UNKNOWN, "null": UNKNOWN,
    "none": UNKNOWN,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableRow:
    """An image as it is written, what is said of it, its split if given, and where that stands."""

    image: str
    claim: LabelClaim
    split: str | None
    location: str
    objects: tuple[tuple[str, Any], ...] = ()  # (class, box as it is written)


@dataclass(frozen=True, slots=True)
class TableContent:
    """The rows of one table; `class_names` are those that have a column each, in their order."""

    path: Path
    folder: str  # that its images are named below, empty for that of the data
    rows: tuple[TableRow, ...]
    class_names: Collection[str]


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where in a line everything is; a line has `width` cells."""

    width: int
    named: Mapping[str, int]  # path, and labels and split where there are any
    classes: Mapping[str, int]  # those with a column of their own

    def record_of(self, cells: Sequence[str]) -> Mapping[str, Any]:
        """A line as a record; ValueError where it has too few cells, too many or no path."""
        if len(cells) < self.width:
            raise ValueError(f"there are {len(cells)} cells where {self.width} are expected")
        if any(cells[self.width :]):
            raise ValueError(f"there are more than {self.width} cells; a comma may lack its quotes")
        if not cells[self.named["path"]]:
            raise ValueError("there is no image path")
        of_classes = {name: cells[at] for name, at in self.classes.items()}
        return {"labels": of_classes, **{name: cells[at] for name, at in self.named.items()}}


def images_of_table(path: Path) -> Iterator[str | tuple[str, bytes]]:
    """The images that a table names, as written there; lines without one are passed over.

    Where Parquet holds them, in a column `bytes` or as Hugging Face does, each comes with its
    bytes, and one that has no name is called by its number.
    """
    if path.suffix.lower() in RECORD_SUFFIXES:
        for number, written in _records_of(path):
            try:
                record = _record_of(written)
                held = [r for r in (record, *record.values()) if isinstance(r, Mapping)]
                contents = [r["bytes"] for r in held if isinstance(r.get("bytes"), bytes)]
                names = [_value(r, None, PATH_HEADERS) for r in held] if contents else []
                name = next((name for name in names if isinstance(name, str)), str(number))
                yield (name, contents[0]) if contents else _image_of(record, None)
            except ValueError as error:
                raise DataError(str(error), location=at_line(path, number)) from error
        return
    records = _records(path)
    _, first = next(records, (1, [""]))
    if any(map(is_image_name, first)):
        column = next(at for at, cell in enumerate(first) if is_image_name(cell))
        yield first[column]
    else:
        column = _path_column(first, None, path)
    yield from (cells[column] for _, cells in records if len(cells) > column and cells[column])


def _read_rows(path: Path, folder: str, options: ReaderOptions, problems: Problems) -> TableContent:
    problems = problems.at(join(folder, path.name))
    if path.suffix.lower() in RECORD_SUFFIXES:
        rows = tuple(record_rows(_records_of(path), options, problems))
        return TableContent(path, folder, rows, ())
    lines = _records(path)
    number, header = next(lines, (1, None))
    if header is None:
        raise DataError("the table is empty", location=str(path), remedy="Give one line an image")
    renamed = ReaderOptions(label_delimiter=options.label_delimiter)
    if any(map(is_image_name, header)):
        if len(header) != 2 or not is_image_name(header[0]):
            reason = f"the first line is no header, and its {len(header)} cells are not"
            raise DataError(
                f"{reason} a path and labels",
                location=at_line(path, 1),
                remedy="Add a header such as: path,labels",
            )
        lines, header, options = chain([(number, header)], lines), ["path", "labels"], renamed
    columns = _columns_of_header(header, path, options)
    records = ((number, partial(columns.record_of, cells)) for number, cells in lines)
    rows = tuple(record_rows(records, renamed, problems))
    return TableContent(path, folder, rows, columns.classes)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the line where it starts, cells) of the records that are not blank."""
    lines = text_lines(path, newline="")
    opening: list[str] = []
    while not "".join(opening).strip() and (line := next(lines, "")):
        opening.append(line)
    first = "".join(opening).lstrip()
    sign = "\t" if "\t" in first or path.suffix.lower() == ".tsv" else ","
    if sign == "," and "," not in first and ";" in first:
        sign = ";"
    reader = csv.reader(chain(opening, lines), delimiter=sign, skipinitialspace=True)
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield start, [cell.strip() for cell in cells]
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"cannot be split in cells: {error}", location=at_line(path, start)
        ) from error


def _columns_of_header(header: Sequence[str], path: Path, options: ReaderOptions) -> _Columns:
    columns = {
        "path": _path_column(header, options.path_column, path),
        "labels": _find(header, options.labels_column, LABELS_HEADERS, path),
        "split": _find(header, options.split_column, SPLIT_HEADERS, path),
    }
    named = {name: at for name, at in columns.items() if at is not None}
    others = {name: at for at, name in enumerate(header) if name and at not in named.values()}
    if "labels" not in named and not others:
        raise DataError(
            "there is neither a column of labels nor one for each class",
            location=at_line(path, 1),
            remedy="Name it labels, or say which column holds the labels",
        )
    width = 1 + max(at for at, name in enumerate(header) if name)
    return _Columns(width, named, {} if "labels" in named else others)


def _path_column(header: Sequence[str], named: str | None, path: Path) -> int:
    column = _find(header, named, PATH_HEADERS, path)
    if column is None:
        raise DataError(
            f"no column looks like image paths; there are: {', '.join(header)}",
            location=at_line(path, 1),
            remedy="Name it path; for training, --path-column may say which it is",
        )
    return column


def _find(
    header: Sequence[str], named: str | None, guesses: Iterable[str], path: Path
) -> int | None:
    if named is not None:
        if named not in header:
            remedy = did_you_mean(named, header)
            raise DataError(
                f"there is no column '{named}'", location=at_line(path, 1), remedy=remedy
            )
        return header.index(named)
    lowered = [name.lower() for name in header]
    return next((lowered.index(guess) for guess in guesses if guess in lowered), None)


def _records_of(path: Path) -> Iterator[tuple[int, Any]]:
    """The numbered lines of JSON, or rows of Parquet with the names of Hugging Face's classes."""
    if path.suffix.lower() in JSON_SUFFIXES:
        yield from numbered_lines(path)
        return
    with needing("weakloc[parquet]"):
        from pyarrow import ArrowException, parquet
    try:
        with path.open("rb") as content, parquet.ParquetFile(content) as file:
            described = parse_foreign_json(
                (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
            )
            features = described.get("info", {}).get("features", {})
            rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(256))
            yield from enumerate((with_class_names(row, features) for row in rows), start=1)
    except (ArrowException, OSError) as error:
        raise DataError(f"is not readable Parquet ({error})", location=str(path)) from error


def with_class_names(value: Any, feature: Any) -> Any:
    """A value with names for the numbers of its classes, as Hugging Face's feature tells them."""
    if isinstance(feature, list):  # one of the ways in which lists are described
        feature = {"_type": "List", "feature": feature[0]}
    elif not isinstance(feature, Mapping):
        return value
    kind = feature.get("_type")
    inner = feature if kind in (None, "ClassLabel") else feature.get("feature")
    if isinstance(value, list):
        return [with_class_names(item, inner) for item in value]
    if isinstance(value, Mapping):
        return {name: with_class_names(v, (inner or {}).get(name)) for name, v in value.items()}
    if kind == "ClassLabel" and isinstance(value, int):
        return feature["names"][value] if 0 <= value < len(feature["names"]) else None
    return value


def _record_of(written: Any) -> Mapping[str, Any]:
    record = parse_foreign_json(written) if isinstance(written, str) else written
    if not isinstance(record, Mapping):
        raise ValueError("the line is not an object")
    return record


def record_rows(
    records: Iterable[tuple[int, Any]], options: ReaderOptions, problems: Problems
) -> Iterator[TableRow]:
    """Numbered records as rows; without labels the classes of their objects are present."""
    for number, written in records:
        location = f"{problems.location}, line {number}"
        try:
            record = written() if callable(written) else _record_of(written)
            image = _image_of(record, options.path_column)
            objects = _objects_of(record.get("objects"))
            labels = _value(record, options.labels_column, LABELS_HEADERS)
            if labels is None and objects is not None:
                labels = [class_name for class_name, _ in objects]
            split = _value(record, options.split_column, SPLIT_HEADERS)
            claim = claim_of_json(labels, options.label_delimiter, problems.at(location))
        except ValueError as error:
            problems.at(location).error(Oddity.UNREADABLE_LABEL, f"{error}; left out")
            continue
        yield TableRow(image, claim, str(split) if split else None, location, objects or ())


def _objects_of(written: Any) -> tuple[tuple[str, Any], ...] | None:
    """(class, box) of a list of objects or an object of lists; None for what is neither."""
    if isinstance(written, list) and all(isinstance(item, Mapping) for item in written):
        names = next(iter(written), {"bbox": None, "category": None})
        written = {name: [item.get(name) for item in written] for name in names}
    if not isinstance(written, Mapping) or "bbox" not in written:
        return None
    boxes, classes = written["bbox"], _value(written, None, OBJECT_HEADERS)
    if not isinstance(boxes, list) or not isinstance(classes, list) or len(boxes) != len(classes):
        raise ValueError("objects have not as many classes (categories) as boxes (bbox)")
    return tuple(zip(map(str, classes), boxes, strict=True))


def _image_of(record: Mapping[str, Any], named: str | None) -> str:
    image = _value(record, named, PATH_HEADERS)
    if not isinstance(image, str):
        raise ValueError(f"there is no image path among {', '.join(record)}")
    return image


def _value(record: Mapping[str, Any], named: str | None, guesses: Iterable[str]) -> Any:
    if named is not None:
        return record.get(named)
    return next((record[guess] for guess in guesses if guess in record), None)


def claim_of_json(written: Any, delimiter: str, problems: Problems) -> LabelClaim:
    """Labels as JSON: a list, text with a delimiter, or an object of 1, 0 and null (unknown)."""
    if written is None:
        return NOTHING_KNOWN
    if isinstance(written, Mapping):
        return claim_of_cells(written, problems)
    if isinstance(written, list):
        return claim_of_list([str(name) for name in written if name is not None])
    if isinstance(written, str | int):
        return _claim_of_text(str(written), delimiter)
    raise ValueError(f"labels {written!r} are neither a list, text nor an object")


@lru_cache(maxsize=4096)  # equal cells share one claim
def _claim_of_text(text: str, delimiter: str) -> LabelClaim:
    return claim_of_list(text.split(delimiter))


def claim_of_list(names: Iterable[str]) -> LabelClaim:
    """A list of labels: what it names is present, the rest absent, an empty one means no class.

    `?cat` says that cat is unknown, a lone `?` that every class not named is.
    """
    stripped = [name.strip() for name in names]
    unknown = {name[1:].strip(): UNKNOWN for name in stripped if name.startswith("?")}
    rest = unknown.pop("", ABSENT)
    present = {name: PRESENT for name in stripped if name and not name.startswith("?")}
    return LabelClaim.of(unknown | present, rest)


def claim_of_cells(written: Mapping[str, Any], problems: Problems) -> LabelClaim:
    """One cell a class: 1, 0, or blank for unknown; classes without a cell are unknown."""
    states = {name: _STATES.get(str(cell).strip().lower()) for name, cell in written.items()}
    for name in written:
        if states[name] is None:
            message = f"'{written[name]}' for class '{name}' is neither 1, 0 nor blank"
            problems.warning(Oddity.UNREADABLE_LABEL, f"{message}; taken as unknown")
    return LabelClaim.of({name: state or UNKNOWN for name, state in states.items()}, UNKNOWN)


def read_table(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """A folder of images and the table (or tables) that labels them."""
    assembly = Assembly(path, "table", options)
    contents = _contents(labels or path, options, assembly.problems)
    rows = _joined_rows(contents, assembly.problems)
    assembly.set_classes(_names(contents))
    image_root = assembly.image_root
    folders = dict.fromkeys((image_root, *(content.path.parent for content in contents)))
    if not add_rows(assembly, rows, [folder.absolute().as_posix() for folder in folders]) and rows:
        raise DataError(
            f"none of the {len(rows)} images named in the table exists",
            location=str(contents[0].path),
            remedy=f"Looked for '{rows[0].image}' below {image_root}; --image-root names another "
            "folder",
        )
    beside = image_paths_below(image_root.as_posix())
    assembly.warn_of_unlisted(beside, "the table does not name it; left out")
    return assembly.finish()


def table_rows(tables_at: Path, options: ReaderOptions, problems: Problems) -> list[TableRow]:
    """One row for each image of a table, or of the tables in a folder."""
    return _joined_rows(_contents(tables_at, options, problems), problems)


def _contents(tables_at: Path, options: ReaderOptions, problems: Problems) -> list[TableContent]:
    """The table that is meant, or the tables of the splits; an error where that is not clear."""
    if not tables_at.is_dir():
        return [_read_rows(tables_at, "", options, problems)]
    tables = []
    for folder in ("", *subfolders(str(tables_at))):
        names = [name for name in file_names(str(tables_at / folder)) if name in METADATA_NAMES]
        require_one(names, "tables of metadata", tables_at / folder, "Keep one of them")
        tables += [(tables_at / folder / name, folder) for name in names]
    if not tables:
        names = [n for n in file_names(str(tables_at)) if Path(n).suffix.lower() in TABLE_SUFFIXES]
        if not names:
            raise DataError("there is no CSV, TSV, JSONL or Parquet table", location=str(tables_at))
        if not all(Path(name).stem.lower() in SPLIT_NAMES for name in names):
            require_one(names, "tables", tables_at, "Name the one with the labels")
        tables = [(tables_at / name, "") for name in names]
    return [_read_rows(path, folder, options, problems) for path, folder in tables]


def _names(contents: Sequence[TableContent]) -> list[str]:
    """Columns in their order; the names in lists sorted."""
    columns = [name for content in contents for name in content.class_names]
    lists = (content.rows for content in contents if not content.class_names)
    claims = {row.claim for rows in lists for row in rows}
    return [*columns, *sorted({name for claim in claims for name in claim.names})]


def _joined_rows(contents: Sequence[TableContent], problems: Problems) -> list[TableRow]:
    """One row for each image of a split, with what all lines about it say together."""
    rows: dict[tuple[str, str], TableRow] = {}  # (split, image)
    for content in contents:
        stem = content.path.stem.lower()
        split_of_table = SPLIT_NAMES.get(stem, ALL) if len(contents) > 1 else ALL
        for row in content.rows:
            # One spelling for each path: no `./`, no doubled slash, none of Windows' backslashes.
            image = os.path.normpath(row.image.replace("\\", "/")).replace(os.sep, "/")
            if content.path.name in METADATA_NAMES:
                if leads_out(image):
                    message = f"'{row.image}' leads out of the folder of the table; left out"
                    problems.at(row.location).error(Oddity.LABEL_FOR_NO_IMAGE, message)
                    continue
                image = join(content.folder, image)
                split_of_table = SPLIT_NAMES.get(image.partition("/")[0].lower(), ALL)
            split = split_name(row.split) if row.split else split_of_table
            earlier = rows.get((split, image))
            if earlier is None:
                rows[split, image] = replace(row, image=image, split=split)
                continue
            merged = earlier.claim.merge(row.claim)
            message = f"'{row.image}' is already at {earlier.location}"
            at_row = problems.at(row.location)
            if merged == earlier.claim:
                at_row.warning(Oddity.DUPLICATE_IMAGE, f"{message}; this line adds nothing")
            else:
                at_row.note(Oddity.DUPLICATE_IMAGE, f"{message}; its labels are joined")
            objects = earlier.objects + row.objects
            rows[split, image] = replace(earlier, claim=merged, objects=objects)
    return list(rows.values())


def add_rows(assembly: Assembly, rows: Iterable[TableRow], folders: Sequence[str]) -> bool:
    """Adds the images that exist; whether any does."""
    any_exists = False
    for row in rows:
        path = assembly.find_image(row.image, folders, row.location)
        if path is not None:
            name, split = path.removeprefix(f"{folders[0]}/"), row.split or ALL
            problems = assembly.problems.at(row.location)
            drawn = (
                Drawn(
                    class_name, read_box(written, box_from_xywh, image_size=None, problems=problems)
                )
                for class_name, written in row.objects
            )
            assembly.add(name, path, row.claim, split=split, location=row.location, drawn=drawn)
            any_exists = True
    return any_exists
