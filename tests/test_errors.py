"""Errors say where, what and what would do, and survive the way between processes."""

from __future__ import annotations

import copy
import pickle

import pytest

from weakloc import errors
from weakloc.errors import DataError, ImageError, WeaklocError, did_you_mean


def all_kinds(kind: type[WeaklocError] = WeaklocError) -> list[type[WeaklocError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in all_kinds(child))]


def test_the_message_reads_where_what_remedy() -> None:
    message = "class 'dgo' is not among dog, cat"
    full = DataError(message, location="labels.csv, line 14", remedy="Did you mean 'dog'?")
    expected = "labels.csv, line 14: class 'dgo' is not among dog, cat. Did you mean 'dog'?"
    assert str(full) == expected
    assert str(DataError(message)) == message
    assert str(DataError(message, location="labels.csv")) == f"labels.csv: {message}"


def test_a_message_is_one_line_and_holds_nothing_that_a_terminal_obeys() -> None:
    error = DataError("class 'a\nb\x1b[31m\u2028' is odd", location="\udcff.csv", remedy="\r")
    assert str(error) == r"\udcff.csv: class 'a\nb\x1b[31m\u2028' is odd. \r"
    assert str(DataError("Größe 日本 🐈")) == "Größe 日本 🐈"


@pytest.mark.parametrize("kind", all_kinds())
def test_every_kind_survives_pickling_and_copying(kind: type[WeaklocError]) -> None:
    error = kind("is empty", location="a b.jpg", remedy="Delete it")
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(copied) is kind
        assert (copied.message, copied.location, copied.remedy) == (
            "is empty",
            "a b.jpg",
            "Delete it",
        )
        assert str(copied) == str(error)


def test_a_users_mistake_exits_with_2_and_a_failure_with_1() -> None:
    codes = {kind.__name__: kind.exit_code for kind in all_kinds()}
    failures = {name for name, code in codes.items() if code == 1}
    assert failures == {"FailureError", "OutputError", "TrainingError"}
    assert codes["StoppedError"] == 130
    assert set(codes.values()) == {1, 2, 130}
    assert issubclass(ImageError, DataError)


def test_every_error_of_the_module_is_in_the_tree() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert classes == {kind for kind in all_kinds() if kind.__module__ == errors.__name__}


def test_a_near_name_is_suggested_and_a_far_one_gets_the_list() -> None:
    assert did_you_mean("dgo", ["cat", "dog"]) == "Did you mean 'dog'?"
    assert did_you_mean("zebra", ["dog", "cat"]) == "Choose one of: cat, dog"
    many = [f"class {number:02}" for number in range(20)]
    assert did_you_mean("zebra", many).endswith("class 11, ...")
    assert did_you_mean("zebra", []) == "There are no candidates"
