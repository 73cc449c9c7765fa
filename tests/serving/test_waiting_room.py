"""Images wait together, are answered in turn, and do not fail for one another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest
from starlette.exceptions import HTTPException

from tests.serving.running import WatchedSource, png, predictor_on, watched_source, white_png
from weakloc.data.sources import ImageSource
from weakloc.serving.waiting_room import PIXELS_AT_ONCE, Current, PredictionWorker, WaitingRoom
from weakloc.structures import BrokenImage, Prediction


@contextmanager
def working(source: WatchedSource, seconds: float = 60.0) -> Iterator[PredictionWorker]:
    worker = PredictionWorker(
        Current((predictor_on(source), "dots-1")), seconds=seconds, niceness=0
    )
    worker.start()
    yield worker
    worker.close()


def submitted(
    worker: PredictionWorker, image: ImageSource, *, peer: str = "somebody", pixels: int = 5460
) -> Future[Prediction | BrokenImage]:
    return worker.submit(image, peer=peer, pixels=pixels)


def test_what_waits_shares_batches_and_everybody_gets_their_own_answer() -> None:
    source = watched_source()
    source.goes_on.clear()
    pictures = [ImageSource(f"{index}", png(index % 3, left=5 * index)) for index in range(10)]
    with working(source) as worker:
        answers = [submitted(worker, pictures[0])]
        assert source.has_begun.wait(30)
        answers += [submitted(worker, picture) for picture in pictures[1:]]
        source.goes_on.set()
        found = [answer.result(30) for answer in answers]
    assert source.batches == [1, 4, 4, 1]
    assert [answer.extra for answer in found] == [{"model_version": "dots-1"}] * len(found)
    right = predictor_on(watched_source()).predict(pictures)
    assert [replace(answer, extra={}) for answer in found] == list(right)


def test_a_broken_image_is_an_answer_and_a_failing_one_fails_alone() -> None:
    source = watched_source()
    source.goes_on.clear()
    with working(source) as worker:
        good = [submitted(worker, ImageSource("first", png()))]
        assert source.has_begun.wait(30)
        broken = submitted(worker, ImageSource("broken", b"no image"))
        failing = submitted(worker, ImageSource("white", white_png()))
        good += [submitted(worker, ImageSource(f"{index}", png())) for index in range(5)]
        source.goes_on.set()
        assert all(isinstance(answer.result(30), Prediction) for answer in good)
        with pytest.raises(RuntimeError, match="too bright"):
            failing.result(30)
        answer = broken.result(30)
        assert isinstance(answer, BrokenImage)
        assert "known format" in answer.reason
        # The thread has survived all that.
        assert isinstance(submitted(worker, ImageSource("last", png())).result(30), Prediction)


def test_closing_answers_what_was_submitted() -> None:
    source = watched_source()
    answers: list[Future[Prediction | BrokenImage]] = []
    with working(source) as worker:
        answers += [submitted(worker, ImageSource(f"{index}", png())) for index in range(9)]
    assert all(answer.done() for answer in answers)


def test_who_no_longer_waits_is_left_out() -> None:
    source = watched_source()
    source.goes_on.clear()
    with working(source) as worker:
        first = submitted(worker, ImageSource("first", png()))
        assert source.has_begun.wait(30)
        given_up = [submitted(worker, ImageSource(f"{index}", png())) for index in range(6)]
        assert all(answer.cancel() for answer in given_up)
        kept = submitted(worker, ImageSource("kept", png()))
        source.goes_on.set()
        assert isinstance(first.result(30), Prediction)
        assert isinstance(kept.result(30), Prediction)
    assert source.batches == [1, 1]


def test_peers_take_turns_and_large_images_go_alone() -> None:
    source = watched_source()
    source.goes_on.clear()
    order: list[str] = []
    asked = [("greedy", 5460)] * 5 + [("modest", 5460), ("third", PIXELS_AT_ONCE)]
    with working(source) as worker:
        first = submitted(worker, ImageSource("first", png()))
        assert source.has_begun.wait(30)
        for index, (peer, pixels) in enumerate(asked):
            image = ImageSource(f"{peer} {index}", png())
            answer = submitted(worker, image, peer=peer, pixels=pixels)
            answer.add_done_callback(lambda _, name=image.name: order.append(name))
        source.goes_on.set()
        first.result(30)
    assert order == [
        *("greedy 0", "modest 5", "third 6", "greedy 1", "greedy 2", "greedy 3", "greedy 4")
    ]
    assert source.batches == [1, 2, 1, 4]


@pytest.mark.parametrize(("num_peers", "batches"), [(1, [1, 4, 2]), (2, [1] * 7)])
def test_a_batch_takes_no_longer_than_it_may_where_others_ask(
    num_peers: int, batches: list[int]
) -> None:
    source = watched_source()
    source.goes_on.clear()
    with working(source, seconds=1e-9) as worker:
        answers = [submitted(worker, ImageSource("first", png()), peer="0")]
        assert source.has_begun.wait(30)
        for index in range(6):
            image, peer = ImageSource(f"{index}", png()), f"{index % num_peers}"
            answers.append(submitted(worker, image, peer=peer))
        source.goes_on.set()
        assert all(isinstance(answer.result(30), Prediction) for answer in answers)
    assert source.batches == batches


async def in_seats(room: WaitingRoom, asked: Sequence[tuple[str, int]]) -> list[int]:
    """Who asks in turn for so many bytes and stays as long as it may: the status of each."""
    is_over = asyncio.Event()

    async def ask(peer: str, num_bytes: int) -> int:
        try:
            async with room.seat(peer, num_bytes):
                await is_over.wait()
        except HTTPException as error:
            return error.status_code
        return 200

    tasks = [asyncio.create_task(ask(*question)) for question in asked]
    for _ in range(5):
        await asyncio.sleep(0)
    is_over.set()
    return await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("asked", "statuses"),
    [
        ([("a", 0)] * 5, [200, 200, 200, 200, 503]),
        # The newest of the peer with most gives way, as long as it has more than who asks.
        ([("a", 0)] * 4 + [("b", 0)] * 3, [200, 200, 503, 503, 200, 200, 503]),
        ([(name, 0) for name in "abcde"], [200, 200, 200, 200, 503]),
        # A seat is worth a quarter of the 400 bytes; whoever brings more needs more.
        ([("a", 200), ("a", 200), ("b", 1)], [200, 503, 200]),
        ([("a", 50), ("b", 300), ("c", 100)], [200, 503, 200]),
        ([("a", 401)], [503]),
    ],
)
def test_no_peer_can_take_the_seats_that_others_need(
    asked: Sequence[tuple[str, int]], statuses: list[int]
) -> None:
    room = WaitingRoom(400, 4)
    assert asyncio.run(in_seats(room, asked)) == statuses
    assert not room.taken


def test_who_was_refused_is_listened_to_later_and_others_at_once() -> None:
    room = WaitingRoom(2, 2, refused={"hasty": time.monotonic() + 0.05})

    async def waits(peer: str) -> float:
        start = time.monotonic()
        await room.patience(peer)
        return time.monotonic() - start

    async def all_wait() -> list[float]:
        return await asyncio.gather(*map(waits, ("hasty", "hasty", "other")))

    with patch("weakloc.serving.waiting_room.RETRY_SECONDS", 0.1):
        first, second, other = asyncio.run(all_wait())
    assert other < 0.04 < first < second
    assert second - first > 0.04
