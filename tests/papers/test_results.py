"""The rule of verdicts, on numbers made by hand."""

from __future__ import annotations

import pytest

from weakloc.papers.page import table
from weakloc.papers.recipe import Cell, Finding, Recipe
from weakloc.papers.results import CellResult, Results, judge_finding, verdict_of

CLAIM = Finding("a beats b", "a", "b", metric="point_map")


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.01, 0.02, 0.001], "holds"),
        ([-0.01, -0.02, -0.001], "does not hold"),
        ([0.05, 0.05, -0.001], "undecided"),
        ([0.0004, 0.0003, 0.0001], "undecided"),  # shown as +0.0
        ([0.5], "undecided"),
        ([0.01, 0.02], "undecided"),  # two seeds: t is 12.7
        ([0.0100, 0.0101], "holds"),  # unless they hardly differ
        ([0.0, 0.0, 0.0], "undecided"),
        ([0.0, 0.01, 0.02], "undecided"),  # one seed has no sign
        # mean 0.008, deviation 0.0084, t of 4 degrees 2.776: 0.008 < 0.0104
        ([0.01, 0.02, -0.002, 0.01, 0.002], "undecided"),
        # mean 0.0096, deviation 0.0056: 0.0096 > 0.0070
        ([0.012, 0.013, -0.0003, 0.011, 0.0123], "holds"),
    ],
)
def test_seeds_must_agree(differences: list[float], verdict: str) -> None:
    assert verdict_of(differences) == verdict


def test_seeds_are_paired_and_those_of_one_side_alone_do_not_count() -> None:
    found = judge_finding(CLAIM, {0: 0.5, 1: 0.7, 2: 0.9, 3: 0.1}, {2: 0.8, 1: 0.6, 0: 0.4}, "")
    assert found.differences == pytest.approx((0.1, 0.1, 0.1))
    assert found.verdict == "holds"
    assert found.mean == pytest.approx(0.1)


def test_a_negative_margin_lets_the_better_be_a_little_behind() -> None:
    hardly_behind = Finding("no gain", "a", "b", metric="point_map", margin=-0.01)
    better, worse = {0: 0.500, 1: 0.500, 2: 0.500}, {0: 0.505, 1: 0.504, 2: 0.509}
    found = judge_finding(hardly_behind, better, worse, "")
    assert found.verdict == "holds"
    assert found.mean == pytest.approx(-0.006)
    assert judge_finding(CLAIM, better, worse, "").verdict == "does not hold"


def test_what_was_not_measured_is_not_testable_and_says_why() -> None:
    found = judge_finding(CLAIM, {}, {0: 0.4}, "no boxes are drawn")
    assert (found.verdict, found.reason) == ("not testable here", "no boxes are drawn")
    assert found.mean is None


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("wildcat", ["Classification mAP", "Classification mAP nonint"]),
        ("cam", ["Classification mAP"]),
    ],
)
def test_the_definition_of_a_papers_own_code_stands_beside_ours(
    method: str, expected: list[str]
) -> None:
    """WILDCAT's code averages the precision at each positive."""
    metrics = {"metrics": ("classification_map",), "cells": (Cell("row", method),)}
    recipe = Recipe(
        **dict.fromkeys(("name", "number", "title", "reference"), "a"),
        **metrics,
        question="?",
        papers_data="VOC 2007",
    )
    values = {"classification_map": 0.9, "classification_map_nonint": 0.8}
    values |= {"classification_map_voc07": 0.7}
    record = {
        "seed": 0,
        "values": values,
        "baselines": {},
        "boxes_used": {},
        "boxes_learned_from": 0,
        "unavailable": {},
    }
    record |= {"seconds_to_train": 1, "seconds_to_measure": 1, "num_images": 1}
    row = CellResult("row", (record,))
    results = Results(recipe, (0,), (row,), (), {}, {})
    header, rows = table(results)
    shown = dict(zip(header, rows[0], strict=True))
    assert [name for name in header if name.startswith("Classification")] == expected
    assert [shown[name] for name in expected] == ["90.0", "80.0"][: len(expected)]
