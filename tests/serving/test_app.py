"""The whole conversation, with the real server on a real port."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from urllib.parse import quote

import pytest

from tests.serving.running import (
    VERSION,
    Client,
    basic,
    png,
    predictor_on,
    serving,
    watched_source,
    white_png,
)
from weakloc.data.sources import ImageSource
from weakloc.output.exporters.jsonl import parse_line
from weakloc.output.exporters.label_studio import labelling_config, pre_annotation, results
from weakloc.output.settings import ExportOptions, ServeSettings
from weakloc.structures import Prediction

CLASSES = ("red", "green", "blue")
CONFIG = labelling_config(CLASSES, masks="rle")
NAMES = ("a.png", "ü b/日本 & 100%.png", "c.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(index, left=10 * index, size=(80 + index, 50)))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture(scope="module")
def client(photos: Path) -> Iterator[Client]:
    predictor = predictor_on(watched_source(), masks="threshold")
    with serving(predictor, ServeSettings(root=(photos,), max_megabytes=1)) as client:
        yield client


def expected(content: bytes | Path, name: str) -> Prediction:
    source = ImageSource(name, content if isinstance(content, bytes) else str(content))
    (found,) = predictor_on(watched_source(), masks="threshold").predict([source])
    assert isinstance(found, Prediction)
    return replace(found, extra={"model_version": VERSION})


def form(field: str, name: str, content: bytes) -> tuple[bytes, str]:
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def tasks_of(photos: Path, *names: str) -> list[dict[str, Any]]:
    urls = [f"/data/local-files/?d={quote(name)}" for name in names]
    return [{"id": 10 + number, "data": {"image": url}} for number, url in enumerate(urls)]


def label_studio(tasks: list[dict[str, Any]], config: str = CONFIG) -> dict[str, Any]:
    """A request as Label Studio 1.23 sends it."""
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, "project": "3.1700000000", "label_config": config, "params": params}


def test_an_image_is_answered_as_in_predictions_jsonl_however_it_is_sent(
    client: Client, photos: Path
) -> None:
    content, name = (photos / NAMES[1]).read_bytes(), NAMES[1]
    replies = [
        client.post_image(content, f"?name={quote(name)}"),
        client.ask("POST", "/predict", content, "application/octet-stream"),
        client.ask("POST", "/predict", *form("image", name, content)),
        client.post_json("/predict", {"image": name}),
        client.post_json("/predict", {"image": str(photos / name)}),
        client.post_json("/predict", {"image": f"/data/local-files/?d={quote(name)}"}),
    ]
    assert [reply.status for reply in replies] == [200] * 6
    assert {reply.headers["content-type"] for reply in replies} == {"application/json"}
    found = [parse_line(reply.body, location="the answer") for reply in replies]
    right = expected(photos / name, name)
    assert right.boxes
    assert right.masks
    assert [each.image for each in found] == [name, "image", name, name, name, name]
    assert all(replace(each, image=name) == right for each in found)


def test_many_at_once_share_batches_and_each_gets_their_own_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weakloc.serving.app.BATCH_SECONDS", (60.0, 60.0))
    source = watched_source()
    pictures = [png(index % 3, left=index, size=(81, 50 + index)) for index in range(40)]
    with serving(predictor_on(source, masks="threshold"), ServeSettings(queue=16)) as client:

        def ask(index: int) -> Prediction:
            reply = client.post_image(pictures[index], f"?name={index}")
            assert reply.status == 200
            return parse_line(reply.body, location="the answer")

        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(ask, range(40)))
    assert sum(source.batches) == 40
    assert max(source.batches) == 4
    assert len(source.batches) < 30
    assert found == [expected(picture, str(index)) for index, picture in enumerate(pictures)]


def test_label_studio_connects_and_is_told_the_version(client: Client) -> None:
    for path in ("/", "/health"):
        assert client.ask("GET", path).json == {
            "status": "UP",
            "model_class": "weakloc",
            "model_version": VERSION,
            "classes": list(CLASSES),
            "requests": 0,
        }
    project = {"project": "3.1700000000", "schema": CONFIG, "hostname": "x", "access_token": "y"}
    assert client.post_json("/setup", project).json == {"model_version": VERSION}
    assert client.ask("GET", "/versions").json == {"versions": [VERSION]}
    assert client.post_json("/webhook", {"action": "ANNOTATION_CREATED"}).status == 200
    assert client.post_json("/train", {"annotations": []}).status == 200


def test_label_studio_is_answered_with_what_the_exporter_writes(
    client: Client, photos: Path
) -> None:
    reply = client.post_json("/predict", label_studio(tasks_of(photos, *NAMES)))
    assert reply.status == 200
    options = ExportOptions(model_version=VERSION)
    right = []
    for name in NAMES:
        prediction = expected(photos / name, name)
        regions = results(prediction, options)
        assert {each["type"] for each in regions} >= {"rectanglelabels", "brushlabels", "choices"}
        right.append(pre_annotation(regions, score=1 - prediction.doubt, options=options))
    assert without_ids(reply.json["results"]) == without_ids(json.loads(json.dumps(right)))


def without_ids(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**each, "result": [{**region, "id": ""} for region in each["result"]]}
        for each in annotations
    ]


def test_a_broken_task_has_no_regions_and_only_broken_ones_are_an_error(
    client: Client, photos: Path
) -> None:
    tasks = tasks_of(photos, "a.png", "broken.png", "../a.png", "c.png")
    tasks.append({"id": 99, "data": {"other": "a.png"}})
    reply = client.post_json("/predict", label_studio(tasks))
    assert reply.status == 200
    found = reply.json["results"]
    assert [bool(each["result"]) for each in found] == [True, False, False, True, False]
    assert [each["model_version"] for each in found] == [VERSION] * 5
    assert found[1]["score"] == 0
    for task, reason in (
        (tasks[1], "not an image that can"),
        (tasks[2], "--root"),
        (tasks[4], "'image'"),
    ):
        reply = client.post_json("/predict", label_studio([task]))
        assert (reply.status, reason in reply.error) == (422, True), reply.error
    assert client.post_json("/predict", label_studio([])).json == {"results": []}


def test_an_interface_with_nothing_to_fill_in_is_refused_with_the_reason(client: Client) -> None:
    horses = labelling_config(["horse"], masks="rle")
    for config in ("<View></View>", "<View>", horses):
        for reply in (
            client.post_json("/setup", {"project": "3.1", "schema": config}),
            client.post_json("/predict", label_studio([], config)),
        ):
            assert reply.status == 422
            assert "labelling interface" in reply.error


def test_one_request_may_have_more_tasks_than_the_queue_has_places(photos: Path) -> None:
    source = watched_source()
    settings = ServeSettings(root=(photos,), queue=1)
    with serving(predictor_on(source), settings) as client:
        reply = client.post_json("/predict", label_studio(tasks_of(photos, *NAMES * 7)))
    assert len(reply.json["results"]) == 21
    assert all(each["result"] for each in reply.json["results"])


def test_tasks_that_nobody_waits_for_any_more_are_given_up(photos: Path) -> None:
    source = watched_source()
    source.goes_on.clear()
    with serving(predictor_on(source), ServeSettings(root=(photos,))) as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port)
        body = json.dumps(label_studio(tasks_of(photos, *["a.png"] * 60)))
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        assert source.has_begun.wait(30)
        connection.close()
        time.sleep(0.1)
        source.goes_on.set()
        wait_for_requests(client, 0)
    assert sum(source.batches) <= 8  # two batches, which waited already


def test_filters_apply_to_label_studio(photos: Path) -> None:
    settings = ServeSettings(root=(photos,), score_threshold=1.0)
    with serving(predictor_on(watched_source()), settings) as client:
        (found,) = client.post_json("/predict", label_studio(tasks_of(photos, "a.png"))).json[
            "results"
        ]
    assert {each["type"] for each in found["result"]} <= {"choices"}


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (b"", "image/png", 422, "empty"),
        (b"no image", "image/png", 422, "known format"),
        (png()[:-40], "image/png", 422, "cut short"),
        (b"<svg/>", "image/svg+xml", 422, "known format"),
        (png(), None, 415, "content type"),
        (png(), "application/x-www-form-urlencoded", 415, "urlencoded"),
        (b"{", "application/json", 400, "not JSON"),
        (b"\xff", "application/json", 400, "not JSON"),
        (b"[" * 100_000, "application/json", 400, "not JSON"),
        (b"[" + b"0," * 400_000 + b"0]", "application/json", 400, "no JSON object"),
        (b"[" + b"9" * 5000 + b"]", "application/json", 400, "not JSON"),
        (b"[" * 1_000_001, "application/json", 413, "1,000,000 values"),
        (b"[]", "application/json", 400, "no JSON object"),
        (b"{}", "application/json", 400, "neither"),
        (b'{"image": 3}', "application/json", 400, "neither"),
        (b'{"tasks": [3]}', "application/json", 400, "neither"),
        (b'{"image": "broken.png"}', "application/json", 422, "not an image that can"),
        (b'{"image": "../../etc/passwd"}', "application/json", 422, "--root"),
        (b'{"image": "/etc/passwd"}', "application/json", 422, "--root"),
        (b'{"image": "http://127.0.0.1:1/a.png"}', "application/json", 422, "--allow-url"),
        (*form("photo", "a.png", png()), 400, "'image'"),
        (b"nonsense", "multipart/form-data; boundary=x", 400, ""),
        (b"nonsense", "multipart/form-data", 400, "boundary"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_answered_says_why(
    client: Client, body: bytes, content_type: str | None, status: int, reason: str
) -> None:
    reply = client.ask("POST", "/predict", body, content_type)
    assert reply.status == status, reply.body
    assert reason in reply.error
    assert client.ask("GET", "/health").json["requests"] == 0


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(client: Client) -> None:
    large = b"\0" * (2**20 + 1)
    pieces = (b"\0" * 2**16 for _ in range(40))
    for body in (large, pieces):
        reply = client.ask("POST", "/predict", body, "image/png")
        assert reply.status == 413
        assert "1,048,576" in reply.error
    body, content_type = form("image", "a.png", large)
    assert client.ask("POST", "/predict", body, content_type).status == 413
    assert client.ask("POST", "/setup", large, "application/json").status == 413


def test_addresses_and_methods_that_do_not_exist(client: Client) -> None:
    assert client.ask("GET", "/nowhere").status == 404
    assert client.ask("GET", "/health/").status == 404  # not sent on to what a Host header names
    assert client.ask("GET", "/predict").status == 405


def test_too_many_at_once_are_told_to_come_back_and_the_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weakloc.serving.waiting_room.WaitingRoom.patience", AsyncMock())
    source = watched_source()
    source.goes_on.clear()
    with serving(predictor_on(source), ServeSettings(queue=3)) as client:
        with ThreadPoolExecutor(3) as pool:
            taken_on = [pool.submit(client.post_image, png()) for _ in range(3)]
            wait_for_requests(client, 3)
            for _ in range(5):
                reply = client.post_image(png())
                assert reply.status == 503
                assert int(reply.headers["retry-after"]) >= 1
            assert client.ask("GET", "/health").status == 200
            source.goes_on.set()
            assert [each.result().status for each in taken_on] == [200] * 3
        assert client.post_image(png()).status == 200


def test_a_large_image_keeps_others_waiting_no_longer_than_it_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weakloc.serving.app.LARGE", 10_000)
    source = watched_source()
    predictor = predictor_on(source, max_pixels=11_000)
    with serving(predictor) as client, ThreadPoolExecutor(1) as pool:
        source.goes_on.clear()
        large = pool.submit(client.post_image, png(size=(105, 100)))
        assert source.has_begun.wait(30)
        # As many pixels as are not allowed are refused at once, by the header.
        assert client.post_image(png(size=(111, 100))).status == 422
        assert not large.done()
        source.goes_on.set()
        assert client.post_image(png()).status == 200
        assert large.result().status == 200


def wait_for_requests(client: Client, count: int) -> None:
    until = time.monotonic() + 30
    while client.ask("GET", "/health").json["requests"] != count:
        assert time.monotonic() < until
        time.sleep(0.01)


def opened(client: Client, sent: bytes = b"") -> socket.socket:
    """A connection on which no more is sent than this."""
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=10)
    connection.sendall(sent)
    return connection


@contextmanager
def many_opened(count: int, client: Client, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """In their order, as the server has met them."""
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connections.append(stack.enter_context(opened(client, sent)))
            time.sleep(0.002)
        yield connections


UNFINISHED = (
    b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"
)


def test_whoever_sends_slowly_takes_no_place_and_does_not_hold_up_the_end() -> None:
    with (
        serving(predictor_on(watched_source()), ServeSettings(queue=1)) as client,
        many_opened(40, client, UNFINISHED + b"ab"),
    ):
        assert client.post_image(png()).status == 200
        start = time.monotonic()
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("constant", "value", "status"),
    [("BODY_SECONDS", 0.1, 408), ("MOST_BODIES", 3, 503), ("BODIES_IN_MEMORY", 7e-6, 503)],
)
def test_a_body_too_long_on_its_way_is_given_up(
    constant: str, value: float, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"weakloc.serving.app.{constant}", value)
    with (
        serving(predictor_on(watched_source()), ServeSettings(max_megabytes=1)) as client,
        # The fourth is one too many, and 8 bytes are more than 7.
        many_opened(4, client, UNFINISHED + b"ab") as slow,
    ):
        assert slow[0].recv(100).startswith(f"HTTP/1.1 {status} ".encode())
        if status == 503:  # the others may go on
            slow[1].settimeout(0.05)
            with pytest.raises(TimeoutError):
                slow[1].recv(100)


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nX: "])
def test_a_header_that_does_not_come_closes_the_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakloc.serving.app.HEADER_SECONDS", 0.1)
    whole = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
    with serving(predictor_on(watched_source())) as client:
        for before in (b"", whole):  # also after an answer
            with opened(client, before) as connection:
                answer = b""
                while before and not answer.endswith(b"}"):
                    answer += connection.recv(10_000)
                connection.sendall(sent)
                assert connection.recv(100) == b""


def test_idle_connections_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weakloc.serving.app.MOST_CONNECTIONS", 5)
    with serving(predictor_on(watched_source())) as client, many_opened(20, client) as idle:
        assert all(client.post_image(png()).status == 200 for _ in range(3))
        assert [connection.recv(100) for connection in idle[:15]] == [b""] * 15


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_too_little_memory_is_503_and_the_next_one_is_answered(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = watched_source()

    def fail(*_: object, **__: object) -> None:
        raise error

    with serving(predictor_on(source)) as client:
        for place in ("weakloc.data.images._to_rgb", "weakloc.predictor.views.make_view"):
            with monkeypatch.context() as patch:
                patch.setattr(place, fail)
                reply = client.post_image(png())
            expected = 503 if isinstance(error, MemoryError) or "views" in place else 422
            assert (reply.status, "retry-after" in reply.headers) == (expected, expected == 503)
            assert client.post_image(png()).status == 200


def test_what_is_in_a_file_that_is_no_image_is_not_told(tmp_path: Path) -> None:
    starts = (b"", b"P1", b"P6", b"BM", b"II*\0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF1234WEBP")
    with serving(predictor_on(watched_source()), ServeSettings(root=(tmp_path,))) as client:
        for start in starts:
            (tmp_path / "hidden").write_bytes(start + b"PASSWORD=secret")
            task = {"id": 1, "data": {"image": "hidden"}}
            for document in ({"image": "hidden"}, label_studio([task])):
                reply = client.post_json("/predict", document)
                assert reply.status == 422
                assert reply.error == "hidden: is not an image that can be read"


def test_a_prediction_that_fails_is_500_and_the_next_one_is_answered() -> None:
    with serving(predictor_on(watched_source())) as client:
        reply = client.post_image(white_png())
        assert reply.status == 500
        assert "too bright" in reply.error
        assert client.post_image(png()).status == 200


def test_without_the_token_nothing_is_answered() -> None:
    secret = "pässword: 1"
    with serving(predictor_on(watched_source()), token=secret) as client:
        rights = [f"Bearer {secret}".encode().decode("latin-1"), basic("anybody", secret)]
        for authorization in (*rights, basic("", secret), rights[0].replace("Bearer", "bearer")):
            allowed = replace(client, authorization=authorization)
            assert allowed.ask("GET", "/health").status == 200
            assert allowed.post_image(png()).status == 200
        wrongs = (None, "", "Bearer", "Bearer x", f"Bearer {secret[:-1]}", f"Basic {secret}")
        wrongs += (basic(secret, ""), basic("", "x"), "Basic !", "Digest x", "Basic YQ==")
        for authorization in wrongs:
            refused = replace(client, authorization=authorization)
            for reply in (refused.ask("GET", "/health"), refused.post_image(png())):
                assert reply.status == 401
                assert "Basic" in reply.headers["www-authenticate"]


def test_the_end_waits_for_what_was_taken_on() -> None:
    source = watched_source()
    source.goes_on.clear()
    with ThreadPoolExecutor(6) as pool:
        with serving(predictor_on(source)) as client:
            asked = [pool.submit(client.post_image, png()) for _ in range(6)]
            wait_for_requests(client, 6)
            threading.Timer(0.3, source.goes_on.set).start()
        # Its clients may need a moment to read what was sent.
        assert [each.result(timeout=5).status for each in asked] == [200] * 6


def test_every_request_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, logger="weakloc"),
        serving(predictor_on(watched_source())) as client,
    ):
        client.post_image(png())
        client.post_image(b"no image", "?name=a%0Aforged+line")
        client.ask("GET", "/%0Aforged")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("weakloc")]
    assert len(lines) == 3
    assert not any("\n" in line for line in lines)
    assert re.fullmatch(r'POST "/predict" status=200 seconds=\d\.\d{3}', lines[0])
    assert "status=422" in lines[1]
    assert r'error="a\\nforged line: is not an image' in lines[1]  # spelt out, then quoted
