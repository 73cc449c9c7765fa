"""The whole circle with a real Label Studio: `label-studio` on the path, or named by LABEL_STUDIO.

Tags -> predictions that are pushed -> ten corrections -> a version that learned them -> better
predictions, asked for again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.end_to_end.test_serve import started
from tests.serving.running import Client
from weakloc.cli import run as weakloc
from weakloc.geometry import box_ious
from weakloc.output.exporters.label_studio import labelling_config

SERVER = os.environ.get("LABEL_STUDIO") or shutil.which("label-studio")
pytestmark = [
    pytest.mark.skipif(SERVER is None, reason="label-studio is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]
PERSON = {"email": "ann@example.org", "password": "correct horse"}
EVERY = ("--min-score", "0")  # class gets boxes, so that these alone are measured
MARGIN = 1.5  # people here draw boxes so many times as wide and high as the object


@dataclass
class Studio:
    """A person at a Label Studio, and a program with her token."""

    address: str
    token: str = ""
    cookies: CookieJar = field(default_factory=CookieJar)

    def open(self, path: str, body: bytes | None = None, method: str | None = None) -> bytes:
        cookies = urllib.request.HTTPCookieProcessor(self.cookies)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
        form = next((c.value for c in self.cookies if c.name == "csrftoken"), None)
        kind = "application/json" if path.startswith("/api/") else None
        headers = {"X-CSRFToken": form, "Content-Type": kind, "Referer": self.address}
        known = {name: value for name, value in headers.items() if value}
        request = urllib.request.Request(self.address + path, body, known, method=method)
        try:
            with opener.open(request, timeout=120) as answer:
                return bytes(answer.read())
        except HTTPError as error:
            raise AssertionError(f"{path}: {error} {error.read()[:500]!r}") from error

    def ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        return json.loads(self.open(f"/api/{path}", content, method) or b"null")

    def sign_in(self) -> None:
        page = self.open("/user/login/").decode()
        form = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert form is not None
        self.open("/user/login/", urlencode({**PERSON, "csrfmiddlewaretoken": form[1]}).encode())
        self.token = self.ask("token/", {})["token"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studio") / "scenes"
    sizes = ("--train", "60", "--val", "12")
    assert weakloc(["scenes", str(folder), "--kind", "large", *sizes, "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(photos: Path) -> Path:
    folder = photos.parent / "from tags"
    small = ("--backbone", "tiny[width=8]", "--image-size", "96", "--epochs", "6")
    machine = ("--workers", "0", "--devices", "1", "--precision", "fp32", "--quiet")
    assert weakloc(["train", str(photos), "--out", str(folder), *small, *machine]) == 0
    assert weakloc(["refine", str(folder), str(photos), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def studio(photos: Path) -> Iterator[Studio]:
    assert SERVER is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    person = ["--username", PERSON["email"], "--password", PERSON["password"]]
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(photos.parent / "data"),
        "LATEST_VERSION_CHECK": "no",
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(photos.parent),
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    unset = {"PYTHONPATH", "http_proxy", "HTTP_PROXY"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    with (photos.parent / "label-studio.log").open("wb") as log:
        process = subprocess.Popen(
            [SERVER, "start", *flags, *person],
            env={**environment, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    studio = Studio(f"http://127.0.0.1:{port}")
    try:
        until(lambda: is_up(studio))
        studio.sign_in()
        yield studio
    finally:
        process.terminate()
        process.wait(60)


def is_up(studio: Studio) -> bool:
    try:
        return bool(studio.open("/health"))
    except (URLError, AssertionError, ConnectionError):
        return False


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 900
    while not is_so():
        assert time.monotonic() < end
        time.sleep(1)


def drawn(photos: Path, stem: str) -> tuple[tuple[int, int], list[tuple[str, np.ndarray]]]:
    """The size of a scene, and its objects as people here draw them."""
    root = ElementTree.parse(photos / "Annotations" / f"{stem}.xml").getroot()
    size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    objects = []
    for item in root.findall("object"):
        sides = ("xmin", "ymin", "xmax", "ymax")
        left, top, right, bottom = (float(item.findtext(f"bndbox/{side}", "")) for side in sides)
        middle = np.array([left - 1 + right, top - 1 + bottom]) / 2
        reach = MARGIN * np.array([right - left + 1, bottom - top + 1]) / 2
        box = np.clip([*(middle - reach), *(middle + reach)], 0, [*size, *size])
        objects.append((item.findtext("name", ""), box))
    return size, objects


def annotation_of(photos: Path, stem: str) -> dict[str, Any]:
    (width, height), objects = drawn(photos, stem)
    result = []
    for number, (name, box) in enumerate(objects):
        x, y, right, bottom = 100 * box / [width, height, width, height]
        value = {"x": x, "y": y, "width": right - x, "height": bottom - y, "rotation": 0}
        region = {"id": f"r{number}", "type": "rectanglelabels", "from_name": "boxes"}
        of_image = {"to_name": "image", "original_width": width, "original_height": height}
        result.append({**region, **of_image, "value": {**value, "rectanglelabels": [name]}})
    return {"result": result, "lead_time": 2.5}


def overlap(photos: Path, stem: str, prediction: dict[str, Any]) -> float:
    """Mean IoU of every drawn object with the box of its class that fits it best."""
    (width, height), objects = drawn(photos, stem)
    ious = []
    for name, box in objects:
        values = [
            region["value"]
            for region in prediction["result"]
            if name in region["value"].get("rectanglelabels", ())
        ]
        boxes = np.array(
            [[v["x"], v["y"], v["x"] + v["width"], v["y"] + v["height"]] for v in values]
        )
        scaled = boxes.reshape(-1, 4) * [width, height, width, height] / 100
        ious.append(float(box_ious(box, scaled).max(initial=0.0)))
    return float(np.mean(ious))


@dataclass(frozen=True)
class Circle:
    """A project with the scenes as tasks, to which the predictions of a run were pushed."""

    studio: Studio
    photos: Path
    project: int

    def split(self, name: str) -> list[str]:
        return (self.photos / "ImageSets" / "Main" / f"{name}.txt").read_text().split()

    def predictions(self, version: str) -> dict[str, tuple[int, list[dict[str, Any]]]]:
        """Image -> its task, and what was predicted by the versions that begin so."""
        tasks = self.studio.ask(f"tasks?project={self.project}&page_size=500&fields=all")["tasks"]
        return {
            task["data"]["image"].rpartition("/")[2].removesuffix(".jpg"): (
                task["id"],
                [p for p in task["predictions"] if p["model_version"].startswith(version)],
            )
            for task in tasks
        }

    def annotate(self, *stems: str) -> None:
        tasks = self.predictions("")
        for stem in stems:
            annotation = annotation_of(self.photos, stem)
            self.studio.ask(f"tasks/{tasks[stem][0]}/annotations", annotation)

    def connect(self, port: int) -> int:
        """The number of the backend."""
        backend = {"url": f"http://127.0.0.1:{port}", "project": self.project, "title": "weakloc"}
        basic = {"basic_auth_user": "any", "basic_auth_pass": "hush"}
        connected = self.studio.ask("ml", {**backend, "auth_method": "BASIC_AUTH", **basic})
        assert connected["readable_state"] == "Connected"
        return int(connected["id"])

    def overlap(self, version: str) -> float:
        """With what people draw, in the images of the validation split that nobody corrected."""
        made = self.predictions(version)
        overlaps = [overlap(self.photos, s, made[s][1][0]) for s in self.split("val")]
        return float(np.mean(overlaps))


@pytest.fixture
def circle(studio: Studio, photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Circle:
    classes = json.loads((run / "run.json").read_text())["class_names"]
    config = labelling_config(classes, masks="rle")
    project = studio.ask("projects/", {"title": "scenes", "label_config": config})["id"]
    storage = {"project": project, "path": str(photos / "JPEGImages"), "use_blob_urls": True}
    number = studio.ask("storages/localfiles", storage)["id"]
    studio.ask(f"storages/localfiles/{number}/sync", {})
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", studio.token)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found, address = photos.parent / "found", f"{studio.address}/projects/{project}/data"
    scenes = str(photos / "JPEGImages")
    assert weakloc(["predict", str(run), scenes, "--out", str(found), *EVERY, "--quiet"]) == 0
    for _ in range(2):
        assert weakloc(["push", str(found), address, "--quiet"]) == 0
    return Circle(studio, photos, project)


def test_ten_corrections_make_better_predictions(
    circle: Circle, run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed = circle.predictions(run.name)
    assert [len(made) for _, made in pushed.values()] == [1] * 72
    version = pushed[min(pushed)][1][0]["model_version"]
    project = f"projects/{circle.project}"
    assert circle.studio.ask(project)["model_version"] == version
    corrected, other = circle.split("train")[:10], circle.split("train")[10]

    flags = ["--root", str(photos.parent), "--learn", str(photos.parent / "learned"), *EVERY]
    with started([str(run), *flags, "--workers", "0"], WEAKLOC_TOKEN="hush") as (server, process):
        client = Client(server.port, "Bearer hush")

        def health() -> dict[str, Any]:
            answer: dict[str, Any] = client.ask("GET", "/health").json
            return answer

        backend = circle.connect(server.port)
        circle.annotate(other)  # Label Studio's own webhook has no token before it is given one
        assert health()["reviewed"]["images"] == 0
        (hook,) = circle.studio.ask(f"webhooks/?project={circle.project}")
        header = {"headers": {"Authorization": "Bearer hush"}}
        circle.studio.ask(f"webhooks/{hook['id']}/", header, "PATCH")
        circle.annotate(*corrected)
        num_boxes = sum(len(drawn(photos, stem)[1]) for stem in corrected)
        assert health()["reviewed"] == {"images": 10, "boxes": num_boxes}

        circle.studio.ask(f"ml/{backend}/train", {})
        assert health()["learning"]["running"]
        until(lambda: not health()["learning"]["running"])
        progress = health()["learning"]["progress"]
        assert progress.startswith(f"learned {run.name}-001-"), progress
        chosen = {"all": False, "included": [pushed[stem][0] for stem in circle.split("val")]}
        action = f"dm/actions?id=retrieve_tasks_predictions&project={circle.project}"
        circle.studio.ask(action, {"selectedItems": chosen})
        process.kill()  # at any time: what it has learned is whole
    learned = progress.removeprefix("learned ")
    before, after = circle.overlap(version), circle.overlap(learned)
    with capsys.disabled():
        print(f"overlap with what people draw: {before:.2f} before, {after:.2f} after")  # noqa: T201
    assert after > before + 0.1
    with started([str(run), *flags, "--workers", "0"], WEAKLOC_TOKEN="hush") as (server, _):
        answer = Client(server.port, "Bearer hush").ask("GET", "/health").json
    assert answer["model_version"] == learned
    assert answer["reviewed"] == {"images": 10, "boxes": num_boxes}
