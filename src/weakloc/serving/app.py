"""A predictor -> the ASGI application that serves it, and the server on a port that runs it.

Two threads use the predictor, one for images of usual size and one for large ones (`waiting_room`).

docs/serving.md describes the requests.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import math
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from weakloc.data.images import NO_MEMORY, image_size
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, ImageError, SettingError, WeaklocError
from weakloc.files import parse_json
from weakloc.output.exporters.jsonl import prediction_line
from weakloc.output.exporters.label_studio import pre_annotation
from weakloc.output.exporters.selection import selected
from weakloc.output.settings import ExportOptions, ServeSettings
from weakloc.predictor.predictor import Predictor
from weakloc.serving.allowed_images import AllowedImages
from weakloc.serving.corrections import Learner
from weakloc.serving.labelling_interface import LabellingInterface, read_interface
from weakloc.serving.waiting_room import LARGE, Current, PredictionWorker, WaitingRoom, try_later
from weakloc.structures import BrokenImage, Prediction

LOG = logging.getLogger(__name__)
REASON = "weakloc.reason"  # where an application notes in the scope why it refused


BODY_SECONDS = 60  # a client may take so long to send its question
MOST_BODIES = 256  # on their way at once
BODIES_IN_MEMORY = 8  # of the largest size


@dataclass(frozen=True)
class Gate:
    """An ASGI application around another one.

    The token is a Bearer token, or the password of any user, which is all that Label Studio sends.
    Of the bodies on their way the longest has to go where they are too much together.
    """

    app: ASGIApp
    token: str | None
    max_bytes: int
    unread: dict[asyncio.Timeout, bytearray] = field(default_factory=dict)  # the longest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._answer(scope, receive, noting)
        finally:
            asked = f"{scope['method']} {json.dumps(scope['path'])}"
            reason = f" error={json.dumps(scope[REASON])}" if REASON in scope else ""
            seconds = time.perf_counter() - start
            LOG.info("%s status=%d seconds=%.3f%s", asked, status, seconds, reason)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if self.token is not None and not is_token(headers.get("authorization"), self.token):
            asks = {"WWW-Authenticate": 'Basic realm="weakloc"'}
            refusal = JSONResponse({"error": "the token is missing or wrong"}, 401, headers=asks)
            await refusal(scope, receive, send)
            return
        await self.app(scope, self._whole(receive), send)

    def _whole(self, receive: Receive) -> Receive:
        """The same body in one message; HTTP 408, 413 or 503 where it does not come."""
        is_read = False

        async def next_message() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": await self._read(receive)}

        return next_message

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS) as limit:
                self.unread[limit] = body
                while (message := await receive())["type"] == "http.request":
                    body += message.get("body", b"")
                    if len(body) > self.max_bytes:
                        raise HTTPException(413, f"the body is over {self.max_bytes:,} bytes")
                    size = sum(map(len, self.unread.values()))
                    most = BODIES_IN_MEMORY * self.max_bytes
                    if size > most or len(self.unread) > MOST_BODIES:
                        longest = next(iter(self.unread))
                        del self.unread[longest]
                        longest.reschedule(0.0)
                    if not message.get("more_body", False):
                        return bytes(body)
                raise ClientDisconnect
        except TimeoutError as error:
            if limit in self.unread:
                raise HTTPException(408, f"the body took over {BODY_SECONDS} seconds") from error
            raise try_later("quicker bodies need the memory") from error
        finally:
            self.unread.pop(limit, None)


def is_token(authorization: str | None, token: str) -> bool:
    """Whether the header holds the token; takes as long for any wrong one of its length."""
    scheme, _, given = (authorization or "").partition(" ")
    secret = given.strip().encode("latin-1")  # the very bytes that came
    if scheme.lower() == "basic":
        try:
            secret = base64.b64decode(secret, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(secret, token.encode())


UNNAMED = "image"
MOST_VALUES = 1_000_000


@dataclass(frozen=True)
class Tasks:
    """Label Studio's question: tasks, and its labelling interface."""

    tasks: list[dict[str, Any]]
    interface: object


async def read_question(request: Request) -> ImageSource | str | Tasks:
    """An image, the name of one that may be forbidden, or tasks; HTTPException where neither."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        body = await read_json(request)
        tasks, named = body.get("tasks"), body.get("image")
        if isinstance(tasks, list) and all(isinstance(task, dict) for task in tasks):
            return Tasks(tasks, body.get("label_config"))
        if isinstance(named, str):
            return named
        reason = "the body has neither 'image', a text, nor 'tasks', a list of objects"
        raise HTTPException(400, reason)
    if content_type == "multipart/form-data":
        async with request.form(max_files=1, max_fields=1) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise HTTPException(400, "the form has no file 'image'")
            return ImageSource(image.filename or UNNAMED, await image.read())
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        name = request.query_params.get("name", UNNAMED)
        return ImageSource(name, await request.body())
    raise HTTPException(
        415,
        f"the content type is {content_type!r}; send an image (image/jpeg or the like), "
        "multipart/form-data with the file 'image', or application/json",
    )


async def read_json(request: Request) -> dict[str, Any]:
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        raise HTTPException(415, "the content type is not application/json")  # any page sends such
    content = await request.body()
    if content.count(b",") + content.count(b"[") > MOST_VALUES:  # they take far more as objects
        raise HTTPException(413, f"the body has over {MOST_VALUES:,} values")
    try:
        body = parse_json(content)
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON ({error})") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "the body is no JSON object")
    return body


BATCH_SECONDS = (0.05, 1.0)  # of images of usual size and of large ones, where they are several


def build_app(
    predictor: Predictor,
    images: AllowedImages,
    settings: ServeSettings,
    *,
    model_version: str,
    token: str | None = None,
    learner: Learner | None = None,
) -> Starlette:
    """The application; its thread starts and ends with the server that runs it."""
    options = ExportOptions(
        score_threshold=settings.score_threshold,
        best_per_class=settings.best_per_class,
        tag_threshold=predictor.places.min_score,
    )
    current = Current((predictor, model_version))
    workers = tuple(
        PredictionWorker(current, seconds=seconds, niceness=niceness)
        for seconds, niceness in zip(BATCH_SECONDS, (0, 10), strict=True)
    )
    room = WaitingRoom(BODIES_IN_MEMORY * settings.max_bytes, settings.queue)
    service = _Service(current, workers, room, images, options, learner)
    app = Starlette(
        routes=[
            Route("/", service.health, methods=["GET"]),
            Route("/health", service.health, methods=["GET"]),
            Route("/versions", service.versions, methods=["GET"]),
            Route("/setup", service.setup, methods=["POST"]),
            Route("/predict", service.predict, methods=["POST"]),
            Route("/webhook", service.learn, methods=["POST"]),
            Route("/train", service.learn, methods=["POST"]),
        ],
        middleware=[Middleware(Gate, token=token, max_bytes=settings.max_bytes)],
        exception_handlers=dict.fromkeys(
            (HTTPException, WeaklocError, MemoryError, ClientDisconnect), _refusal
        ),
        lifespan=service.running,
    )
    app.router.redirect_slashes = False  # to whatever host a request names
    return app


def _refusal(request: Request, error: Exception) -> Response:
    """What is wrong, for the client and for the log."""
    reason, status, headers = str(error), 422, None
    if isinstance(error, MemoryError):
        error = try_later(NO_MEMORY)
    if isinstance(error, HTTPException):
        reason, status, headers = error.detail, error.status_code, error.headers
    request.scope[REASON] = reason
    return JSONResponse({"error": reason}, status, headers=headers)


@dataclass
class _Service:
    """The answers to every address of the application."""

    current: Current
    workers: Sequence[PredictionWorker]  # for images of usual size, and for large ones
    room: WaitingRoom
    images: AllowedImages
    options: ExportOptions
    learner: Learner | None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.current.predictor.source.class_names

    @property
    def version(self) -> str:
        return self.current.model[1]

    @asynccontextmanager
    async def running(self, _: Starlette) -> AsyncIterator[None]:
        for worker in self.workers:
            worker.start()
        threads = ThreadPoolExecutor(self.room.num_seats)  # what is slow to fetch keeps one
        asyncio.get_running_loop().set_default_executor(threads)
        yield
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in self.workers))

    async def health(self, _: Request) -> Response:
        return JSONResponse(
            {
                "status": "UP",
                "model_class": "weakloc",
                "model_version": self.version,
                "classes": self.class_names,
                "requests": len(self.room.taken),
                **(self.learner.health if self.learner else {}),
            }
        )

    async def versions(self, _: Request) -> Response:
        return JSONResponse({"versions": [self.version]})

    async def setup(self, request: Request) -> Response:
        """Label Studio connects: refused where nothing could ever be filled in."""
        body = await read_json(request)
        read_interface(body.get("schema"), self.class_names)
        return JSONResponse({"model_version": self.version})

    async def learn(self, request: Request) -> Response:
        """Label Studio tells of annotations or asks to train; an error would disconnect it."""
        body = await read_json(request)
        if self.learner is None:
            return JSONResponse({"status": "ok", "message": "weakloc serve --learn FOLDER does"})
        await asyncio.to_thread(self.learner.take, body)
        if request.url.path == "/train" or body.get("action") == "START_TRAINING":
            self.learner.start(self.current)
        return JSONResponse({"status": "ok", **self.learner.health})

    async def predict(self, request: Request) -> Response:
        peer = request.client.host if request.client else ""
        await self.room.patience(peer)
        question = await read_question(request)  # whoever sends slowly takes no place
        num_bytes = len(question.content) if isinstance(question, ImageSource) else 0
        async with self.room.seat(peer, num_bytes):
            if isinstance(question, Tasks):
                return await self._annotations(question, request, peer)
            line = prediction_line(await self._prediction(question, peer))
            return Response(line, media_type="application/json")

    async def _prediction(self, image: ImageSource | str, peer: str) -> Prediction:
        """ImageError where the image is forbidden or broken."""
        is_named = isinstance(image, str)
        if isinstance(image, str):
            image = await asyncio.to_thread(self.images.find, image)
        pixels = await asyncio.to_thread(self._num_pixels, image.content)
        worker = self.workers[max(pixels, len(image.content)) > LARGE]
        try:
            answer = await asyncio.wrap_future(worker.submit(image, peer=peer, pixels=pixels))
        except Exception as error:  # the worker has logged it
            if isinstance(error, MemoryError) or "allocate" in str(error):  # torch has no own class
                raise MemoryError from None  # which would keep what fills the memory
            raise HTTPException(500, f"the prediction failed: {error!r}") from error
        if isinstance(answer, BrokenImage):
            if answer.reason == NO_MEMORY:
                raise MemoryError
            reason = answer.reason
            if is_named:  # why may hold what is in a file that is no image
                LOG.warning("image=%r error=%r", answer.name, reason)
                reason = "is not an image that can be read"
            raise ImageError(reason, location=answer.name)
        return answer

    def _num_pixels(self, content: str | bytes) -> int:
        """As the header says; 0 where what reads it will refuse it."""
        try:
            return math.prod(image_size(content, max_pixels=self.current.predictor.look.max_pixels))
        except (ImageError, MemoryError):
            return 0

    async def _annotations(self, question: Tasks, request: Request, peer: str) -> Response:
        """A result for each task, without regions where its image is broken; 422 if all are."""
        interface = read_interface(question.interface, self.class_names)
        # However many tasks a request has, two batches of it wait at most.
        places = asyncio.Semaphore(2 * self.current.predictor.look.batch_size)

        async def answer_to(task: dict[str, Any]) -> dict[str, Any] | DataError:
            async with places:
                if await request.is_disconnected():
                    raise ClientDisconnect
                try:
                    prediction = await self._prediction(interface.image_of(task), peer)
                except DataError as error:
                    LOG.warning("task=%r error=%r", task.get("id"), str(error))
                    return error
                return await asyncio.to_thread(self._annotation, prediction, interface)

        answers = await asyncio.gather(*(answer_to(task) for task in question.tasks))
        errors = [answer for answer in answers if isinstance(answer, DataError)]
        if errors and len(errors) == len(answers):
            raise errors[0]
        current = replace(self.options, model_version=self.version)
        nothing = pre_annotation([], score=0.0, options=current)
        results = [nothing if isinstance(answer, DataError) else answer for answer in answers]
        return JSONResponse({"results": results})

    def _annotation(self, prediction: Prediction, interface: LabellingInterface) -> dict[str, Any]:
        (chosen,) = selected([prediction], class_names=self.class_names, options=self.options)
        regions = interface.regions(chosen, self.options)
        options = replace(self.options, model_version=chosen.extra["model_version"])
        return pre_annotation(regions, score=1.0 - chosen.doubt, options=options)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; SettingError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise SettingError(
            f"cannot listen on --host {host} --port {port} ({error.strerror})",
            remedy="Give another --port; 0 takes a free one",
        ) from error


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


HEADER_SECONDS = 10  # from the connection, or the last answer, to the end of a request's header
MOST_CONNECTIONS = 400  # a process may usually have 1,024 files open
GRACE_SECONDS = 5  # for what was taken on before the end


class Connection(H11Protocol):
    """Closed where no request comes in time, or, of the peer with most, to make room for others."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.await_request()
        open_ones: list[Any] = [c for c in self.connections if not c.transport.is_closing()]
        if len(open_ones) > MOST_CONNECTIONS:
            idle = [connection for connection in open_ones if connection.is_idle]
            num_of = Counter(connection.client and connection.client[0] for connection in idle)
            oldest_first = sorted(idle, key=lambda connection: float(connection.timer.when()))
            peer = num_of.most_common(1)[0][0]
            next(c for c in oldest_first if (c.client and c.client[0]) == peer).transport.close()

    @property
    def is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def await_request(self) -> None:
        self.timer = self.loop.call_later(HEADER_SECONDS, self.close_idle)

    def close_idle(self) -> None:
        if self.is_idle:
            self.transport.close()

    def on_response_complete(self) -> None:
        self.timer.cancel()
        self.await_request()
        super().on_response_complete()

    def shutdown(self) -> None:
        if not self.is_idle and self.cycle.more_body:  # not taken on yet
            self.transport.close()
        super().shutdown()


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server that, told to stop, soon answers what it has taken on; logging is the caller's."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,  # the same on every machine, whatever else is installed
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    return uvicorn.Server(config)
