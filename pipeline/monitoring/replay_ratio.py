"""Whether a run keeps the ratio of samples to inserts that it was asked for."""

import time
from collections import deque

_WATCH_SECONDS = 60.0
_TOLERANCE = 0.2


class RatioWatch:
    """Compares the transitions learned from for each one stored, over the last minute, with what is asked for.

    Args:
      wanted: `replay.samples_per_insert`.
      least: transitions stored within that time below which nothing is said, as batches come in lumps.
    """

    def __init__(self, wanted: float, least: int) -> None:
        self._wanted, self._least = wanted, least
        self._marks: deque[tuple[float, int, int]] = deque()

    def warning(self, stored: int, learned: int, now: float | None = None) -> str:
        """What to say of the last minute; empty while the ratio is kept or a minute has not passed.

        Args:
          stored: transitions since the run began.
          learned: transitions learned from, as often as they were.
          now: monotonic time in seconds.
        """
        now = time.monotonic() if now is None else now
        self._marks.append((now, stored, learned))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _WATCH_SECONDS:
            self._marks.popleft()
        began, stored_then, learned_then = self._marks[0]
        if now - began < _WATCH_SECONDS or stored - stored_then < self._least:
            return ""
        ratio = (learned - learned_then) / (stored - stored_then)
        if abs(ratio - self._wanted) <= _TOLERANCE * self._wanted:
            return ""
        side = "the learner is behind" if ratio < self._wanted else "the collectors are behind"
        wanted = f"replay.samples_per_insert={self._wanted:g}"
        return f"{ratio:.3g} samples per insert over the last minute, and {wanted}: {side}"
