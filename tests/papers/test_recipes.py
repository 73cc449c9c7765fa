"""Recipes are data: they must name what exists, and print what the papers printed."""

from __future__ import annotations

import re
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from weakloc.methods import METHODS, method_named
from weakloc.methods.method import Method
from weakloc.methods.settings import from_settings, merged_settings, to_settings
from weakloc.metrics.evaluation import METRICS
from weakloc.papers.cells import Measurement
from weakloc.papers.recipe import (
    EFFORTS,
    Cell,
    Conditions,
    Recipe,
    as_published,
    from_scratch,
    given_backbone,
)
from weakloc.papers.tables import RECIPES
from weakloc.settings import CalibrateSettings, Look, Places, TrainSettings, look_and_places

SPECIFICATION = Path(__file__).parents[3] / "shared" / "papers" / "spec.md"
CELLS = [(recipe, cell) for recipe in RECIPES.values() for cell in recipe.cells]
NUMBERS = {name for metric in METRICS.values() for name in metric.headlines}
SECTIONS = {
    "Max-MIL table 1": "7.1",
    "BEAM table 1": "7.2",
    "BEAM table 4": "7.2",
    "WILDCAT table 2": "7.3",
    "WILDCAT table 8": "7.3",
    "WILDCAT table 9": "7.3",
    "WILDCAT table 5": "7.4",
    "WILDCAT table 6": "7.4",
    "WILDCAT table 7": "7.4",
    "Choe et al. table": "7.5",
}


def cell_of(recipe: str, name: str) -> Cell:
    return next(cell for cell in RECIPES[recipe].cells if cell.name == name)


def _conditions(recipe: Recipe) -> list[Conditions]:
    scratch = [from_scratch(budget, recipe) for budget, _ in EFFORTS]
    published = [as_published(budget, recipe, "paper") for budget in ("paper", "paper60")]
    return [*scratch, given_backbone(recipe.optimiser), *published]


@pytest.mark.parametrize(
    ("recipe", "cell"), CELLS, ids=[f"{recipe.name}-{cell.name}" for recipe, cell in CELLS]
)
def test_every_setting_of_every_cell_exists(recipe: Recipe, cell: Cell) -> None:
    for conditions in _conditions(recipe):
        TrainSettings(**{**conditions.train, **cell.train})
        choices = merged_settings(conditions.choices(cell.method), cell.choices)
        method = method_named(cell.method, conditions.preset, choices)
        from_settings(METHODS[cell.method], merged_settings(to_settings(method), cell.search))
    look, places = look_and_places(cell.look)
    assert Look(**look)
    assert Places(**places)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_metric_exists_and_findings_use_those_that_are_shown(recipe: Recipe) -> None:
    claimed = {
        name for each in recipe.findings for name in (each.metric, each.worse_metric) if name
    }
    assert set(recipe.metrics) <= NUMBERS
    assert claimed <= set(recipe.metrics)
    assert {each.metric for each in recipe.published} <= NUMBERS


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_finding_compares_two_different_things(recipe: Recipe) -> None:
    for each in recipe.findings:
        assert (each.better, each.metric) != (each.worse, each.worse_metric or each.metric)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_cell_has_one_name_and_no_other_is_used(recipe: Recipe) -> None:
    names = [cell.name for cell in recipe.cells]
    assert len(set(names)) == len(names)
    named = {name for each in recipe.findings for name in (each.better, each.worse)}
    assert named | {name for each in recipe.published for name in each.values} <= set(names)


def test_every_paper_and_every_recipe_of_the_offline_list_is_there() -> None:
    numbers = {number for each in RECIPES.values() for number in each.number.split(", ")}
    must = {*("A1", "A2", "A3", "B1", "B2", "B3", "B4", "B5"), *("D1", "D2", "X1")}
    assert numbers >= must | {f"C{place}" for place in range(1, 10)} | {"D4", "D5", "D6"}


def test_the_control_of_the_maps_ablation_divides_only_the_heads_rate() -> None:
    control = cell_of("wildcat-maps", "M = 1, head rate / 8")
    assert (control.head_rate, control.backbone_rate) == (1 / 8, 1.0)
    assert control.choices["maps_per_class"] == 1


def test_an_alpha_is_chosen_on_images_that_its_network_held_out() -> None:
    cells = RECIPES["beam-rescoring"].cells
    chosen = [cell for cell in cells if cell.tuning == "held-out tags"]
    assert [cell.look["rescoring"] for cell in chosen] == [None]  # as it was chosen
    assert all(cell.train["hold_out"] > 0 for cell in cells)  # one network, compared with itself


@pytest.mark.parametrize(
    ("name", "granularity"),
    [("20 boxes a class, by class", "class"), ("20 boxes a class, one for all", "global")],
)
def test_thresholds_by_class_look_at_as_many_boxes_of_each_class(
    name: str, granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def tuned(run: Any, data_set: Any, settings: CalibrateSettings, **_look: Any) -> Any:
        asked.append(settings)
        return run

    monkeypatch.setattr("weakloc.papers.cells.calibrate", tuned)
    cell = cell_of("beam-boxes", f"threshold {name}")
    training: Any = SimpleNamespace(settings=TrainSettings())
    nothing: Any = None
    Measurement(cell, (training,), ())._tuned(nothing, nothing)
    (settings,) = asked
    assert (settings.boxes, settings.boxes_per_class) == (0, 20)
    assert settings.granularity == granularity
    assert settings.split == "train"


@pytest.mark.shared
@pytest.mark.skipif(not SPECIFICATION.is_file(), reason="the papers' tables are not here")
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_published_numbers_are_those_of_the_papers(recipe: Recipe) -> None:
    text = SPECIFICATION.read_text(encoding="utf-8")
    for each, (start, section) in product(recipe.published, SECTIONS.items()):
        if each.source.startswith(start):
            printed = {float(number) for number in re.findall(r"\d+\.\d+", _section(text, section))}
            assert set(each.values.values()) <= printed


@pytest.mark.shared
@pytest.mark.skipif(not SPECIFICATION.is_file(), reason="the papers' tables are not here")
@pytest.mark.parametrize("name", ["wildcat-order", "wildcat-maps", "wildcat-both"])
def test_the_numbers_of_a_row_stand_in_one_row_of_the_paper(name: str) -> None:
    published = RECIPES[name].published
    rows = _section(SPECIFICATION.read_text(encoding="utf-8"), "7.4").replace("*", "").splitlines()
    for cell in published[0].values:
        numbers = " | ".join(f"{each.values[cell]:.1f}" for each in published)
        assert any(numbers in row for row in rows), cell


# What the papers say in words: section 4.3 of BEAM; figures 4 and 5 and table 7 of WILDCAT.
SAID_IN_WORDS = {
    "beam-rescoring": {
        ("alpha = 0.1", "alpha = 0", "classification_map"),
        ("alpha = 0.1", "alpha = 0", "point_map"),
    },
    "wildcat-alpha": {
        ("alpha = 0.6", "alpha = 1", "classification_map"),
        ("alpha = 0.7", "alpha = 1", "classification_map"),
        ("alpha = 1", "alpha = 0", "classification_map"),
        ("alpha = 0.7", "alpha = 0", "classification_map"),
        ("alpha = 0.7", "alpha = 1", "point_map"),
        ("alpha = 0.7", "alpha = 0", "point_map"),
    },
    "wildcat-sizes": {("three networks, late classifier", "side x 1", "classification_map")},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_claim_is_a_papers_only_where_it_prints_the_comparison(recipe: Recipe) -> None:
    for each in recipe.findings:
        if each.said_by == "weakloc":
            continue
        printed = [
            numbers.values[each.better] - numbers.values[each.worse]
            for numbers in recipe.published
            if numbers.metric == each.metric and {each.better, each.worse} <= {*numbers.values}
        ]
        if printed:
            assert all(points > 100 * each.margin for points in printed), each.claim
        else:
            in_words = (each.better, each.worse, each.metric)
            assert in_words in SAID_IN_WORDS[recipe.name], each.claim


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_points_that_a_claim_quotes_are_the_difference_of_printed_numbers(
    recipe: Recipe,
) -> None:
    for each in recipe.findings:
        (quoted,) = re.findall(r"\(\+([\d.]+)", each.claim) or [None]
        printed = [
            numbers.values[each.better] - numbers.values[each.worse]
            for numbers in recipe.published
            if numbers.metric == each.metric and {each.better, each.worse} <= {*numbers.values}
        ]
        if quoted is not None and printed:
            assert float(quoted) == pytest.approx(printed[0])


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_a_papers_number_stands_beside_the_literal_command(kind: type[Method]) -> None:
    description = sys.modules[kind.__module__].__doc__ or ""
    commands = re.findall(r"`weakloc train ([^`]+)`", description)
    assert commands
    assert all(f"--method {kind.name} --preset literal" in command for command in commands)
    page = (Path(__file__).parents[2] / f"docs/methods/{kind.name}.md").read_text(encoding="utf-8")
    assert "--preset literal" in page.split("## What the paper reports")[1]


def _section(text: str, number: str) -> str:
    """From its heading to the next, of whatever level."""
    start = text.index(f"\n## {number} ") + 1
    return text[start : text.index("\n#", start)]


def test_the_page_names_every_recipe() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reproducing.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z-]+)` \|", page, flags=re.MULTILINE)
    assert listed == [*RECIPES]
