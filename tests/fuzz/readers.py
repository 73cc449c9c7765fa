"""The files of one input in a folder, and what the package makes of them.

Each reader says "fine", or "skipped" where something odd was listed; what it raises is judged by
the arena.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from starlette.types import ASGIApp, Message

from tests.fuzz.grammars import CLASSES
from tests.serving.running import predictor_on, watched_source
from weakloc.api.predictions import export_predictions
from weakloc.api.reports import report
from weakloc.api.runs import ExportedNetwork, TrainedRun, load
from weakloc.data.images import image_size, open_image, read_or_record
from weakloc.data.readers import read_data_set
from weakloc.data.sources import find_images, read_tags
from weakloc.data.summary import summarise
from weakloc.errors import ImageError, RunError, WeaklocError
from weakloc.extensions import BUILT_IN
from weakloc.files import fit_json, parse_json
from weakloc.localize.calibration import Calibration
from weakloc.metrics.case import ImageTruth
from weakloc.model.weights import read_weights
from weakloc.output.exporters.jsonl import parse_line, prediction_line, read_predictions
from weakloc.output.settings import ServeSettings
from weakloc.serving.allowed_images import allowed_images
from weakloc.serving.app import build_app
from weakloc.settings import Look, Places, ReaderOptions
from weakloc.structures import BrokenImage, Prediction

Verdict: TypeAlias = Literal["fine", "skipped"]
MOST_IMAGES = 2  # of an input that are looked at
EXPECTED_STATUS = frozenset({200, 400, 401, 404, 405, 408, 411, 413, 414, 415, 422, 429, 431, 503})


class LeftoverError(Exception):
    """Something half written was left behind."""


class WrongAnswerError(Exception):
    """No exception, and still not what was promised."""


def read_layout(layout: str | None, folder: Path) -> Verdict:
    """A data set as `weakloc data` and `weakloc evaluate` read it."""
    data_set = read_data_set(folder, layout=layout, options=ReaderOptions())
    json.dumps(summarise(data_set).to_json(), allow_nan=False)
    is_odd = bool(data_set.problems)
    for samples in data_set.splits.values():
        for sample in samples[:MOST_IMAGES]:
            truth = ImageTruth(sample, data_set.segmentation_values)
            is_odd |= isinstance(read_or_record(sample.name, sample.path), BrokenImage)
            try:
                boxes, _ = truth.objects.boxes, truth.labels
            except ImageError:
                is_odd = True
                continue
            if not all(map(math.isfinite, boxes.ravel().tolist())):
                raise WrongAnswerError("a drawn box is not finite")
    return "skipped" if is_odd else "fine"


def read_lists(folder: Path) -> Verdict:
    """What `weakloc predict` is pointed at, and the images that it names."""
    names = [path.name for path in folder.iterdir() if not path.is_dir()]
    is_odd = False
    for name in sorted(names)[:2]:
        for number, image in enumerate(find_images(str(folder / name))):
            if number < MOST_IMAGES:
                content = image.content if image.flaw is None else b""
                is_odd |= isinstance(read_or_record(image.name, content), BrokenImage)
    return "skipped" if is_odd else "fine"


def read_tag_table(folder: Path) -> Verdict:
    _, problems = read_tags(_only(folder, "tags."), CLASSES)
    return "skipped" if problems else "fine"


def _only(folder: Path, start: str) -> Path:
    """The file whose name starts so, else whichever there is."""
    paths = sorted(folder.iterdir(), key=lambda path: not path.name.startswith(start))
    return paths[0] if paths else folder / "nothing"


def read_lines(folder: Path) -> Verdict:
    for prediction in read_predictions(folder / "predictions.jsonl"):
        _require_that_it_comes_back(prediction)
    return "fine"


def _require_that_it_comes_back(prediction: Prediction) -> None:
    line = prediction_line(prediction)
    if parse_line(line.encode("utf-8", "surrogatepass"), location="written") != prediction:
        raise WrongAnswerError("what was written is read as something else")


def write_exports(folder: Path) -> Verdict:
    """Every format; one may refuse what another takes, such as an image's name with a blank."""
    out = folder / "out"
    is_odd = False
    for name in BUILT_IN["exporters"]:
        try:
            export_predictions(folder, [name], out)
        except WeaklocError as error:
            if len(str(error).splitlines()) != 1:
                raise
            is_odd = True
        _require_nothing_half(out)
    return "skipped" if is_odd else "fine"


def write_report(folder: Path) -> Verdict:
    out = folder / "report.html"
    report(folder, out)
    _require_nothing_half(folder)
    return "fine"


def _require_nothing_half(out: Path) -> None:
    left = [path.name for path in out.rglob("*.part*")] if out.is_dir() else []
    if left:
        raise LeftoverError(f"{len(left)} parts are left")


def read_run(folder: Path) -> Verdict:
    return _predict(load(folder / "run"), folder)


def read_onnx(folder: Path) -> Verdict:
    return _predict(load(folder / "model.onnx"), folder)


def _predict(run: TrainedRun | ExportedNetwork, folder: Path) -> Verdict:
    """One image seen by it: what is said is as it is promised to be."""
    predictor = run.predictor(Look(workers=0, batch_size=1), Places(top=1))
    sources = find_images(str(folder / "image.png"))
    for answer in predictor.predict(sources):
        if isinstance(answer, BrokenImage):
            return "skipped"
        _require_that_it_comes_back(answer)
        if not all(0 <= score <= 1 for score in answer.scores.values()):
            raise WrongAnswerError("a probability is none")
    return "fine"


def read_calibration(folder: Path) -> Verdict:
    file = _only(folder, "thresholds")
    if not file.is_file():
        return "skipped"
    try:
        content = parse_json(file.read_bytes())
        calibration = fit_json(content, Calibration)
    except ValueError as error:
        raise RunError(str(error)) from error
    if not all(map(math.isfinite, calibration.thresholds)):
        raise WrongAnswerError("a threshold is not finite")
    return "fine"


def read_weight_file(folder: Path) -> Verdict:
    read_weights(_only(folder, "weights."))
    return "fine"


def read_image(folder: Path) -> Verdict:
    """From the disk and from memory, which have to agree."""
    path = _only(folder, "image")
    size = image_size(str(path))
    opened = open_image(str(path))
    if opened.size != size or opened.mode != "RGB":
        raise WrongAnswerError(f"an image of {size} is opened as {opened.size} in {opened.mode}")
    return "fine"


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _service(root: Path) -> tuple[ASGIApp, Any]:
    """The application, started; it goes on until the process ends."""
    settings = ServeSettings(root=(root,), max_megabytes=1)
    images = allowed_images(settings.root, (), max_bytes=settings.max_bytes)
    predictor = predictor_on(watched_source(), masks="threshold")
    app = build_app(predictor, images, settings, model_version="fuzzed")
    running = app.router.lifespan_context(app)
    _loop().run_until_complete(running.__aenter__())
    return app, running


def answer_request(folder: Path) -> Verdict:
    """The request of three files, put to the application without a socket."""
    root = folder / "root"
    with suppress(FileExistsError):  # a file of this name
        root.mkdir()
    app, _ = _service(root)
    lines = _cells(folder / "request")
    method, path, query = (*(lines[0] if lines else ()), b"GET", b"/", b"")[:3]
    body = folder / "body"
    content = body.read_bytes() if body.is_file() else b""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method.decode("latin-1") or "GET",
        "scheme": "http",
        "path": path.decode("utf-8", "replace") or "/",
        "raw_path": path,
        "root_path": "",
        "query_string": query,
        "headers": [
            (cells[0].lower(), b"\t".join(cells[1:])) for cells in _cells(folder / "headers")
        ],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 50_000),
        "state": {},
    }
    status, answer = _loop().run_until_complete(_asked(app, scope, content))
    if status not in EXPECTED_STATUS:
        raise WrongAnswerError(f"status {status}: {answer[:200]!r}")
    return "fine" if status == 200 else "skipped"


def _cells(path: Path) -> list[list[bytes]]:
    content = path.read_bytes() if path.is_file() else b""
    return [line.split(b"\t") for line in content.splitlines() if line.strip()]


async def _asked(app: ASGIApp, scope: dict[str, Any], content: bytes) -> tuple[int, bytes]:
    size = max(1, len(content) // 3)
    chunks = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
    status, answer = 0, io.BytesIO()

    async def receive() -> Message:
        if not chunks:
            await asyncio.sleep(3600)
        body = chunks.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(chunks)}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        answer.write(message.get("body", b""))

    await app(scope, receive, send)
    return status, answer.getvalue()


def _layouts(names: Iterable[str]) -> dict[str, Callable[[Path], Verdict]]:
    return {name: partial(read_layout, name) for name in names}


READERS: dict[str, Callable[[Path], Verdict]] = {
    **_layouts(BUILT_IN["readers"]),
    "mixed": partial(read_layout, None),
    "lists": read_lists,
    "tags": read_tag_table,
    "predictions": read_lines,
    "exports": write_exports,
    "report": write_report,
    "images": read_image,
    "runs": read_run,
    "onnx": read_onnx,
    "weights": read_weight_file,
    "calibrations": read_calibration,
    "requests": answer_request,
}
