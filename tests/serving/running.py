"""The real server in a thread on a free port, a predictor whose answers are known, a client."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from tests.predictor.dot_source import DotSource, chosen
from weakloc.data.transforms import Preprocessing
from weakloc.output.settings import ServeSettings
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import RawMaps
from weakloc.serving.allowed_images import allowed_images
from weakloc.serving.app import bound_socket, build_app, server_of
from weakloc.serving.corrections import Learner

VERSION = "dots-1"


@dataclass(frozen=True)
class WatchedSource(DotSource):
    """Notes how many images share a batch; can be held up, and fails where it is told to."""

    batches: list[int] = field(default_factory=list)
    goes_on: threading.Event = field(default_factory=threading.Event)
    has_begun: threading.Event = field(default_factory=threading.Event)

    def read(self, images: Tensor) -> RawMaps:
        self.has_begun.set()
        assert self.goes_on.wait(30)
        self.batches.append(len(images))
        if images.amin(dim=(1, 2, 3)).max() > 9:  # one is nothing but white
            raise RuntimeError("too bright")
        return super().read(images)


def watched_source() -> WatchedSource:
    preprocessing = Preprocessing(size=(96, 64), mean=(0.5,) * 3, std=(0.05,) * 3)
    source = WatchedSource(preprocessing)
    source.goes_on.set()
    return source


def predictor_on(source: DotSource, **settings: Any) -> Predictor:
    look, places = chosen(**{"threshold": 0.5, "batch_size": 4, **settings})
    return Predictor(source, look, places, thresholds=(0.5,) * 3)


def png(channel: int = 0, left: int = 20, size: tuple[int, int] = (91, 60)) -> bytes:
    """A square of one colour, of which the class says which, on black."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[14:35, left : left + 24, channel] = 255
    return encoded(pixels)


def white_png() -> bytes:
    return encoded(np.full((30, 40, 3), 255, dtype=np.uint8))


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass(frozen=True)
class Client:
    port: int
    authorization: str | None = None

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        content_type: str | None = None,
    ) -> Reply:
        headers = {"Content-Type": content_type, "Authorization": self.authorization}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method,
                path,
                body,
                {name: value for name, value in headers.items() if value is not None},
                encode_chunked=not isinstance(body, bytes),
            )
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def post_json(self, path: str, document: object) -> Reply:
        return self.ask("POST", path, json.dumps(document).encode(), "application/json")

    def post_image(self, content: bytes, query: str = "") -> Reply:
        return self.ask("POST", f"/predict{query}", content, "image/png")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@contextmanager
def serving(
    predictor: Predictor,
    settings: ServeSettings | None = None,
    *,
    token: str | None = None,
    learner: Learner | None = None,
) -> Iterator[Client]:
    """A client of a server that runs until the end of the block, and then ends by itself."""
    settings = settings or ServeSettings()
    images = allowed_images(settings.root, settings.allow_url, max_bytes=settings.max_bytes)
    app = build_app(
        predictor, images, settings, model_version=VERSION, token=token, learner=learner
    )
    with bound_socket("127.0.0.1", 0) as listening:
        server = server_of(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        port = listening.getsockname()[1]
        thread.start()
        try:
            yield Client(port)
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()
