"""Tables of tags: known, unknown, absent, and classes that the run has never heard of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from weakloc.errors import DataError
from weakloc.predictor.places import read_tags
from weakloc.structures import ABSENT, PRESENT, UNKNOWN

CLASSES = ("cat", "dog", "owl")


def test_a_list_of_labels_says_that_all_others_are_absent(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,labels\nsub/a b.png,dog;cat\nc.png,owl\n")
    tags, problems = read_tags(table, CLASSES)
    assert not problems
    assert len(tags) == 2
    np.testing.assert_array_equal(tags.of("sub/a b.png"), [PRESENT, PRESENT, ABSENT])
    np.testing.assert_array_equal(tags.of("c.png"), [ABSENT, ABSENT, PRESENT])


def test_columns_of_classes_may_leave_cells_blank_for_unknown(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,owl,cat\na.png,1,\nb.png,0,1\n")
    tags, _ = read_tags(table, CLASSES)
    np.testing.assert_array_equal(tags.of("a.png"), [UNKNOWN, UNKNOWN, PRESENT])
    np.testing.assert_array_equal(tags.of("b.png"), [PRESENT, UNKNOWN, ABSENT])


def test_an_image_that_no_line_names_is_unknown_in_every_class(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,labels\na.png,dog\n")
    tags, _ = read_tags(table, CLASSES)
    np.testing.assert_array_equal(tags.of("other.png"), [UNKNOWN] * 3)


def test_paths_are_met_however_they_are_written(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,labels\n./sub/a.png,dog\nsub\\b.png,cat\n")
    tags, _ = read_tags(table, CLASSES)
    assert tags.of("sub/a.png")[1] == PRESENT
    assert tags.of("sub/b.png")[0] == PRESENT


def test_a_class_that_the_run_does_not_have_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("path,labels\na.png,dog\nb.png,dgo\n")
    with pytest.raises(DataError, match=r"tags\.csv, line 3: the run has no class 'dgo'.*'dog'"):
        read_tags(table, CLASSES)
