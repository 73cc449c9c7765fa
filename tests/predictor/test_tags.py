"""Tables of tags: known, unknown, absent, and classes that the run has never heard of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from weakloc.data.sources import read_tags
from weakloc.errors import DataError
from weakloc.structures import ABSENT, PRESENT, UNKNOWN

CLASSES = ("cat", "dog", "owl")


def test_a_list_of_labels_says_that_all_others_are_absent(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,labels\nsub/a b.png,dog;cat\nc.png,owl\n")
    tags, problems = read_tags(table, CLASSES)
    assert not problems
    np.testing.assert_array_equal(tags.get("sub/a b.png"), [PRESENT, PRESENT, ABSENT])
    np.testing.assert_array_equal(tags.get("c.png"), [ABSENT, ABSENT, PRESENT])


def test_columns_of_classes_may_leave_cells_blank_for_unknown(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,owl,cat\na.png,1,\nb.png,0,1\n")
    tags, _ = read_tags(table, CLASSES)
    np.testing.assert_array_equal(tags.get("a.png"), [UNKNOWN, UNKNOWN, PRESENT])
    np.testing.assert_array_equal(tags.get("b.png"), [PRESENT, UNKNOWN, ABSENT])


def test_of_an_image_that_no_line_names_nothing_is_known(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,labels\na.png,dog\n")
    tags, _ = read_tags(table, CLASSES)
    assert tags.get("other.png") is None


def test_paths_are_met_however_they_are_written(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,labels\n./sub/a.png,dog\nsub\\b.png,cat\n")
    tags, _ = read_tags(table, CLASSES)
    vectors = [tags.get(name) for name in ("sub/a.png", "sub/b.png")]
    np.testing.assert_array_equal(vectors, [[ABSENT, PRESENT, ABSENT], [PRESENT, ABSENT, ABSENT]])


def test_a_class_that_the_run_does_not_have_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,labels\na.png,dog\nb.png,dgo\n")
    with pytest.raises(DataError, match=r"tags\.csv, line 3: the run has no class 'dgo'.*'dog'"):
        read_tags(table, CLASSES)
