"""`weakloc reproduce` from the command line: lists, runs, goes on, survives failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from weakloc.cli import run as weakloc
from weakloc.errors import DataError, SettingError
from weakloc.methods import method_named
from weakloc.methods.cam import Cam
from weakloc.methods.method import rate_factor
from weakloc.model.backbones import build_backbone
from weakloc.model.trunk import BackboneSpec
from weakloc.papers.recipe import Cell, Finding, Recipe
from weakloc.papers.reproduce import Reproduction, planned, reproduce
from weakloc.papers.results import CellResult
from weakloc.papers.tables import RECIPES
from weakloc.settings import TrainSettings

SMALL = ["--backbone", "tiny[width=8]", "--weights", "none", "--image-size", "64", "--epochs", "1"]
MACHINE = ["--workers", "0", "--precision", "fp32", "--jobs", "1"]
SETTINGS = TrainSettings(
    backbone="tiny[width=8]",
    weights="none",
    image_size=64,
    epochs=1,
    workers=0,
    precision="fp32",
    val_split="val",
)
LOOKS = Recipe(
    name="looks",
    number="T1",
    title="Two looks at one network",
    reference="nowhere",
    question="Does half the size help?",
    papers_data="none",
    axis="size",
    cells=(
        Cell(name="whole size", method="cam", at=1.0),
        Cell(name="half size", method="cam", look={"scales": (0.5,)}, at=0.5),
        Cell(name="impossible", method="cam", choices={"smallest_crop": 0.9}, crops_of_boxes=True),
    ),
    metrics=("classification_map", "point_map"),
    findings=(
        Finding("half the size helps", "half size", "whole size", metric="point_map"),
        Finding("the impossible helps", "impossible", "whole size", metric="point_map"),
    ),
)


@pytest.fixture
def wanted(scenes: Path, tmp_path: Path) -> Callable[..., Reproduction]:
    def make(**more: Any) -> Reproduction:
        given = {"data": str(scenes), "seeds": 1, "jobs": 1, "settings": SETTINGS, **more}
        return Reproduction(out=tmp_path / "out", **given)

    return make


def _files(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob(pattern)}


def test_the_list_names_every_recipe_and_loads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert weakloc(["reproduce", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed] == [*RECIPES]


def test_a_paper_s_table_from_the_command_line(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both"
    cells = ["--cell", "max + min", "--cell", "+ alpha = 0.7"]
    command = [
        "reproduce",
        "wildcat-both",
        "--data",
        str(scenes),
        "--out",
        str(out),
        "--seeds",
        "1",
    ]
    assert weakloc([*command, *cells, *SMALL, *MACHINE, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "results.json").read_text())
    assert [each["cell"] for each in told["cells"]] == ["max + min", "+ alpha = 0.7"]
    assert told["findings"][0]["verdict"] == "undecided"
    assert told["findings"][0]["reason"] == "one seed"
    assert told["findings"][1]["verdict"] == "not testable here"
    page = (out / "results.md").read_text()
    assert "| 89.0 | 78.9 |" in page
    assert "best trivial answer" in page
    assert not list(out.rglob("*.ckpt"))


def test_the_windows_of_a_search_are_counted(
    wanted: Callable[..., Reproduction], tmp_path: Path
) -> None:
    """All windows of 8 x 8 cells but the whole: (8 x 9 / 2)^2 less one."""
    cell = Cell(name="all windows", method="beam")
    both = replace(LOOKS, cells=(cell, LOOKS.cells[0]), findings=(), axis=None)
    results = reproduce(both, wanted())
    searched = {row.cell: row.records[0]["searched"] for row in results.rows}
    assert searched == {"all windows": {"windows": 36**2 - 1, "crops": 1}, "whole size": {}}
    header, *_, last = [
        line for line in (wanted().out / "results.md").read_text().splitlines() if "|" in line
    ][:4]
    assert "ms an image | windows | crops |" in header
    assert last.endswith("|  |  |")


def _values(row: CellResult) -> dict[str, dict[int, float]]:
    return {metric: row.by_seed(metric) for metric in row.metrics}


def test_a_reproduction_goes_on_where_it_was(wanted: Callable[..., Reproduction]) -> None:
    two = ("whole size", "half size")
    first = reproduce(LOOKS, wanted(cell=two))
    out = wanted().out
    cells, runs = _files(out, "cells/*.json"), _files(out, "trained.json")
    assert (len(cells), len(runs)) == (2, 1)  # two looks share one training
    lost = sorted(cells)[0]
    lost.unlink()
    again = reproduce(LOOKS, wanted(cell=two))
    assert [_values(row) for row in again.rows] == [_values(row) for row in first.rows]
    assert _files(out, "trained.json") == runs
    kept = _files(out, "cells/*.json")
    assert kept.pop(lost) != cells.pop(lost)
    assert kept == cells
    reproduce(LOOKS, wanted(cell=two, choices={"flip": False}))  # another setting, another cell
    assert len(_files(out, "cells/*.json")) == 4
    assert set(_files(out, "*.svg")) == {out / "classification-map.svg", out / "point-map.svg"}


def test_a_training_that_was_killed_before_it_saved_begins_anew(
    wanted: Callable[..., Reproduction],
) -> None:
    first = reproduce(LOOKS, wanted(cell=("whole size",)))
    mark = next(iter(_files(wanted().out, "trained.json")))
    for path in (mark, *_files(wanted().out, "cells/*.json")):
        path.unlink()
    again = reproduce(LOOKS, wanted(cell=("whole size",)))
    assert _values(again.rows[0]) == _values(first.rows[0])


def test_a_failing_cell_is_named_and_loses_no_other(
    wanted: Callable[..., Reproduction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakloc.papers.cells.SMALLEST_SIDE", 10_000)  # no crop is left
    said: list[str] = []
    results = reproduce(LOOKS, wanted(), say=said.append)
    assert [row.cell for row in results.rows] == ["whole size", "half size"]
    assert "no box is drawn" in results.failures["impossible, seed 0"]
    assert [each.verdict for each in results.judgements] == ["undecided", "not testable here"]
    assert any("failed" in line for line in said)
    assert "failed: impossible" in (wanted().out / "results.md").read_text()


def test_crops_of_boxes_count_as_drawn_boxes(wanted: Callable[..., Reproduction]) -> None:
    results = reproduce(LOOKS, wanted(cell=("impossible",)))
    assert results.rows[0].boxes_used > 32  # more than one on most of the 32 images


def test_sixty_epochs_of_tiny_imagenet_are_planned_as_the_paper_says(
    wanted: Callable[..., Reproduction],
) -> None:
    given = wanted(budget="paper60", settings=TrainSettings(precision="bf16"))
    looked, missing = planned(RECIPES["cam-batch"], given, print)
    assert not missing
    by_cell = {each.cell.name: each.training for each in looked}
    assert len({each.digest for each in by_cell.values()}) == len(by_cell) == 19
    large = by_cell["GR, batch 256, larger net"]
    small = by_cell["HnS, batch 32, smaller net"]
    assert (large.settings.backbone, small.settings.backbone) == ("preact34", "preact18")
    assert (large.settings.epochs, large.settings.cache) == (60, "memory")
    assert (large.settings.batch_size, small.settings.batch_size) == (None, 32)
    assert large.settings.precision == "bf16"
    method = method_named("cam", large.preset, large.choices)
    assert isinstance(method, Cam)
    assert (method.flip, method.augment, method.side) == (True, "gr", 64)
    rates = [rate_factor(replace(method.optimisation, epochs=60), epoch, 1) for epoch in range(60)]
    drops = [epoch for epoch in range(1, 60) if rates[epoch] < rates[epoch - 1]]
    assert drops == [10, 20, 30, 40, 50]
    slower = by_cell["GR, batch 32, rates / 8, larger net"].settings
    assert (slower.batch_size, slower.learning_rate) == (32, pytest.approx(0.1 / 8))


def test_rates_of_head_and_backbone_are_multiplied_apart(
    wanted: Callable[..., Reproduction],
) -> None:
    looked, _ = planned(RECIPES["wildcat-maps"], wanted(), print)
    by_cell = {each.cell.name: each.training for each in looked}
    plain = method_named("wildcat", "practical", by_cell["M = 1"].choices).optimisation
    for name, head, backbone in (
        ("M = 1, head rate / 8", 1 / 8, 1),
        ("M = 1, backbone rate x 8", 1, 8),
    ):
        cell = by_cell[name]
        own = method_named("wildcat", "practical", cell.choices).optimisation
        rate = cell.settings.learning_rate or own.learning_rate
        assert rate == pytest.approx(plain.learning_rate * head)
        before = plain.learning_rate * float(plain.backbone_factor)
        assert rate * float(own.backbone_factor) == pytest.approx(before * backbone)


def test_what_makes_a_cell_is_not_overruled_by_the_command_line(
    wanted: Callable[..., Reproduction],
) -> None:
    given = wanted(settings=replace(SETTINGS, mixup=0.25))
    looked, _ = planned(RECIPES["headline"], given, print)
    by_cell = {each.cell.name: each.training for each in looked}
    assert by_cell["wildcat"].settings.mixup == 0.25
    assert by_cell["wildcat, mixup"].settings.mixup == 1.0
    assert by_cell["wildcat, refined"].digest == by_cell["wildcat"].digest
    assert by_cell["wildcat, mixup"].digest != by_cell["wildcat"].digest


def test_a_changed_default_of_a_method_is_another_training(
    wanted: Callable[..., Reproduction], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {each.cell.name: each.training.digest for each in planned(LOOKS, wanted(), print)[0]}
    monkeypatch.setattr(Cam, "practical", classmethod(lambda kind: kind(patch_sizes=(0, 5))))
    after = {each.cell.name: each.training.digest for each in planned(LOOKS, wanted(), print)[0]}
    assert all(before[cell] != after[cell] for cell in before)


@pytest.fixture
def like_the_papers(scenes: Path, tmp_path: Path) -> Path:
    """The scenes with the lists trainval and test besides train and val."""
    folder = shutil.copytree(scenes, tmp_path / "voc", symlinks=True)
    lists = folder / "ImageSets" / "Main"
    train, val = (lists / f"{name}.txt" for name in ("train", "val"))
    shutil.copy(train, lists / "trainval.txt")
    shutil.copy(val, lists / "test.txt")
    return folder


def test_a_papers_budget_learns_and_measures_on_the_papers_splits(
    wanted: Callable[..., Reproduction], like_the_papers: Path
) -> None:
    def splits(recipe: str, **more: Any) -> tuple[set[tuple[str, str]], list[str]]:
        said: list[str] = []
        given = {"budget": "paper", "data": str(like_the_papers), "settings": TrainSettings()}
        looked, _ = planned(RECIPES[recipe], wanted(**{**given, **more}), said.append)
        all_settings = [part.settings for each in looked for part in each.trainings]
        return {(each.train_split, each.val_split) for each in all_settings}, said

    found, said = splits("wildcat-maps")
    assert found == {("trainval", "test")}
    assert said == ["Learning from the split trainval, measuring on test"]
    assert splits("beam-backbone")[0] == {("train", "val")}
    assert splits("wildcat-maps", splits="given")[0] == {("train", "val")}
    with pytest.raises(DataError, match=r"no split 'trainaug'.*--splits given"):
        splits("wildcat-masks")


HELD_OUT = {"hold_out": 0.25}
FUSED = replace(
    LOOKS,
    cells=(
        Cell(name="one", method="wildcat", train=HELD_OUT),
        Cell(name="two", method="wildcat", train=HELD_OUT, sizes=(0.75, 1.0)),
        Cell(
            name="two, late",
            method="wildcat",
            train=HELD_OUT,
            sizes=(0.75, 1.0),
            fusion="late classifier",
        ),
    ),
    findings=(Finding("two sizes help", "two", "one", metric="point_map"),),
    axis=None,
)


def test_networks_of_two_sizes_are_trained_once_and_measured_together(
    wanted: Callable[..., Reproduction],
) -> None:
    results = reproduce(FUSED, wanted())
    assert not results.failures
    records = {row.cell: row.records[0] for row in results.rows}
    assert records["one"]["sides"] == [64]
    assert records["two"]["sides"] == records["two, late"]["sides"] == [48, 64]
    assert len(_files(wanted().out, "trained.json")) == 2  # 64 pixels serve all three cells
    assert records["two"]["num_parameters"] == 2 * records["one"]["num_parameters"]
    values = {row.cell: row.mean("classification_map") for row in results.rows}
    assert len(set(values.values())) > 1
    again = reproduce(replace(FUSED, cells=FUSED.cells[::-1]), wanted())
    assert {row.cell: row.mean("classification_map") for row in again.rows} == values


def test_a_papers_budget_needs_a_papers_data() -> None:
    with pytest.raises(SettingError, match="--data"):
        Reproduction(out=Path("x"), budget="paper")


def test_a_method_is_measured_in_its_own_maps_where_its_backbone_knows_images(
    wanted: Callable[..., Reproduction], tmp_path: Path
) -> None:
    spec = BackboneSpec.parse("tiny[width=8]", weights="none")
    save_file(build_backbone(spec).trunk.state_dict(), tmp_path / "known.safetensors")
    settings = replace(SETTINGS, weights=str(tmp_path / "known.safetensors"))
    result = reproduce(
        replace(LOOKS, cells=LOOKS.cells[:1], findings=()), wanted(settings=settings)
    )
    assert not result.failures
    runs = [*tmp_path.glob("out/runs/*")]
    assert [path.is_dir() for path in runs] == [True]
    assert not (runs[0] / "cells.safetensors").exists()
