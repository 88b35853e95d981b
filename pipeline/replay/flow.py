"""The flow of data to the learner: who waits for whom, and whether the ratio asked for is kept. No TensorFlow."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.experiment.sections import Experiment

_WATCH_SECONDS = 60.0
_TOLERANCE = 0.2
_SLOW_COLLECTORS = "see logs/collector-*.log, and raise collect.lanes or collect.collectors if environments are slow"
_SLOW_LEARNER = (
    "see logs/learner.log; a smaller network or batch, or a lower replay.samples_per_insert, asks less of it"
)


def waits_for_collectors(experiment: Experiment, info: Any) -> bool:
    """Whether the rate limiter, or on-policy the queue, holds the learner back; `info` is Reverb's `TableInfo`."""
    return experiment.agent.on_policy or _holds_samples_back(info)


def _holds_samples_back(info: Any) -> bool:
    limiter = info.rate_limiter_info
    inserts, samples = limiter.insert_stats.completed, limiter.sample_stats.completed
    if info.current_size < limiter.min_size_to_sample:
        return True
    return bool(inserts * limiter.samples_per_insert - samples - 1 < limiter.min_diff)


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
    if experiment.agent.on_policy:
        return (
            f"the learner waits for collectors: the queue has not had the {items_per_call} items of a batch "
            f"({inserts} inserted, {samples} sampled): {_SLOW_COLLECTORS}"
        )
    if info.current_size < limiter.min_size_to_sample:
        return (
            f"the learner waits for collectors: the table has {info.current_size} of the {limiter.min_size_to_sample} "
            f"items that replay.min_size asks for ({state}): {_SLOW_COLLECTORS}, or lower replay.min_size"
        )
    if waits_for_collectors(experiment, info):
        return (
            f"the learner waits for collectors, which do not insert ({state}): {_SLOW_COLLECTORS}, or raise "
            "replay.samples_per_insert"
        )
    return f"the collectors wait for the learner, which does not sample ({state}): {_SLOW_LEARNER}"


class ShardState(NamedTuple):
    """What a stall may be due to, of one server of several."""

    address: str
    answers: bool
    transitions: int
    """Present, or when it answered last."""


def waits_for_shards(permits: Any, shards: Sequence[ShardState]) -> bool:
    """Whether the learner can have no more before collectors insert or shards come back.

    Args:
      permits: Reverb's `TableInfo` of the permits when shard 0 answered last; None if it never has.
      shards: in order.
    """
    gives = any(shard.answers and shard.transitions for shard in shards)
    return not gives or permits is None or not shards[0].answers or _holds_samples_back(permits)


def explain_shards(experiment: Experiment, permits: Any, shards: Sequence[ShardState]) -> str:
    """Who waits for whom, and what to change, in words.

    Args:
      experiment: the run.
      permits: Reverb's `TableInfo` of the permits when shard 0 answered last; None if it never has.
      shards: in order.
    """
    seen = [
        f"shard {number} at {shard.address} " + ("has nothing" if shard.answers else "does not answer")
        for number, shard in enumerate(shards)
        if not (shard.answers and shard.transitions)
    ]
    stored, replay = sum(shard.transitions for shard in shards), experiment.replay
    state = "; ".join((f"{stored} transitions stored, {replay.samples_per_insert:g} samples per insert wanted", *seen))
    if permits is None or not shards[0].answers:
        return f"the learner waits for shard 0, which holds the ratio of samples to inserts for all ({state})"
    limiter = permits.rate_limiter_info
    if permits.current_size < limiter.min_size_to_sample:
        return (
            f"the learner waits for collectors, which have not stored the {replay.min_size} transitions that "
            f"replay.min_size asks for ({state}): {_SLOW_COLLECTORS}, or lower replay.min_size"
        )
    if waits_for_shards(permits, shards):
        return (
            f"the learner waits for collectors, which do not insert ({state}): {_SLOW_COLLECTORS}, or raise "
            "replay.samples_per_insert"
        )
    return f"the collectors wait for the learner, which does not sample ({state}): {_SLOW_LEARNER}"


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
