"""Asked for some numbers only, evaluation gives the same ones and looks no further."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from weakloc.api.data_sets import read, scenes
from weakloc.api.evaluation import evaluate
from weakloc.api.runs import TrainedRun, load
from weakloc.api.training import train
from weakloc.cli import run as weakloc
from weakloc.settings import EvaluateSettings, Places, TrainSettings
from weakloc.structures import DataSet

ONCE = EvaluateSettings(resamples=0)


@pytest.fixture(scope="module")
def of_one_class(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedRun, DataSet]:
    folder = tmp_path_factory.mktemp("single")
    scenes(folder / "scenes", kind="single", num_train=24, num_val=12)
    settings = TrainSettings(
        backbone="tiny[width=8]", weights="none", image_size=64, epochs=1, workers=0
    )
    return train(folder / "scenes", method="cam", out=folder / "run", settings=settings), read(
        folder / "scenes"
    )


@pytest.mark.parametrize(
    "numbers",
    [
        {"gt_known_loc", "top_1_loc", "top_1_accuracy"},  # places of few classes
        {"point_map"},  # places of all classes
        {"gt_known_loc", "max_box_acc_v2"},  # and whole maps
        {"mean_iou"},
    ],
    ids=lambda numbers: "+".join(sorted(numbers)),
)
def test_wanted_numbers_are_those_of_a_full_evaluation(
    numbers: set[str], of_one_class: tuple[TrainedRun, DataSet]
) -> None:
    run, data_set = of_one_class
    full = evaluate(run, data_set, ONCE)
    some = evaluate(run, data_set, ONCE, numbers=numbers)
    wanted = {each.name: each.value for each in full.metrics if each.name in numbers}
    found = {each.name: each.value for each in some.metrics}
    assert set(wanted) == numbers
    assert {name: found[name] for name in numbers} == wanted
    assert not {"coco_ap", "max_box_acc", "px_ap"} & set(found)
    baselines = {each.name: each.baselines for each in full.metrics if each.name in numbers}
    assert baselines == {each.name: each.baselines for each in some.metrics if each.name in numbers}


def test_a_run_and_its_data_are_evaluated_by_path(trained: Path, scenes: Path) -> None:
    found = evaluate(trained, scenes, ONCE)
    names = {each.name for each in found.metrics}
    assert {"classification_map", "point_map", "box_map_50", "mean_iou", "px_ap"} <= names


def test_a_run_is_judged_as_its_method_says_unless_the_user_says_otherwise(
    trained: Path, scenes: Path
) -> None:
    run = load(trained).run
    rules = replace(run.method.rules, average_precision="nonint", box_edges="inclusive")
    other = TrainedRun(replace(run, method=replace(run.method, rules=rules)))
    numbers = {"classification_map", "point_map", "box_map_50", "corloc"}

    def measured(run: TrainedRun, settings: EvaluateSettings) -> dict[str, float | None]:
        evaluated = evaluate(run, scenes, settings, numbers=numbers)
        return {result.name: result.value for result in evaluated.metrics}

    by_method = measured(other, ONCE)
    assert {"classification_map_nonint", "point_map_nonint", "corloc_inclusive"} <= set(by_method)
    assert "box_map_50_inclusive_nonint" in by_method
    assert not numbers & set(by_method)
    by_user = measured(other, replace(ONCE, ap="voc12", box_edges="half-open"))
    assert by_user == measured(TrainedRun(run), ONCE)
    assert numbers <= set(by_user)


def test_a_comparison_without_resamples_is_refused_in_a_line(
    trained: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = ["evaluate", str(trained), str(scenes), "--compare", str(trained)]
    assert weakloc([*compared, "--resamples", "0"]) == 2
    assert "--resamples is 0" in capsys.readouterr().err


def test_predictions_of_every_class_are_measured_as_the_run_is(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    """Whoever made them, as the machines of a cluster may: `docs/scaling-out.md`."""
    out = tmp_path / "found"
    of_all = replace(ONCE, split="train")
    flags = ["--min-score", "0", "--threshold", "0.6", "--workers", "0", "--quiet"]
    assert weakloc(["predict", str(trained), str(scenes), "--out", str(out), *flags]) == 0
    of_run = evaluate(trained, scenes, of_all, places=Places(threshold=0.6))
    own = {each.name: each.value for each in of_run.metrics}
    found = {each.name: each.value for each in evaluate(out, scenes, of_all).metrics}
    of_masks, of_maps = (
        {"mean_iou", "mean_iou_tags_given"},
        {"max_box_acc", "max_box_acc_v2", "px_ap"},
    )
    assert set(own) - set(found) == of_masks | of_maps
    assert found["corloc"], own
    assert found == {name: own[name] for name in found}
