"""`weakloc report`, on a run and on predictions."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from weakloc.cli import run as weakloc
from weakloc.files import ByName
from weakloc.metrics.result import EvaluationRecord, MetricRecord
from weakloc.output.exporters.jsonl import read_predictions, write_predictions
from weakloc.structures import Prediction, Sample

LOOK = ("--top", "2", "--workers", "0")


def report(out: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    command = ["report", *map(str, arguments), "--out", str(out), "--json"]
    assert weakloc(command) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def index_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_script(out, "index"))
    return found


def block_of(out: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_script(out, f"block-{number}"))
    return found


def _script(out: Path, name: str) -> str:
    page = out.read_text(encoding="utf-8")
    return re.findall(f'id="{name}">(.*?)</script>', page, re.DOTALL)[0]


@pytest.fixture(scope="module")
def predicted(trained: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predictions")
    images, tags = str(scenes / "JPEGImages"), str(scenes / "tags.csv")
    command = ["predict", str(trained), images, "--tags", tags, "--out", str(out), "--quiet"]
    assert weakloc([*command, "--workers", "0"]) == 0
    return out


def test_a_run_looks_at_the_split_and_shows_the_most_doubtful_with_their_truth(
    trained, scenes, tmp_path, capsys
):
    few, all_of_them = tmp_path / "few.html", tmp_path / "all.html"
    answer = report(few, capsys, trained, "--data", scenes, "--pictures", 3, *LOOK)
    assert (answer["shown"], answer["images"]) == (3, 8)
    report(all_of_them, capsys, trained, "--data", scenes, *LOOK)
    doubts = {image["name"]: image["doubt"] for image in index_of(all_of_them)["images"]}
    assert len(doubts) == 8
    shown = [image["name"] for image in index_of(few)["images"]]
    assert shown == sorted(doubts, key=lambda name: -doubts[name])[:3]
    for image in index_of(few)["images"]:
        assert image["truth"]
        assert {own for own, state in image["tags"] if state == 1} == {
            own for own, *_ in image["truth"]
        }


def test_the_heat_of_predictions_is_that_of_the_run_that_made_them(
    trained, predicted, tmp_path, capsys
):
    out = tmp_path / "r.html"
    answer = report(out, capsys, predicted)
    assert answer["shown"] == answer["images"] == 40
    index = index_of(out)
    said = {each.image: each for each in read_predictions(predicted / "predictions.jsonl")}
    for number, image in enumerate(index["images"]):
        block = block_of(out, number)
        assert block["jpeg"]
        prediction = said[image["name"]]
        heat = {
            index["classes"][own]: (columns, rows, cells)
            for own, columns, rows, cells in block["heat"]
        }
        assert set(heat) == {box.class_name for box in prediction.boxes}
        for point in prediction.points:  # a hottest place, but for the coarser cells
            columns, rows, cells = heat[point.class_name]
            values = np.frombuffer(base64.b64decode(cells), np.uint8).reshape(rows, columns)
            row = int(point.y / prediction.height * rows)
            column = int(point.x / prediction.width * columns)
            around = values[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            assert around.max() >= 0.9 * values.max()
    assert index["thresholds"] == [0.3] * 8


def test_predictions_keep_the_settings_they_were_made_with(predicted, tmp_path, capsys):
    folder = recorded(predicted, tmp_path / "kept", min_area=0.125, threshold=0.625)
    report(tmp_path / "r.html", capsys, folder)
    index = index_of(tmp_path / "r.html")
    assert index["thresholds"] == [0.625] * 8
    assert index["minArea"] == 0.125
    assert any(block_of(tmp_path / "r.html", number)["heat"] for number in range(40))


def recorded(predicted: Path, folder: Path, **settings: object) -> Path:
    """The predictions as if they had been made with these settings."""
    record = json.loads((predicted / "predictions.json").read_text())
    record["settings"] |= settings
    shutil.copytree(predicted, folder)
    (folder / "predictions.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("settings", [{"objectness": "distance"}, {"masks": "par"}])
def test_predictions_with_unknown_settings_are_shown_without_heat_and_it_says_why(
    predicted, tmp_path, capsys, settings
):
    out = tmp_path / "r.html"
    folder = recorded(predicted, tmp_path / "earlier", **settings)
    assert report(out, capsys, folder)["shown"] == 40
    assert "predicted with settings that this weakloc does not have" in out.read_text("utf-8")
    images = index_of(out)["images"]
    assert any(image["boxes"] for image in images)
    for number in range(len(images)):
        block = block_of(out, number)
        assert block["jpeg"] is not None
        assert block["heat"] == []


def test_predictions_alone_make_a_report_without_heat_or_pictures(predicted, tmp_path, capsys):
    alone = tmp_path / "predictions.jsonl"
    shutil.copy(predicted / "predictions.jsonl", alone)
    out = tmp_path / "r.html"
    assert report(out, capsys, alone, "--pictures", 4)["shown"] == 4
    assert block_of(out, 0) == {"jpeg": None, "heat": [], "masks": []}
    assert index_of(out)["images"][0]["boxes"]


@pytest.mark.parametrize("kind", ["folder", "list"])
@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "{secret}"])
def test_predictions_of_a_stranger_show_no_image_outside_of_their_folder(
    tmp_path, capsys, name, kind
):
    secret, inside = tmp_path / "secret.png", tmp_path / "photos" / "inside.png"
    inside.parent.mkdir()
    for path in (secret, inside):
        Image.new("RGB", (40, 30), "red").save(path)
    outside = name.format(secret=secret)
    listed = inside.parent / "list.txt"
    listed.write_text(f"{outside}\ninside.png\n")
    images = [Prediction(image, 40, 30, {}) for image in (outside, "inside.png")]
    write_predictions(tmp_path / "predictions.jsonl", images)
    summary = {"images": str(listed if kind == "list" else inside.parent)}
    (tmp_path / "predictions.json").write_text(json.dumps(summary))
    report(tmp_path / "r.html", capsys, tmp_path)
    shown = {index_of(tmp_path / "r.html")["images"][number]["name"]: number for number in (0, 1)}
    assert block_of(tmp_path / "r.html", shown[outside])["jpeg"] is None
    assert block_of(tmp_path / "r.html", shown["inside.png"])["jpeg"]


def test_of_several_runs_metrics_the_runs_own_are_shown(trained, scenes, tmp_path, capsys):
    runs = [
        EvaluationRecord(
            (MetricRecord("point_map", value, "plain", 8),), {}, f"runs/{name}", "val", "tags", 8
        )
        for name, value in (("other", 0.111), (trained.name, 0.222))
    ]
    metrics = tmp_path / "metrics.json"
    metrics.write_bytes(msgspec.json.encode({"runs": runs}))
    out = tmp_path / "r.html"
    report(out, capsys, trained, "--data", scenes, "--metrics", metrics, "--pictures", 1)
    assert "0.222" in out.read_text()
    assert "0.111" not in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}"], "no images are given"),
        (["{run}", "--data", "{data}", "--split", "tset"], "there is no split 'tset'"),
        (["{data}"], "is neither a run folder nor predictions"),
        (["{run}", "{data}", "--metrics", "nowhere.json"], "is not readable JSON"),
    ],
)
def test_a_mistake_is_one_line_and_no_page(trained, scenes, tmp_path, capsys, arguments, message):
    out = tmp_path / "r.html"
    given = [each.format(run=trained, data=scenes) for each in arguments]
    assert weakloc(["report", *given, "--out", str(out), "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_truth_is_found_by_its_name_or_by_the_only_file_of_that_name():
    names = ["a/1.jpg", "b/1.jpg", "b/2.jpg"]
    samples = {name: Sample(name, "", np.zeros(1, np.int8)) for name in names}
    truth = ByName(samples)
    assert truth.get("a/1.jpg") is samples["a/1.jpg"]
    assert truth.get("2.jpg") is samples["b/2.jpg"]
    assert truth.get("elsewhere/2.jpg") is samples["b/2.jpg"]
    assert truth.get("1.jpg") is None
    assert truth.get("3.jpg") is None
