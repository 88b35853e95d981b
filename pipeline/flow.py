"""The flow of data to the learner: who waits for whom, and whether the ratio asked for is kept. No TensorFlow."""

import time
from collections import deque
from typing import Any

from pipeline.sections import Experiment

_WATCH_SECONDS = 60.0
_TOLERANCE = 0.2


def explain_stall(experiment: Experiment, info: Any, items_per_call: int) -> str:
    """Which side the rate limiter holds back, and what to change, in words.

    Args:
      experiment: the run.
      info: Reverb's `TableInfo` of the experience table.
      items_per_call: that the learner draws for one call.
    """
    limiter = info.rate_limiter_info
    inserts, samples = limiter.insert_stats.completed, limiter.sample_stats.completed
    state = (
        f"{inserts} items inserted, {samples} sampled, {info.current_size} of {info.max_size} stored, "
        f"{limiter.samples_per_insert:g} samples per insert wanted"
    )
    slow = "see logs/collector-*.log, and raise collect.lanes or collect.collectors if environments are slow"
    if experiment.agent.on_policy:
        return (
            f"the learner waits for collectors: the queue has not had the {items_per_call} items of a batch "
            f"({inserts} inserted, {samples} sampled): {slow}"
        )
    if info.current_size < limiter.min_size_to_sample:
        return (
            f"the learner waits for collectors: the table has {info.current_size} of the {limiter.min_size_to_sample} "
            f"items that replay.min_size asks for ({state}): {slow}, or lower replay.min_size"
        )
    if inserts * limiter.samples_per_insert - samples - 1 < limiter.min_diff:
        return (
            f"the learner waits for collectors, which do not insert ({state}): {slow}, or raise "
            "replay.samples_per_insert"
        )
    return (
        f"the collectors wait for the learner, which does not sample ({state}): see logs/learner.log; a smaller "
        "network or batch, or a lower replay.samples_per_insert, asks less of it"
    )


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
