"""A run as CVAT's auto-annotation function: the real command, driver and models, no real server.

The server is a stand-in that knows one task of images.
"""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

from tests.serving.running import png, watched_source
from weakloc.errors import SettingError
from weakloc.predictor.predictor import Predictor
from weakloc.settings import Look, Places

cvataa = pytest.importorskip("cvat_sdk.auto_annotation", reason="cvat-sdk is not installed")
cvat_masks = pytest.importorskip("cvat_sdk.masks")
commands = pytest.importorskip("cvat_cli.__main__", reason="cvat-cli is not installed")

cvat = pytest.importorskip("weakloc.cvat")

COLOURS = ("red", "green", "blue")
Frames: TypeAlias = dict[str, bytes]
Shape: TypeAlias = tuple[int, str, str, list[float], float, int]
Annotate: TypeAlias = Callable[..., list[Shape]]


@dataclass
class Server:
    """One task as CVAT's address space has it; `uploaded` is what came back."""

    frames: dict[str, bytes]
    label_types: dict[str, str]
    uploaded: dict[str, Any] = field(default_factory=dict)

    def answer(self, path: str) -> tuple[str, bytes]:
        plain = {"count": len(self.label_types), "next": None, "previous": None}
        labels = [
            {"id": 70 + number, "name": name, "type": kind, "attributes": [], "sublabels": []}
            for number, (name, kind) in enumerate(self.label_types.items())
        ]
        frames = [
            {"name": name, "width": 91, "height": 60, "related_files": 0} for name in self.frames
        ]
        date = "2026-01-01T00:00:00Z"
        known: dict[str, Any] = {
            "/api/server/about": dict.fromkeys(("name", "description", "logo_url", "subtitle"), "")
            | {"version": "2.80.0"},
            "/api/tasks/7": {
                "id": 7,
                "name": "photographs",
                "size": len(frames),
                "data_chunk_size": 9,
                "data_original_chunk_type": "imageset",
                "updated_date": date,
                "jobs": {"completed": 0, "validation": 0},
                "labels": {},
                "data": 3,
                "organization": None,
                "dimension": "2d",
            },
            "/api/labels": {**plain, "results": labels},
            "/api/tasks/7/data/meta": {
                "frames": frames,
                "deleted_frames": [],
                "chunks_updated_date": date,
                "start_frame": 0,
                "stop_frame": len(frames) - 1,
                "frame_filter": "",
            },
        }
        if path == "/api/tasks/7/data":
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w") as chunk:
                for name, content in self.frames.items():
                    chunk.writestr(name, content)
            return "application/zip", archive.getvalue()
        return "application/vnd.cvat+json", json.dumps(known[path]).encode()


def handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(*server.answer(urlsplit(self.path).path.rstrip("/")))

        def do_HEAD(self) -> None:
            self.reply("text/plain", b"")

        def do_PATCH(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.uploaded.update(json.loads(body))
            self.reply("application/vnd.cvat+json", json.dumps({"id": 8, "name": ""}).encode())

        def reply(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


def command(server: Server, group: str, verb: str, subject: str, *parameters: str) -> int:
    """What `cvat-cli` gives back."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(server))
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    handlers, level = list(commands.logger.handlers), commands.logger.level
    try:
        where = ["--server-host", f"http://127.0.0.1:{http.server_port}"]
        task = [group, verb, subject, "--function-module", "weakloc.cvat"]
        return commands.main([*where, *task, *parameters])
    finally:
        commands.logger.handlers[:] = handlers
        commands.logger.setLevel(level)
        http.shutdown()
        thread.join()
        http.server_close()


COLOURED = {"a.png": png(0), "ü/b.png": png(2, left=50)}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were opened; each answers with the squares of a colour."""
    runs: list[str] = []

    def predictor_of(
        run: str, also: object, look: Look, places: Places
    ) -> tuple[Predictor, dict[str, object]]:
        runs.append(run)
        look = replace(look, workers=0)
        return Predictor(watched_source(), look, places, thresholds=(0.5,) * 3), {}

    monkeypatch.setattr("weakloc.api.fused_runs.predictor_of", predictor_of)
    return runs


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "secret")


@pytest.fixture
def annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Annotate:
    """The uploaded shapes and tags as (frame, label, type, points, score, group)."""
    build = commands.build_client

    def build_client(*given: Any, **named: Any) -> Any:
        client = build(*given, **named)
        client.config.cache_dir = tmp_path  # it would know another test's server at this port
        return client

    monkeypatch.setattr(commands, "build_client", build_client)

    def annotate(*parameters: str, frames: Frames = COLOURED, types: str = "any") -> list[Shape]:
        server = Server(frames, dict.fromkeys(COLOURS, types))
        assert command(server, "task", "auto-annotate", "7", *parameters) == 0
        uploaded = [*server.uploaded["shapes"], *server.uploaded["tags"]]
        assert {item["source"] for item in uploaded} <= {"auto"}
        return [
            (
                *(item["frame"], COLOURS[item["label_id"] - 70], item.get("type", "tag")),
                *(item.get("points", []), item.get("score", 0.0), item.get("group", 0)),
            )
            for item in uploaded
        ]

    return annotate


def test_boxes_are_uploaded_and_one_network_sees_all_images(
    annotated: Annotate, opened: list[str]
) -> None:
    shapes = annotated("-p", "run=str:my runs/1")
    assert opened == ["my runs/1"]
    assert [shape[:4] for shape in shapes] == [
        (0, "red", "rectangle", [20, 14, 44, 35]),
        (1, "blue", "rectangle", [50, 14, 74, 35]),
    ]
    assert all(0.5 < score < 1 and group == 0 for *_, score, group in shapes)


def test_every_kind_of_shape_is_at_its_place_and_an_object_is_a_group(
    annotated: Annotate, opened: list[str]
) -> None:
    shapes = annotated("-p", "run=str:RUN", "-p", "shapes=str:boxes,points,polygons,masks,tags")
    for frame, colour, left in ((0, "red", 20), (1, "blue", 50)):
        of_frame = {kind: (points, group) for f, c, kind, points, _, group in shapes if f == frame}
        assert {c for f, c, *_ in shapes if f == frame} == {colour}
        assert of_frame.keys() == {"rectangle", "points", "polygon", "mask", "tag"}
        x, y = of_frame["points"][0]
        assert left < x < left + 24
        assert 14 < y < 35
        mask = cvat_masks.decode_mask(of_frame["mask"][0], image_width=91, image_height=60)
        assert 0.8 * 24 * 21 < mask.sum() == mask[14:35, left : left + 24].sum()
        corners = list(zip(*[iter(of_frame["polygon"][0])] * 2, strict=True))
        filled = Image.new("1", (910, 600))  # in tenths of a pixel, to see the centres of pixels
        ImageDraw.Draw(filled).polygon([(10 * x, 10 * y) for x, y in corners], fill=1)
        assert (np.asarray(filled)[5::10, 5::10] == mask).all()
        assert [of_frame[kind][1] for kind in ("rectangle", "polygon", "mask")] == [1] * 3
        assert of_frame["points"][1] == of_frame["tag"][1] == 0


def test_masks_become_polygons_where_cvat_asks_for_them(
    annotated: Annotate, opened: list[str]
) -> None:
    parameters = ("-p", "run=str:RUN", "-p", "shapes=str:masks")
    assert {kind for _, _, kind, *_ in annotated(*parameters, types="mask")} == {"mask"}
    polygons = annotated(*parameters, "--conv-mask-to-poly", types="polygon")
    assert [kind for _, _, kind, *_ in polygons] == ["polygon", "polygon"]


@pytest.mark.parametrize(
    "threshold", [("--conf-threshold", "0.999"), ("-p", "min_score=float:0.99999")]
)
def test_thresholds_are_parameters_and_cvat_s_own_counts(
    annotated: Annotate, opened: list[str], threshold: tuple[str, str]
) -> None:
    shapes = annotated("-p", "run=str:RUN", "-p", "shapes=str:boxes,tags", *threshold)
    assert [kind for _, _, kind, *_ in shapes] == (
        [] if "min_score" in threshold[1] else ["tag", "tag"]
    )


def test_an_image_that_cannot_be_used_is_left_out_and_said(
    annotated: Annotate, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    frames = {"large.png": png(0, size=(200, 60)), **COLOURED}
    shapes = annotated("-p", "run=str:RUN", "-p", f"max_pixels=int:{91 * 60}", frames=frames)
    assert [frame for frame, *_ in shapes] == [1, 2]
    assert "large.png is left out" in caplog.text


def test_the_picture_is_taken_as_cvat_turned_it_whatever_its_mode(opened: list[str]) -> None:
    context = SimpleNamespace(frame_name="a.png", conf_threshold=None, conv_mask_to_poly=False)
    picture = Image.open(io.BytesIO(png(0)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = io.BytesIO()
    picture.save(turned, "PNG", exif=exif)
    for image in (picture, Image.open(turned), picture.convert("RGBA"), picture.convert("P")):
        (shape,) = cvat.create("RUN").detect(context, image)
        assert shape.points == [20, 14, 44, 35]


def test_an_agent_s_function_is_registered_with_the_classes(
    opened: list[str], tmp_path: Path
) -> None:
    server = Server({}, {})
    given = ("-p", "run=str:RUN", "-p", "shapes=str:points")
    assert command(server, "function", "create-native", "our objects", *given) == 0
    labels = [(label["name"], label["type"]) for label in server.uploaded["labels_v2"]]
    assert labels == [(colour, "points") for colour in COLOURS]
    assert server.uploaded["kind"] == "detector"


def test_what_cannot_be_asked_for_is_named(annotated: Annotate, opened: list[str]) -> None:
    with pytest.raises(SettingError, match=r"points,box.* Did you mean 'boxes'"):
        cvat.create("RUN", shapes="points,box")
    with pytest.raises(SettingError, match=r"no setting 'mask'. Did you mean 'masks'"):
        cvat.create("RUN", mask="crf")
    with pytest.raises(cvataa.BadFunctionError, match="'rectangle' in the function"):
        annotated("-p", "run=str:RUN", types="polygon")
