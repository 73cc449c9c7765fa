"""Annotations of Label Studio become a review, and a review becomes versions of the run.

label_studio_notices.jsonl is what Label Studio 1.23.2 sent while annotations were made, changed,
skipped, deleted and made of predictions, and training was asked for.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.serving.running import Client, basic, png, predictor_on, serving, watched_source
from weakloc.data.readers import read_data_set
from weakloc.data.readers.review import Decision, Review, read_review
from weakloc.errors import DataError, SettingError
from weakloc.output.exporters.label_studio import labelling_config
from weakloc.output.settings import ServeSettings
from weakloc.serving import corrections
from weakloc.serving.allowed_images import allowed_images
from weakloc.serving.corrections import Learner, corrected
from weakloc.serving.waiting_room import Current
from weakloc.settings import ReaderOptions
from weakloc.structures import ABSENT, PRESENT

NOTICES = [
    json.loads(line)
    for line in (Path(__file__).parent / "label_studio_notices.jsonl").read_text().splitlines()
]
CLASSES = ("airplane", "face", "motorcycle")
PHOTO = "studio/docroot/photos/airplane_0001.jpg"
CONFIG = labelling_config(("red", "green", "blue"), masks="rle")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in (PHOTO, PHOTO.replace("0001", "0091")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 200)).save(folder / name)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png(size=(91, 60)))
    return folder


def said(review: Review) -> dict[str, list[tuple[str, str, list[tuple[float, ...]]]]]:
    """Image -> class, verdict and boxes, rounded."""
    return {
        image.name.rpartition("/")[2]: [
            (
                item.asked_for,
                item.verdict,
                [tuple(round(side, 3) for side in b) for b in item.boxes],
            )
            for item in image.decisions
        ]
        for image in review.images
    }


def test_the_review_says_what_the_last_annotation_of_an_image_does(photos: Path) -> None:
    images = allowed_images([photos], [], max_bytes=10**6)
    nowhere = [("motorcycle", "absent", [])]
    first = [("airplane", "accepted", [(9, 4, 99, 84)]), ("face", "absent", []), *nowhere]
    changed = [
        ("airplane", "accepted", [(15, 4, 105, 84)]),
        ("face", "accepted", [(21, 4, 111, 84)]),
    ]
    of_model = ("face", "accepted", [(4.5, 4, 94.5, 84)])
    as_predicted = [("airplane", "absent", []), of_model, *nowhere]
    expected: list[dict[str, Any]] = [
        {"airplane_0001.jpg": first},
        {"airplane_0001.jpg": [*changed, *nowhere]},
        {"airplane_0001.jpg": [*changed, *nowhere]},  # another task was skipped
        {},
        {},
        {},
        {"airplane_0001.jpg": as_predicted, "airplane_0091.jpg": as_predicted},
        {"airplane_0001.jpg": as_predicted},
        {"airplane_0001.jpg": as_predicted},
    ]
    review = Review(CLASSES, ())
    for notice, right in zip(NOTICES, expected, strict=True):
        review = corrected(review, notice, images)
        assert said(review) == right, notice["action"]
    assert corrected(review, {"action": "TASKS_DELETED", "tasks": [{"id": 1}]}, images).images == ()
    skipped = {**NOTICES[0], "annotation": {**NOTICES[0]["annotation"], "was_cancelled": True}}
    skipped["annotation"]["id"] = review.images[0].annotation
    assert corrected(review, skipped, images).images == ()


def of_photo(name: str, *regions: dict[str, Any], number: int = 1) -> dict[str, Any]:
    """A notice of an annotation that somebody has made."""
    task = {"id": number, "data": {"image": f"/data/local-files/?d={name}"}}
    annotation = {"id": number, "result": list(regions)}
    project = {"id": 1, "label_config": CONFIG}
    notice = {"action": "ANNOTATION_CREATED", "project": project}
    return {**notice, "task": task, "annotation": annotation}


def rectangle(label: str, x: float, y: float, width: float, height: float, **more: float) -> Any:
    value = {"x": x, "y": y, "width": width, "height": height, "rectanglelabels": [label], **more}
    return {"type": "rectanglelabels", "from_name": "boxes", "to_name": "image", "value": value}


def decided(photos: Path, *regions: dict[str, Any], config: str = CONFIG) -> list[Decision]:
    images = allowed_images([photos], [], max_bytes=10**6)
    notice = {**of_photo("a.png", *regions), "project": {"label_config": config}}
    (image,) = corrected(Review(("red", "green", "blue"), ()), notice, images).images
    assert (image.width, image.height) == (91, 60)
    return list(image.decisions)


def test_a_turned_rectangle_is_the_box_around_it(photos: Path) -> None:
    # 45.5 x 30 pixels, turned clockwise by a quarter about (45.5, 15): 30 to the left, 45.5 down.
    quarter = rectangle("red", 50, 25, 50, 50, rotation=90)
    (red, *_) = decided(photos, quarter)
    assert red.boxes[0] == pytest.approx((15.5, 15, 45.5, 60.5))
    half = rectangle("red", 50, 50, 25, 25, rotation=180)
    assert decided(photos, half)[0].boxes[0] == pytest.approx((22.75, 15, 45.5, 30))


def test_a_class_may_be_there_without_a_box(photos: Path) -> None:
    choices = {"type": "choices", "from_name": "tags", "value": {"choices": ["green"]}}
    point = {"type": "keypointlabels", "from_name": "points", "value": {"keypointlabels": ["blue"]}}
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    of_another = {**rectangle("red", 1, 1, 1, 1), "from_name": "others"}
    verdicts = [item.verdict for item in decided(photos, choices, point, relation, of_another)]
    assert verdicts == ["absent", "misplaced", "misplaced"]


def test_what_a_label_does_not_tell_is_not_said(photos: Path) -> None:
    shared = """<View><Image name="image" value="$image"/>
      <RectangleLabels name="boxes" toName="image">
        <Label value="Warm" predicted_values="red,green"/><Label value="blue"/>
      </RectangleLabels></View>"""
    found = decided(photos, rectangle("Warm", 10, 10, 10, 10), config=shared)
    assert [(item.asked_for, item.verdict) for item in found] == [("blue", "absent")]
    one = """<View><Image name="image" value="$image"/><Choices name="tags" toName="image">
      <Choice value="red"/><Choice value="blue"/></Choices></View>"""
    chosen = {"type": "choices", "from_name": "tags", "value": {"choices": ["red"]}}
    found = decided(photos, chosen, config=one)
    assert [(item.asked_for, item.verdict) for item in found] == [("red", "misplaced")]


@pytest.mark.parametrize(
    ("notice", "reason"),
    [
        ({"annotation": {"id": "x"}, "task": {"id": 1}}, r"annotation\[0\].id is \"x\""),
        ({"annotations": [{"id": None}]}, "annotations"),
        ({**of_photo("a.png"), "project": {"label_config": "<View/>"}}, "no control"),
    ],
)
def test_what_is_no_notice_is_refused(notice: Any, reason: str, photos: Path) -> None:
    with pytest.raises(DataError, match=reason):
        corrected(Review(CLASSES, ()), notice, allowed_images([photos], [], max_bytes=10**6))


def test_an_annotation_that_cannot_be_kept_hurts_no_other(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turned = {**rectangle("red", 1, 1, 1, 1), "image_rotation": 90}
    flat = {"type": "rectanglelabels", "from_name": "boxes", "value": {"rectanglelabels": ["red"]}}
    far = rectangle("red", 1e308, 1, 1, 1)
    bad = [
        of_photo("a.png", far, number=5),
        of_photo("../secret.png", rectangle("red", 1, 1, 1, 1)),
        of_photo("a.png", turned, number=2),
        of_photo("a.png", flat, number=3),
    ]
    good = of_photo("b.png", rectangle("red", 0, 0, 50, 50), number=4)
    body = {  # as older versions send all they have, and as they export it
        "annotations": [{**n["task"], "annotations": [n["annotation"]]} for n in (*bad, good)],
        "label_config": CONFIG,
        "project": "1.1795907838",
    }
    images = allowed_images([photos], [], max_bytes=10**6)
    review = corrected(Review(("red", "green", "blue"), ()), body, images)
    assert [image.name for image in review.images] == ["b.png"]
    assert len(caplog.records) == 4


SIX = [rectangle("red", 10 * step, 0, 10, 10) for step in range(6)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "dots"
    folder.mkdir()
    for name in ("run.json", "model.safetensors", "cells.safetensors", "last.ckpt"):
        (folder / name).write_text(name)
    return folder


def learner_of(run: Path, photos: Path) -> Learner:
    """Of a run whose versions all find the dots, and say which they are."""
    folder = run.parent / "learned"
    folder.mkdir(exist_ok=True)

    def load(path: str) -> Any:
        return predictor_on(watched_source()), f"{Path(path).name}-x"

    return Learner(run, folder, allowed_images([photos], [], max_bytes=10**6), load)


COMMANDS = """#!/bin/sh
echo "$3 $4" >> {log}
echo "learning boxes: 1 of 2" >&2
test -e {log}.fails && {{ echo "weakloc: no box can be read" >&2; exit 2; }}
test "$3" = distil && cp -r "$4/." "${{11}}"
test "$3$9" = distil7 && touch "${{11}}/detector.safetensors"
exit 0
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a stand-in for the commands: distil keeps a detector where there are seven boxes."""
    commands, log = tmp_path / "commands", tmp_path / "log"
    commands.write_text(COMMANDS.format(log=log))
    commands.chmod(0o755)
    monkeypatch.setattr(corrections.sys, "executable", str(commands))
    return log


def wait(learner: Learner) -> str:
    learner.thread.join(30)
    return learner.progress


def test_corrections_come_with_the_token_and_survive_the_server(photos: Path, run: Path) -> None:
    learner = learner_of(run, photos)
    predictor, version = learner.open()
    assert version == "dots-x"
    settings = ServeSettings(root=(photos,))
    notice = of_photo("a.png", rectangle("red", 0, 0, 50, 50))
    with serving(predictor, settings, token="hush", learner=learner) as stranger:
        assert stranger.post_json("/webhook", notice).status == 401
        client = Client(stranger.port, "Bearer hush")  # a header of the webhook
        # What a page in somebody's browser may send without asking.
        plain = client.ask("POST", "/webhook", json.dumps(notice).encode(), "text/plain")
        assert plain.status == 415
        assert client.post_json("/webhook", {"annotation": {"id": "x"}}).status == 422
        assert not learner.path.exists()
        reply = client.post_json("/webhook", notice)
        assert (reply.status, reply.json["reviewed"]) == (200, {"images": 1, "boxes": 1})
        kept = read_review(learner.path)
        assert client.ask("GET", "/health").json["reviewed"] == {"images": 1, "boxes": 1}
    again = learner_of(run, photos)
    again.open()
    assert again.review == kept == learner.review
    (sample,) = read_data_set(photos, labels=learner.path, options=ReaderOptions()).samples()
    assert sample.name == "a.png"
    assert [box.box for box in sample.drawn.boxes] == [(0, 0, 45.5, 30)]
    assert sample.labels.tolist() == [PRESENT, ABSENT, ABSENT]


def test_a_review_names_images_from_a_folder_above_them(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "review.json"
    images = allowed_images([photos], [], max_bytes=10**6)
    corrections.write_review(path, corrected(Review(CLASSES, ()), NOTICES[0], images))
    for folder in (photos, (photos / PHOTO).parent, (photos / PHOTO).parent.parent):
        (sample,) = read_data_set(folder, labels=path, options=ReaderOptions()).samples()
        assert (folder / sample.name).resolve() == (photos / PHOTO).resolve()
    (tmp_path / "others").mkdir()
    with pytest.raises(DataError, match=r"airplane_0001.jpg' does not exist"):
        read_data_set(tmp_path / "others", labels=path, options=ReaderOptions())


def test_the_version_that_answered_is_said_before_and_after_learning(
    photos: Path, run: Path, log: Path
) -> None:
    learner = learner_of(run, photos)
    predictor, _ = learner.open()
    seven = [rectangle("red", 10 * step, 0, 10, 10) for step in range(7)]
    start = {"action": "START_TRAINING", "project": {"id": 1, "label_config": CONFIG}}
    with serving(predictor, ServeSettings(root=(photos,)), learner=learner) as client:
        reply = client.post_json("/webhook", start)
        assert (reply.status, "0 boxes" in reply.error) == (422, True)
        client.post_json("/webhook", of_photo("a.png", *seven))

        def versions() -> set[str]:
            tasks = [{"id": 1, "data": {"image": "a.png"}}, {"id": 2, "data": {"image": "none"}}]
            question = {"tasks": tasks, "label_config": CONFIG}
            results = client.post_json("/predict", question).json["results"]
            answers = [
                client.post_json("/predict", {"image": "a.png"}),
                client.ask("GET", "/health"),
            ]
            found = [*results, *(reply.json for reply in answers)]
            return {each["model_version"] for each in found} | {
                *client.ask("GET", "/versions").json["versions"],
                client.post_json("/setup", {"schema": CONFIG}).json["model_version"],
            }

        assert versions() == {"dots-1"}
        assert client.post_json("/webhook", start).json["learning"]["running"]
        assert wait(learner) == "learned dots-001-x"
        assert versions() == {"dots-001-x"}
        assert client.post_json("/train", {}).status == 200
        assert wait(learner) == "learned dots-002-x"
    assert log.read_text() == f"distil {run}\n" * 2
    assert (learner.folder / "dots-002" / "detector.safetensors").is_file()
    again = learner_of(run, photos)
    assert again.open()[1] == "dots-002-x"
    (run / "model.safetensors").write_text("trained anew")
    assert again.open()[1] == "dots-x"


def test_thresholds_are_learned_where_no_detector_is(photos: Path, run: Path, log: Path) -> None:
    learner = learner_of(run, photos)
    learner.open()
    learner.take(of_photo("a.png", *SIX[:5]))
    with pytest.raises(DataError, match="5 boxes were drawn or accepted, of 6 needed"):
        learner.start(Current(learner.load("dots")))
    learner.take(of_photo("a.png", *SIX))
    for number, commands in enumerate([["distil", "calibrate"], ["calibrate"]], start=1):
        log.unlink(missing_ok=True)
        learner.start(Current(learner.load("dots")))
        assert wait(learner) == f"learned dots-{number:03}-x"
        assert [line.split()[0] for line in log.read_text().splitlines()] == commands
        (run / "cells.safetensors").unlink(missing_ok=True)  # as where nothing was refined
    assert not (learner.folder / "dots-002" / "last.ckpt").exists()


def test_a_failure_is_said_and_the_old_version_goes_on(photos: Path, run: Path, log: Path) -> None:
    learner = learner_of(run, photos)
    learner.open()
    learner.take(of_photo("a.png", *SIX))
    Path(f"{log}.fails").touch()
    learner.start(Current(learner.load("dots")))
    assert wait(learner) == "failed: distil ended early: weakloc: no box can be read"
    again = learner_of(run, photos)
    assert again.open()[1] == "dots-x"
    assert again.health["learning"] == {
        "running": False,
        "progress": "learning ended early: start it again",
    }
    Path(f"{log}.fails").unlink()
    began, goes_on, load = threading.Event(), threading.Event(), learner.load

    def slowly(path: str) -> Any:
        began.set()
        assert goes_on.wait(30)
        return load(path)

    learner.load = slowly
    current = Current(load("dots"))
    learner.start(current)
    assert began.wait(30)
    learner.start(current)  # which does nothing while it learns
    assert learner.health["learning"]["running"]
    goes_on.set()
    assert wait(learner) == "learned dots-001-x" == f"learned {current.model[1]}"
    assert log.read_text().count("distil") == 2


def test_learning_ends_with_its_server_which_says_so_when_it_is_back(
    photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, begun, begin = learner_of(run, photos), list[subprocess.Popen](), subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *given, **more: begun.append(begin(*given, **more)) or begun[0]
    )
    learner.open()
    learner.take(of_photo("a.png", *SIX))
    learner.start(Current(learner.load("dots")))
    while not begun:
        time.sleep(0.001)
    assert begun[0].stdin is not None
    begun[0].stdin.close()  # as the end of the server closes it, whatever ended it
    learner.thread.join(30)
    assert begun[0].returncode == 1
    assert learner.progress == "failed: distil ended early: "  # not that this is no run
    again = learner_of(run, photos)
    assert again.open()[1] == "dots-x"
    assert again.review == learner.review
    assert again.health["learning"]["progress"].startswith("learning ended early")


def test_what_cannot_learn_is_refused_at_the_start(photos: Path, run: Path) -> None:
    learner = learner_of(run, photos)
    corrections.write_review(learner.path, Review(("cat",), ()))
    with pytest.raises(DataError, match="is of other classes"):
        learner.open()
    learner.images = allowed_images([], [], max_bytes=1)
    with pytest.raises(SettingError, match="--root"):
        learner.open()


def test_nothing_is_kept_where_nothing_is_to_be_learned(photos: Path) -> None:
    with serving(predictor_on(watched_source()), token="hush") as stranger:
        client = Client(stranger.port, basic("label studio", "hush"))
        reply = client.post_json("/webhook", of_photo("a.png", rectangle("red", 0, 0, 10, 10)))
        assert (reply.status, "--learn FOLDER" in reply.json["message"]) == (200, True)
        assert "learning" not in client.ask("GET", "/health").json
