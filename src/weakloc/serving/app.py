"""A predictor -> the ASGI application that serves it; docs/serving.md describes the requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from weakloc.config import ExportOptions
from weakloc.errors import DataError, ImageError, WeaklocError
from weakloc.output.exporters.jsonl import prediction_line
from weakloc.output.exporters.label_studio import pre_annotation
from weakloc.output.exporters.selection import selected
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.sources import ImageSource
from weakloc.serving.allowed_images import AllowedImages
from weakloc.serving.gate import REASON, Gate
from weakloc.serving.labelling_interface import LabellingInterface, read_interface
from weakloc.serving.questions import NamedImage, Tasks, read_json, read_question
from weakloc.serving.settings import ServeSettings
from weakloc.serving.worker import PredictionWorker
from weakloc.structures import BrokenImage, Prediction

LOG = logging.getLogger(__name__)
BODY_SECONDS = 60  # a client may take so long to send its question
RETRY_SECONDS = 1


def build_app(
    predictor: Predictor,
    images: AllowedImages,
    settings: ServeSettings,
    *,
    model_version: str,
    token: str | None = None,
) -> Starlette:
    """The application; its thread starts and ends with the server that runs it."""
    options = ExportOptions(
        score_threshold=settings.score_threshold,
        best_per_class=settings.best_per_class,
        tag_threshold=predictor.settings.min_score,
        model_version=model_version,
    )
    service = _Service(PredictionWorker(predictor), images, options, settings.queue)
    return Starlette(
        routes=[
            Route("/", service.health, methods=["GET"]),
            Route("/health", service.health, methods=["GET"]),
            Route("/versions", service.versions, methods=["GET"]),
            Route("/setup", service.setup, methods=["POST"]),
            Route("/predict", service.predict, methods=["POST"]),
            Route("/webhook", service.ignore, methods=["POST"]),
            Route("/train", service.ignore, methods=["POST"]),
        ],
        middleware=[Middleware(Gate, token=token, max_bytes=settings.max_bytes)],
        exception_handlers={HTTPException: _refused, WeaklocError: _impossible},
        lifespan=service.running,
    )


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(request, error.detail, error.status_code, error.headers)


def _impossible(request: Request, error: Exception) -> Response:
    return _error(request, str(error), 422)


def _error(
    request: Request, reason: str, status: int, headers: Mapping[str, str] | None = None
) -> Response:
    request.scope[REASON] = reason
    return JSONResponse({"error": reason}, status, headers=headers)


@dataclass
class _Service:
    """The answers to every address of the application."""

    worker: PredictionWorker
    images: AllowedImages
    options: ExportOptions
    most_requests: int
    num_requests: int = 0

    @asynccontextmanager
    async def running(self, _: Starlette) -> AsyncIterator[None]:
        self.worker.start()
        yield
        await asyncio.to_thread(self.worker.close)

    async def health(self, _: Request) -> Response:
        return JSONResponse(
            {
                "status": "UP",
                "model_class": "weakloc",
                "model_version": self.options.model_version,
                "classes": self.worker.class_names,
                "requests": self.num_requests,
            }
        )

    async def versions(self, _: Request) -> Response:
        return JSONResponse({"versions": [self.options.model_version]})

    async def setup(self, request: Request) -> Response:
        """Label Studio connects: refused where nothing could ever be filled in."""
        body = await read_json(request)
        read_interface(body.get("schema"), self.worker.class_names)
        return JSONResponse({"model_version": self.options.model_version})

    async def ignore(self, _: Request) -> Response:
        """Label Studio tells of annotations or asks to train; an error would disconnect it."""
        return JSONResponse({"status": "ok", "message": "weakloc serve predicts only"})

    async def predict(self, request: Request) -> Response:
        if self.num_requests >= self.most_requests:
            later = {"Retry-After": str(RETRY_SECONDS)}
            raise HTTPException(503, f"{self.num_requests} requests wait already", headers=later)
        self.num_requests += 1
        try:
            question = await self._question(request)
            if isinstance(question, Tasks):
                return await self._annotations(question, request)
            line = prediction_line(await self._prediction(question))
            return Response(line, media_type="application/json")
        except ClientDisconnect:
            return Response(status_code=400)  # only the log will know
        finally:
            self.num_requests -= 1

    async def _question(self, request: Request) -> ImageSource | NamedImage | Tasks:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await read_question(request)
        except TimeoutError as error:
            raise HTTPException(408, f"the body took over {BODY_SECONDS} seconds") from error

    async def _prediction(self, image: ImageSource | NamedImage) -> Prediction:
        """ImageError where the image is forbidden or broken."""
        if isinstance(image, NamedImage):
            image = await asyncio.to_thread(self.images.find, image.name)
        try:
            answer = await asyncio.wrap_future(self.worker.submit(image))
        except Exception as error:  # the worker has logged it
            raise HTTPException(500, f"the prediction failed: {error!r}") from error
        if isinstance(answer, BrokenImage):
            raise ImageError(answer.reason, where=answer.name)
        return answer

    async def _annotations(self, question: Tasks, request: Request) -> Response:
        """A result for each task, without regions where its image is broken; 422 if all are."""
        interface = read_interface(question.interface, self.worker.class_names)
        # However many tasks a request has, two batches of it wait at most.
        places = asyncio.Semaphore(2 * self.worker.batch_size)

        async def answer(task: dict[str, Any]) -> dict[str, Any] | DataError:
            async with places:
                if await request.is_disconnected():
                    raise ClientDisconnect
                try:
                    prediction = await self._prediction(NamedImage(interface.image_of(task)))
                except DataError as error:
                    LOG.warning("task=%r error=%r", task.get("id"), str(error))
                    return error
                return await asyncio.to_thread(self._annotation, prediction, interface)

        answers = await asyncio.gather(*(answer(task) for task in question.tasks))
        errors = [each for each in answers if isinstance(each, DataError)]
        if errors and len(errors) == len(answers):
            raise errors[0]
        nothing = pre_annotation([], score=0.0, options=self.options)
        found = [nothing if isinstance(each, DataError) else each for each in answers]
        return JSONResponse({"results": found})

    def _annotation(self, prediction: Prediction, interface: LabellingInterface) -> dict[str, Any]:
        (chosen,) = selected(
            [prediction], class_names=self.worker.class_names, options=self.options
        )
        regions = interface.regions(chosen, self.options)
        return pre_annotation(regions, score=1.0 - chosen.doubt, options=self.options)
