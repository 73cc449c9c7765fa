"""Tables: CSV, TSV or JSON lines with a path and labels on each line.

`path,labels` with `cat;dog` between labels: classes that are not listed are absent, an empty
cell means that no class is present, `?cat` that cat is unknown, a lone `?` that all not listed
are. Or one column for each class: 1, 0, or blank for unknown. A column `split` is optional; without
it, tables named train.csv, val.csv and test.csv are splits. An image on several lines has all
their labels.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from weakloc.data.readers.assembly import (
    ALL,
    SPLIT_NAMES,
    Assembly,
    LabelClaim,
    Oddity,
    Problems,
    claim_of_states,
    split_name,
)
from weakloc.data.readers.file_tree import file_names, image_paths_below, is_image_name, require_one
from weakloc.errors import DataError, did_you_mean
from weakloc.files import at_line, numbered_lines, text_lines
from weakloc.settings import ReaderOptions
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, DataSet

JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})
TABLE_SUFFIXES = frozenset({".csv", ".tsv", *JSON_SUFFIXES})
PATH_HEADERS = (
    "path", "image", "file", "filename", "file_name", "filepath", "file_path", "image_path",
    "image_name", "image_file", "img", "img_path", "image_id", "name", "id",
)  # fmt: skip
LABELS_HEADERS = (
    "labels", "label", "tags", "tag", "classes", "class", "categories", "category", "class_name",
    "class_names", "label_name",
)  # fmt: skip
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


@dataclass(frozen=True, slots=True)
class TableContent:
    """The rows of one table; `class_names` are in column order, None for lists of labels."""

    rows: tuple[TableRow, ...]
    class_names: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where in a line everything is; a line has `width` cells."""

    width: int
    path: int
    labels: int | None
    split: int | None
    classes: Mapping[int, str]

    def flaw_of(self, cells: Sequence[str]) -> str | None:
        """What is wrong with the cells of a line."""
        if len(cells) < self.width:
            return f"there are {len(cells)} cells where {self.width} are expected"
        if any(cells[self.width :]):
            return f"there are more than {self.width} cells; a comma may lack its quotes"
        return None if cells[self.path] else "there is no image path"


def image_paths(path: Path) -> Iterator[str]:
    """The images that a table names, as written there; lines without one are passed over."""
    if path.suffix.lower() in JSON_SUFFIXES:
        for number, line in numbered_lines(path):
            try:
                yield _image_of(_record_of(line), None)
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


def read_rows(path: Path, options: ReaderOptions, problems: Problems) -> TableContent:
    """All rows of a table file."""
    if path.suffix.lower() in JSON_SUFFIXES:
        return TableContent(tuple(_json_rows(path, options, problems)), None)
    records = _records(path)
    number, header = next(records, (1, None))
    if header is None:
        raise DataError("the table is empty", location=str(path), remedy="Give one line an image")
    if any(map(is_image_name, header)):
        columns = _columns_without_header(header, path)
        records = chain([(number, header)], records)
    else:
        columns = _columns_of_header(header, path, options)
    rows = tuple(_delimited_rows(records, columns, path, options, problems))
    names = None if columns.labels is not None else tuple(columns.classes.values())
    return TableContent(rows, names)


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


def _columns_without_header(cells: Sequence[str], path: Path) -> _Columns:
    if len(cells) != 2 or not is_image_name(cells[0]):
        raise DataError(
            f"the first line is no header, and its {len(cells)} cells are not a path and labels",
            location=at_line(path, 1),
            remedy="Add a header such as: path,labels",
        )
    return _Columns(width=2, path=0, labels=1, split=None, classes={})


def _columns_of_header(header: Sequence[str], path: Path, options: ReaderOptions) -> _Columns:
    path_at = _path_column(header, options.path_column, path)
    labels_at = _find(header, options.labels_column, LABELS_HEADERS, path)
    split_at = _find(header, options.split_column, SPLIT_HEADERS, path)
    taken = {path_at, labels_at, split_at}
    others = {at: name for at, name in enumerate(header) if at not in taken and name}
    if labels_at is None and not others:
        raise DataError(
            "there is neither a column of labels nor one for each class",
            location=at_line(path, 1),
            remedy="Name it labels, or say which column holds the labels",
        )
    classes = {} if labels_at is not None else others
    width = 1 + max(at for at, name in enumerate(header) if name)
    return _Columns(width, path_at, labels_at, split_at, classes)


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


def _delimited_rows(
    lines: Iterable[tuple[int, Sequence[str]]],
    columns: _Columns,
    path: Path,
    options: ReaderOptions,
    problems: Problems,
) -> Iterator[TableRow]:
    lists: dict[str, LabelClaim] = {}  # equal cells share one claim
    for number, written in lines:
        location = at_line(path, number)
        if flaw := columns.flaw_of(written):
            problems.at(location).error(Oddity.UNREADABLE_LABEL, f"{flaw}; left out")
            continue
        if columns.labels is not None:
            text = written[columns.labels]
            if text not in lists:
                lists[text] = claim_of_list(text.split(options.label_delimiter))
            claim = lists[text]
        else:
            states = {name: written[at] for at, name in columns.classes.items()}
            claim = claim_of_cells(states, problems.at(location))
        split = written[columns.split] if columns.split is not None else ""
        yield TableRow(written[columns.path], claim, split or None, location)


def _json_rows(path: Path, options: ReaderOptions, problems: Problems) -> Iterator[TableRow]:
    for number, line in numbered_lines(path):
        location = at_line(path, number)
        try:
            record = _record_of(line)
            image = _image_of(record, options.path_column)
            written = _value(record, options.labels_column, LABELS_HEADERS)
            split = _value(record, options.split_column, SPLIT_HEADERS)
            claim = claim_of_json(written, options.label_delimiter, problems.at(location))
        except ValueError as error:
            problems.at(location).error(Oddity.UNREADABLE_LABEL, str(error))
            continue
        yield TableRow(image, claim, str(split) if split else None, location)


def _record_of(line: str) -> dict[str, Any]:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("the line is not an object")
    return record


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
        return LabelClaim(rest=UNKNOWN)
    if isinstance(written, Mapping):
        states = {n: "" if s is None else str(s) for n, s in written.items()}
        return claim_of_cells(states, problems)
    if isinstance(written, list):
        return claim_of_list([str(name) for name in written])
    if isinstance(written, str | int):
        return claim_of_list(str(written).split(delimiter))
    raise ValueError(f"labels {written!r} are neither a list, text nor an object")


def claim_of_list(names: Iterable[str]) -> LabelClaim:
    """A list of labels: what it names is present, the rest absent, an empty one means no class.

    `?cat` says that cat is unknown, a lone `?` that every class not named is.
    """
    stripped = [name.strip() for name in names]
    present = frozenset(name for name in stripped if name and not name.startswith("?"))
    unknown = frozenset(name[1:].strip() for name in stripped if name.startswith("?"))
    return LabelClaim(
        present=present,
        unknown=unknown - present - {""},
        rest=UNKNOWN if "" in unknown else ABSENT,
    )


def claim_of_cells(written: Mapping[str, str], problems: Problems) -> LabelClaim:
    """One cell a class: 1, 0, or blank for unknown; classes without a cell are unknown."""
    states: dict[str, int] = {}
    for name, text in written.items():
        state = _STATES.get(text.strip().lower())
        if state is None:
            message = f"'{text}' for class '{name}' is neither 1, 0 nor blank; taken as unknown"
            problems.warning(Oddity.UNREADABLE_LABEL, message)
        states[name] = UNKNOWN if state is None else state
    return claim_of_states(states, UNKNOWN)


def read_table(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """A folder of images and the table (or folder of tables) that labels them."""
    tables = find_tables(path, labels)
    assembly = Assembly(path, "table", options)
    image_root = Path(options.image_root or assembly.root)
    contents = {table: read_rows(table, options, assembly.problems) for table in tables}
    rows = _joined_rows(contents, assembly.problems)
    assembly.set_classes(_names(list(contents.values())))
    folders = dict.fromkeys((image_root, *(table.parent for table in tables)))
    if not _add_rows(assembly, rows, [folder.absolute().as_posix() for folder in folders]):
        raise DataError(
            f"none of the {len(rows)} images named in the table exists",
            location=str(tables[0]),
            remedy=f"Looked for '{rows[0].image}' below {image_root}" if rows else None,
        )
    beside = image_paths_below(image_root.absolute().as_posix())
    assembly.warn_of_unlisted(beside, "the table does not name it; left out")
    return assembly.finish()


def find_tables(path: Path, labels: Path | None) -> tuple[Path, ...]:
    """The table that is meant, or the tables of the splits; an error where that is not clear."""
    tables_at = labels or path
    if tables_at.is_file():
        return (tables_at,)
    names = [n for n in file_names(str(tables_at)) if Path(n).suffix.lower() in TABLE_SUFFIXES]
    if not names:
        raise DataError("there is no CSV, TSV or JSONL table", location=str(tables_at))
    if not all(Path(name).stem.lower() in SPLIT_NAMES for name in names):
        require_one(names, "tables", tables_at, "Name the one with the labels")
    return tuple(tables_at / name for name in names)


def _names(contents: Sequence[TableContent]) -> list[str]:
    """Columns in their order; the names in lists sorted."""
    columns = [name for content in contents for name in content.class_names or ()]
    listed = {
        name
        for content in contents
        if content.class_names is None
        for claim in {row.claim for row in content.rows}
        for name in claim.names
    }
    return [*columns, *sorted(listed)]


def _joined_rows(contents: Mapping[Path, TableContent], problems: Problems) -> list[TableRow]:
    """One row for each image of a split, with what all lines about it say together."""
    rows: dict[tuple[str, str], TableRow] = {}  # (split, image)
    for table, content in contents.items():
        split_of_table = SPLIT_NAMES.get(table.stem.lower(), ALL) if len(contents) > 1 else ALL
        for row in content.rows:
            # One spelling for each path: no `./`, no doubled slash, none of Windows' backslashes.
            image = os.path.normpath(row.image.replace("\\", "/")).replace(os.sep, "/")
            split = split_name(row.split) if row.split else split_of_table
            earlier = rows.get((split, image))
            if earlier is None:
                rows[split, image] = replace(row, image=image, split=split)
                continue
            merged = earlier.claim.merge(row.claim)
            message = f"'{row.image}' is already at {earlier.location}; "
            if merged == earlier.claim:
                message += "this line adds nothing"
                problems.at(row.location).warning(Oddity.DUPLICATE_IMAGE, message)
            else:
                message += "its labels are joined"
                problems.at(row.location).note(Oddity.DUPLICATE_IMAGE, message)
            rows[split, image] = replace(earlier, claim=merged)
    return list(rows.values())


def _add_rows(assembly: Assembly, rows: Sequence[TableRow], folders: Sequence[str]) -> bool:
    """Adds the images that exist; whether any does."""
    any_exists = False
    for row in rows:
        path = assembly.find_image(row.image, folders, row.location)
        if path is not None:
            name = path.removeprefix(f"{folders[0]}/")
            split = row.split or ALL
            assembly.add(name, path, row.claim, split=split, location=row.location)
            any_exists = True
    return any_exists
