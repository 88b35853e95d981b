"""Where a process is in the user's environment, for whoever watches it, and a clock that stands still with the machine.

A watcher cannot see into a call of the user's code that takes long. So each such call is entered into two words of
memory that the process shares with it: a change is a sign of life, and tells a slow environment from one that hangs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

NO_CALL, MAKING, RESETTING, STEPPING = range(4)
ALL_LANES = -1
_MOST_TICK_SECONDS = 0.5


class _Place:
    """Which call this process is in; nobody sees it until `show_in`."""

    def __init__(self) -> None:
        self.words = memoryview(bytearray(16)).cast("q")


_place = _Place()


def show_in(words: memoryview) -> None:
    """Shows which call of the environment this process is in, from now on.

    Args:
      words: two int64 of shared memory: the call and its lane.
    """
    _place.words = words


def enter(call: int) -> memoryview:
    """Enters a call; returns the words, for a caller that goes on from lane to lane: the call is the first."""
    words = _place.words
    words[0] = call
    return words


@contextmanager
def in_call(call: int, lane: int = ALL_LANES) -> Iterator[None]:
    """Is in a call of the environment for the length of the block."""
    words = _place.words
    words[1] = lane
    words[0] = call
    try:
        yield
    finally:
        words[0] = NO_CALL


class RunningClock:
    """Seconds in which this process could run: they stand still while it is stopped, as a suspended machine stops it.

    Whoever waits for another process by this clock, and asks it often, gives up nobody for time in which nobody could
    run. Between two looks at it at most half a second passes.
    """

    def __init__(self) -> None:
        self._seconds, self._looked_at = 0.0, time.monotonic()

    def __call__(self) -> float:
        """The seconds so far."""
        now = time.monotonic()
        self._seconds += min(now - self._looked_at, _MOST_TICK_SECONDS)
        self._looked_at = now
        return self._seconds
