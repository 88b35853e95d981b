"""The thread that draws the samples ahead: how it ends where draws wait."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import waiting

from pipeline.learner.feeder import Feeder

SAMPLE: Any = object()


@pytest.mark.parametrize("draws_under_way", [0, 1, 5])
def test_it_is_released_until_the_iterators_own_draws_have_ended(draws_under_way: int) -> None:
    """Reverb's iterator has several threads that draw; its end waits for each, and each for something to draw."""
    given, waits = threading.Semaphore(0), threading.Event()

    def samples() -> Iterator[Any]:
        try:
            waits.set()
            given.acquire()
            yield SAMPLE
        finally:
            for _ in range(draws_under_way):
                given.acquire()

    feeder = Feeder(samples)
    feeder.start()
    assert waits.wait(waiting.SECONDS)
    feeder.stop_drawing()
    deadline = time.monotonic() + waiting.SECONDS
    feeder.discard(deadline, given.release)
    feeder.join(deadline)
    assert time.monotonic() < deadline


def test_discarding_ends_at_the_deadline_where_nothing_ends_a_wait() -> None:
    never = threading.Event()

    def samples() -> Iterator[Any]:
        never.wait()
        yield SAMPLE

    feeder = Feeder(samples)
    feeder.start()
    feeder.stop_drawing()
    feeder.discard(time.monotonic() + 0.2, lambda: None)
    assert feeder.draw(timeout=0.0) is None
    never.set()
