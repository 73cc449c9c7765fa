"""Requests of many peers and their images, as they wait for a predictor: whose turn is next.

Images share batches. No peer can take what others need, however much it asks for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from threading import Condition, Thread
from typing import TypeAlias

from starlette.exceptions import HTTPException

from weakloc.data.sources import ImageSource
from weakloc.predictor.predictor import Predictor
from weakloc.structures import BrokenImage, Prediction

LOG = logging.getLogger(__name__)
RETRY_SECONDS = 1
LAST_SECONDS = 2  # when the server ends, for the batch that is in the network


def try_later(reason: str) -> HTTPException:
    return HTTPException(503, reason, headers={"Retry-After": str(RETRY_SECONDS)})


GATHER_SECONDS = 0.005  # how long an image waits for others to share its batch
LARGE = 2**22  # pixels from which an image would keep those of usual size waiting
PEER_SECONDS = 10  # after its last image nobody is kept from large batches for a peer
PIXELS_AT_ONCE = 2**25  # of the images of a batch, where they are several
Answer: TypeAlias = Prediction | BrokenImage


@dataclass
class Current:
    """The predictor that answers from the next batch on, and its version."""

    model: tuple[Predictor, str]

    @property
    def predictor(self) -> Predictor:
        return self.model[0]


@dataclass(frozen=True)
class Job:
    """An image that waits for its answer."""

    image: ImageSource
    pixels: int
    answer: Future[Answer]


class PredictionWorker(Thread):
    """Answers as many images at once as wait and, for several peers, likely take `seconds`.

    The peers that wait take turns; each one's images are answered in the order they come. How many
    wait is bounded by whoever submits.
    """

    def __init__(self, current: Current, *, seconds: float, niceness: int) -> None:
        super().__init__(name="weakloc-predictor", daemon=True)
        self._current, self._seconds, self._niceness = current, seconds, niceness
        self._pace = 0.0  # seconds for an image, in the latest batches
        self._waiting: dict[str, list[Job]] = {}  # by peer, the next one first
        self._peers: dict[str, float] = {}  # when each asked last
        self._changed = Condition()
        self._is_closed = False

    def close(self) -> None:
        """Answers what was submitted, then ends the thread, which has seconds for it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self.join(LAST_SECONDS)

    def submit(self, image: ImageSource, *, peer: str, pixels: int) -> Future[Answer]:
        answer = Future[Answer]()
        with self._changed:
            self._peers[peer] = time.monotonic()
            waiting = [job for job in self._waiting.get(peer, ()) if not job.answer.cancelled()]
            self._waiting[peer] = [*waiting, Job(image, pixels, answer)]
            self._changed.notify()
        return answer

    def run(self) -> None:
        if sys.platform == "linux":  # elsewhere it would be that of the process
            os.nice(self._niceness)
        while batch := self._next_batch():
            start = time.perf_counter()
            self._answer(batch)
            self._pace = max(self._pace / 2, (time.perf_counter() - start) / len(batch))

    def _next_batch(self) -> list[Job]:
        """Waits for an image, then a moment for more; nothing when the worker was closed."""
        batch: list[Job] = []
        pixels, until = 0, None
        most = self._current.predictor.look.batch_size
        with self._changed:
            now = time.monotonic()
            self._peers = {peer: at for peer, at in self._peers.items() if now - at < PEER_SECONDS}
            if len(self._peers) > 1:
                most = min(most, int(self._seconds / (self._pace or 1e-9)))
            while not batch or len(batch) < most:
                seconds = until and until - time.monotonic()
                self._changed.wait_for(lambda: self._waiting or self._is_closed, seconds)
                peer = next(iter(self._waiting), None)
                if peer is None:
                    return batch
                job, *later = self._waiting[peer]
                pixels += job.pixels
                if batch and pixels > PIXELS_AT_ONCE:
                    return batch
                del self._waiting[peer]
                if later:  # after all others
                    self._waiting[peer] = later
                if job.answer.set_running_or_notify_cancel():
                    batch.append(job)
                    until = until or time.monotonic() + GATHER_SECONDS
        return batch

    def _answer(self, batch: Sequence[Job]) -> None:
        predictor, version = self._current.model
        try:
            predictions = predictor.predict([job.image for job in batch])
            for job, prediction in zip(batch, predictions, strict=True):
                if isinstance(prediction, Prediction):
                    extra = {**prediction.extra, "model_version": version}
                    job.answer.set_result(replace(prediction, extra=extra))
                else:
                    job.answer.set_result(prediction)
        except Exception as error:
            unanswered = [job for job in batch if not job.answer.done()]
            if len(unanswered) > 1:  # the image that fails must not fail those that share its batch
                for job in unanswered:
                    self._answer([job])
                return
            for job in unanswered:
                LOG.error("image=%r failed", job.image.name, exc_info=error)
                job.answer.set_exception(error)


@dataclass
class WaitingRoom:
    """The requests taken on, each with a share of the room, which has bytes and a number of seats.

    Where there is no room left, the peer with most gives way: its newest request is refused.
    """

    num_bytes: int
    num_seats: int
    taken: dict[asyncio.Timeout, tuple[str, int]] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)  # peer -> when it is listened to again

    async def patience(self, peer: str) -> None:
        """Who was refused and comes back too soon is listened to later, one after the other."""
        until = self.refused.get(peer, 0.0)
        if until > (now := time.monotonic()):
            self.refused[peer] += RETRY_SECONDS / self.num_seats
            await asyncio.sleep(until - now)

    @asynccontextmanager
    async def seat(self, peer: str, num_bytes: int) -> AsyncIterator[None]:
        """HTTP 503 where there is none, or another peer needs it."""
        try:
            async with asyncio.timeout(None) as seat:
                self.taken[seat] = peer, max(num_bytes, self.num_bytes // self.num_seats)
                self._make_room()
                await asyncio.sleep(0)  # where this is the newest of the peer with most, it ends
                self.refused.pop(peer, None)
                yield
        except TimeoutError as error:
            raise try_later("too many requests wait already") from error
        finally:
            self.taken.pop(seat, None)

    def _make_room(self) -> None:
        while True:
            shares = Counter[str]()
            for peer, share in self.taken.values():
                shares[peer] += share
            if shares.total() <= self.num_bytes:
                return
            greediest = max(reversed(shares), key=lambda peer: shares[peer])
            newest = [seat for seat, (peer, _) in self.taken.items() if peer == greediest][-1]
            del self.taken[newest]
            newest.reschedule(0.0)
            now = time.monotonic()
            self.refused = {peer: until for peer, until in self.refused.items() if until > now}
            self.refused[greediest] = max(self.refused.get(greediest, 0.0), now + RETRY_SECONDS)
