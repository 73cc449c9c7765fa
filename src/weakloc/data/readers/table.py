"""Tables: CSV, TSV or JSON lines with a path and labels on each line.

`path,labels` with `cat;dog` between labels: classes that are not listed are absent, an empty
cell means that no class is present, `?cat` that cat is unknown, a lone `?` that all not listed
are. Or one column for each class: 1, 0, or blank for unknown. A column `split` is optional; without
it, tables named train.csv, val.csv and test.csv are splits. An image on several lines has all
their labels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakloc.data.readers.assembly import (
    ALL,
    DUPLICATE_IMAGE,
    IMAGE_WITHOUT_LABELS,
    MISSING_IMAGE,
    SPLIT_NAMES,
    Assembly,
    LabelClaim,
    Problems,
    ReaderOptions,
    chosen_classes,
    split_name,
)
from weakloc.data.readers.file_tree import FileIndex, file_names, image_folders, join
from weakloc.data.readers.table_rows import TABLE_SUFFIXES, TableContent, at_line, read_rows
from weakloc.errors import DataError
from weakloc.structures import DataSet


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image of a split, with everything that its lines say."""

    image: str
    claim: LabelClaim
    location: str


def read_table(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """A folder of images and the table (or folder of tables) that labels them."""
    tables = find_tables(path, labels)
    root = path if path.is_dir() else path.parent
    image_root = Path(options.image_root) if options.image_root else root
    problems = Problems()
    contents = {table: read_rows(table, options, problems) for table in tables}
    entries = _entries(contents, problems)
    names = chosen_classes(_names(list(contents.values())), options)
    assembly = Assembly(root, "table", names, problems)
    folders = (image_root, *{table.parent: None for table in tables})
    used = _add_entries(assembly, entries, [f.absolute().as_posix() for f in folders])
    if not used:
        first = next(iter(entries.values()), None)
        raise DataError(
            f"none of the {len(entries)} images named in the table exists",
            where=str(tables[0]),
            remedy=f"Looked for '{first.image}' below {image_root}" if first else None,
        )
    _report_unlisted(assembly, image_root, used)
    return assembly.finish()


def find_tables(path: Path, labels: Path | None) -> tuple[Path, ...]:
    """The table that is meant, or the tables of the splits; an error where that is not clear."""
    tables_at = labels or path
    if tables_at.is_file():
        return (tables_at,)
    names = [n for n in file_names(str(tables_at)) if Path(n).suffix.lower() in TABLE_SUFFIXES]
    if not names:
        raise DataError("there is no CSV, TSV or JSONL table", where=str(tables_at))
    if len(names) > 1 and not all(Path(name).stem.lower() in SPLIT_NAMES for name in names):
        raise DataError(
            f"there are several tables: {', '.join(names)}",
            where=str(tables_at),
            remedy="Name the one with the labels",
        )
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


def _entries(
    contents: Mapping[Path, TableContent], problems: Problems
) -> dict[tuple[str, str], _Entry]:
    """(split, image) -> what all lines about it say together."""
    entries: dict[tuple[str, str], _Entry] = {}
    for table, content in contents.items():
        split_of_table = SPLIT_NAMES.get(table.stem.lower(), ALL) if len(contents) > 1 else ALL
        for row in content.rows:
            location = at_line(table, row.line)
            # One spelling for each path: no `./`, no doubled slash, none of Windows' backslashes.
            image = os.path.normpath(row.image.replace("\\", "/")).replace(os.sep, "/")
            key = (split_name(row.split) if row.split else split_of_table, image)
            earlier = entries.get(key)
            if earlier is None:
                entries[key] = _Entry(key[1], row.claim, location)
                continue
            merged = earlier.claim.merge(row.claim)
            message = f"'{row.image}' is already at {earlier.location}; "
            if merged == earlier.claim:
                problems.at(location).warning(DUPLICATE_IMAGE, message + "this line adds nothing")
            else:
                problems.at(location).note(DUPLICATE_IMAGE, message + "its labels are joined")
            entries[key] = _Entry(earlier.image, merged, earlier.location)
    return entries


def _add_entries(
    assembly: Assembly, entries: Mapping[tuple[str, str], _Entry], folders: Sequence[str]
) -> set[str]:
    """Adds the images that exist and returns their paths."""
    index = FileIndex()
    used: set[str] = set()
    prefix = f"{folders[0]}/"
    for (split, _), entry in entries.items():
        path = _find_image(entry.image, folders, index)
        if path is None:
            message = f"image '{entry.image}' does not exist"
            assembly.problems.at(entry.location).error(MISSING_IMAGE, message)
            continue
        name = path.removeprefix(prefix)
        assembly.add(name, path, entry.claim, split=split, location=entry.location)
        used.add(path)
    return used


def _find_image(image: str, folders: Sequence[str], index: FileIndex) -> str | None:
    if image.startswith("/") or image[1:3] == ":/":
        return index.resolve(image)
    paths = (index.resolve(f"{folder}/{image}") for folder in folders)
    return next((path for path in paths if path is not None), None)


def _report_unlisted(assembly: Assembly, image_root: Path, used: set[str]) -> None:
    root = image_root.absolute().as_posix()
    for folder in image_folders(root):
        for name in folder.image_names:
            if f"{folder.path}/{name}" not in used:
                problems = assembly.problems.at(join(folder.relative, name))
                problems.warning(IMAGE_WITHOUT_LABELS, "the table does not name it; left out")
