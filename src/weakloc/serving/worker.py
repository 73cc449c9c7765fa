"""Images of many requests -> their predictions, by the one thread that uses the predictor."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeAlias

from weakloc.data.sources import ImageSource
from weakloc.predictor.predictor import Predictor
from weakloc.structures import BrokenImage, Prediction

LOG = logging.getLogger(__name__)
GATHER_SECONDS = 0.005  # how long an image waits for others to share its batch
Answer: TypeAlias = Prediction | BrokenImage


@dataclass(frozen=True, slots=True)
class _Job:
    image: ImageSource
    answer: Future[Answer]


class PredictionWorker(Thread):
    """Answers images in the order they come, as many at a time as wait, up to a batch.

    It does not bound how many wait: whoever submits does.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(name="weakloc-predictor", daemon=True)
        self._predictor = predictor
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()  # None: nothing comes after

    @property
    def batch_size(self) -> int:
        return self._predictor.look.batch_size

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._predictor.source.class_names

    def close(self) -> None:
        """Answers what was submitted, then ends the thread."""
        self._jobs.put(None)
        self.join()

    def submit(self, image: ImageSource) -> Future[Answer]:
        answer: Future[Answer] = Future()
        self._jobs.put(_Job(image, answer))
        return answer

    def run(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[_Job]:
        """Waits for an image, then a moment for more; nothing when the worker was closed."""
        batch: list[_Job] = []
        job = self._jobs.get()
        until = time.monotonic() + GATHER_SECONDS
        while job is not None:
            if job.answer.set_running_or_notify_cancel():
                batch.append(job)
            if batch and len(batch) >= self.batch_size:
                return batch
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()) if batch else None)
            except Empty:
                return batch
        if batch:
            self._jobs.put(None)  # for the next time
        return batch

    def _answer(self, batch: Sequence[_Job]) -> None:
        try:
            answers = self._predictor.predict([job.image for job in batch])
            for job, answer in zip(batch, answers, strict=True):
                job.answer.set_result(answer)
        except Exception as error:
            unanswered = [job for job in batch if not job.answer.done()]
            if len(unanswered) > 1:  # the image that fails must not fail those that share its batch
                for job in unanswered:
                    self._answer([job])
                return
            for job in unanswered:
                LOG.error("image=%r failed", job.image.name, exc_info=error)
                job.answer.set_exception(error)
