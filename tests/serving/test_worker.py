"""Images wait together, are answered in order, and do not fail for one another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from tests.serving.running import WatchedSource, png, predictor_on, watched_source, white_png
from weakloc.data.sources import ImageSource
from weakloc.serving.app import PredictionWorker
from weakloc.structures import BrokenImage, Prediction


@contextmanager
def working(source: WatchedSource) -> Iterator[PredictionWorker]:
    worker = PredictionWorker(predictor_on(source))
    worker.start()
    yield worker
    worker.close()


def test_what_waits_shares_batches_and_everybody_gets_their_own_answer() -> None:
    source = watched_source()
    source.goes_on.clear()
    pictures = [ImageSource(f"{index}", png(index % 3, left=5 * index)) for index in range(10)]
    with working(source) as worker:
        answers = [worker.submit(pictures[0])]
        assert source.has_begun.wait(30)
        answers += [worker.submit(picture) for picture in pictures[1:]]
        source.goes_on.set()
        found = [answer.result(30) for answer in answers]
    assert source.batches == [1, 4, 4, 1]
    assert found == list(predictor_on(watched_source()).predict(pictures))


def test_a_broken_image_is_an_answer_and_a_failing_one_fails_alone() -> None:
    source = watched_source()
    source.goes_on.clear()
    with working(source) as worker:
        good = [worker.submit(ImageSource("first", png()))]
        assert source.has_begun.wait(30)
        broken = worker.submit(ImageSource("broken", b"no image"))
        failing = worker.submit(ImageSource("white", white_png()))
        good += [worker.submit(ImageSource(f"{index}", png())) for index in range(5)]
        source.goes_on.set()
        assert all(isinstance(answer.result(30), Prediction) for answer in good)
        with pytest.raises(RuntimeError, match="too bright"):
            failing.result(30)
        answer = broken.result(30)
        assert isinstance(answer, BrokenImage)
        assert "known format" in answer.reason
        # The thread has survived all that.
        assert isinstance(worker.submit(ImageSource("last", png())).result(30), Prediction)


def test_closing_answers_what_was_submitted() -> None:
    source = watched_source()
    answers: list[Future[Prediction | BrokenImage]] = []
    with working(source) as worker:
        answers += [worker.submit(ImageSource(f"{index}", png())) for index in range(9)]
    assert all(answer.done() for answer in answers)


def test_who_no_longer_waits_is_left_out() -> None:
    source = watched_source()
    source.goes_on.clear()
    with working(source) as worker:
        first = worker.submit(ImageSource("first", png()))
        assert source.has_begun.wait(30)
        given_up = [worker.submit(ImageSource(f"{index}", png())) for index in range(6)]
        assert all(answer.cancel() for answer in given_up)
        kept = worker.submit(ImageSource("kept", png()))
        source.goes_on.set()
        assert isinstance(first.result(30), Prediction)
        assert isinstance(kept.result(30), Prediction)
    assert source.batches == [1, 1]
