"""Predictions are put into a project of Label Studio once, whatever happens on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.label_studio import LEGACY, PERSONAL, Studio, running_studio
from weakloc.cli import run as weakloc
from weakloc.output.exporters.jsonl import write_predictions
from weakloc.serving import projects
from weakloc.structures import Box, Prediction

CONFIG = """<View><Image name="shown" value="$photo"/>
<RectangleLabels name="around" toName="shown"><Label value="Cat"/></RectangleLabels></View>"""
LOCAL = "/data/local-files/?d=docs/"


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    with running_studio(CONFIG) as studio:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", PERSONAL)
        monkeypatch.setattr(projects, "BATCH", 2)
        monkeypatch.setattr(projects, "PAGE", 3)
        yield studio


def found_in(folder: Path, *images: str, score: float = 0.5) -> Path:
    """Predictions of a cat in the middle of each image."""
    box = Box("cat", (25.0, 10.0, 75.0, 30.0), score)
    folder.mkdir(exist_ok=True)
    said = [Prediction(image, 100, 40, {"cat": score}, boxes=(box,)) for image in images]
    write_predictions(folder / "predictions.jsonl", said)
    summary = {"classes": ["cat"], "run": "runs/cats", "images": str(folder)}
    (folder / "predictions.json").write_text(json.dumps(summary))
    return folder


def push(folder: Path, studio: Studio, *flags: str, number: int = 7) -> int:
    address = f"{studio.address}/projects/{number}/data?tab=4"
    return weakloc(["push", str(folder), address, "--quiet", *flags])


NAMES = ("a.jpg", "b/ü 1.jpg", "c/a.jpg", "d.jpg", "e.jpg")


def test_every_task_gets_its_prediction_once(studio: Studio, tmp_path: Path) -> None:
    tasks = {
        f"{LOCAL}photos/x/a.jpg": "x/a.jpg",
        f"{LOCAL}photos/b/%C3%BC%201.jpg": "b/ü 1.jpg",
        "s3://bucket/photos/c/a.jpg": "c/a.jpg",
        "/data/upload/7/0a1b2c3d-d.jpg": "d.jpg",
        "/data/upload/7/a2e978ad-a_b__%C3%BC1.jpg": "sub/a b & ü(1).jpg",
        "https://host/photos/sub%20e/e.jpg": "sub e/e.jpg",
        f"{LOCAL}photos/other.jpg": None,
    }
    numbers = {image: studio.create(name) for name, image in tasks.items()}
    again = studio.create(f"{LOCAL}photos/x/a.jpg")  # the same image twice
    found = found_in(tmp_path / "found", *filter(None, tasks.values()), "new/ö.jpg", "z.jpg")
    assert push(found, studio, "--image-prefix", LOCAL) == 0
    made = {task["data"]["photo"]: task["id"] for task in studio.tasks[8:]}
    assert [*made] == [f"{LOCAL}new/%C3%B6.jpg", f"{LOCAL}z.jpg"]
    named = [number for image, number in numbers.items() if image]
    assert sorted(each["task"] for each in studio.predictions) == sorted(
        [*named, again, *made.values()]
    )
    (version,) = {each["model_version"] for each in studio.predictions}
    assert version.startswith("cats-")
    assert studio.model_version == version
    region = studio.predictions[0]["result"][0]
    assert (region["from_name"], region["to_name"]) == ("around", "shown")
    assert region["value"] == {
        "x": 25,
        "y": 25,
        "width": 50,
        "height": 50,
        "rotation": 0,
        "rectanglelabels": ["Cat"],
    }
    num_requests = studio.num_requests
    assert push(found, studio, "--image-prefix", LOCAL) == 0
    assert studio.num_requests == num_requests
    better = found_in(tmp_path / "better", *filter(None, tasks.values()), score=0.75)
    assert push(better, studio) == 0
    assert len({each["model_version"] for each in studio.predictions}) == 2
    assert studio.model_version != version
    assert len(studio.tasks) == 10


@pytest.mark.parametrize("loses_answers", [False, True])
def test_the_same_command_goes_on_where_the_server_went(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str], loses_answers: bool
) -> None:
    images = [f"{number}.jpg" for number in range(9)]
    for image in images[:7]:
        studio.create(f"{LOCAL}{image}")
    found = found_in(tmp_path / "found", *images)
    studio.dies_after, studio.loses_answers = 3, loses_answers
    assert push(found, studio) == 1
    message = capsys.readouterr().err
    assert "no answer" in message
    assert "the same command goes on" in message
    assert len(studio.predictions) == (6 if loses_answers else 4)
    studio.access += 1  # what was given before has become too old
    assert push(found, studio) == 0
    assert sorted(each["task"] for each in studio.predictions) == list(range(100, 109))


def test_both_kinds_of_tokens_open_the_door(
    studio: Studio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = found_in(tmp_path / "found", "a.jpg")
    for token, reason in (
        (LEGACY, "legacy token authentication"),
        ("wrong.personal.token", "Token is invalid"),
        ("wrong", "credentials were not provided"),
        ("", "LABEL_STUDIO_API_KEY is not set"),
    ):
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
        assert push(found, studio) in (1, 2)
        message = capsys.readouterr().err
        assert reason in message
        assert message.count("\n") == 1
        assert not token or token not in message
    studio.takes_legacy = True
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", f"{LEGACY}\n")
    assert push(found, studio) == 0


def test_what_cannot_be_pushed_is_one_line(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = found_in(tmp_path / "found", "a.jpg")

    def message_of(*command: str) -> str:
        assert weakloc(["push", *command, "--quiet"]) in (1, 2)
        (line,) = capsys.readouterr().err.splitlines()
        return line

    project = f"{studio.address}/projects/7"
    assert "No Project matches" in message_of(str(found), f"{studio.address}/projects/9")
    assert "/projects/NUMBER" in message_of(str(found), studio.address)
    assert "no answer" in message_of(str(found), "http://127.0.0.1:9/projects/7")
    assert "no such file" in message_of(str(tmp_path / "nowhere"), project)
    assert "--license and --private would do nothing" in message_of(
        str(found), project, "--license", "mit", "--private"
    )
    assert "--image-prefix would do nothing" in message_of(
        str(found), "ann/cats", "--image-prefix", LOCAL
    )
    studio.label_config = CONFIG.replace("Cat", "Dog")
    assert "no control that this run could fill in" in message_of(str(found), project)
    assert not studio.predictions


def test_predictions_that_are_not_taken_are_no_success(
    studio: Studio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    studio.create("a.jpg")

    def refused(*_: Any) -> bool:
        return False

    monkeypatch.setattr(studio, "knows", refused)
    assert push(found_in(tmp_path / "found", "a.jpg"), studio) == 1
    assert "took 0 of 1 predictions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tasks", "images"),
    [
        (("photos/b/a.jpg", "photos/c/a.jpg"), ("a.jpg",)),
        (("/data/upload/7/0a1b2c3d-a.jpg",), ("b/a.jpg", "c/a.jpg")),
    ],
)
def test_no_prediction_is_given_to_what_may_be_another_image(
    studio: Studio,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tasks: tuple[str, ...],
    images: tuple[str, ...],
) -> None:
    for task in tasks:
        studio.create(task)
    assert push(found_in(tmp_path / "found", *images), studio) == 2
    assert "Predict in a folder further up" in capsys.readouterr().err
    assert not studio.predictions
