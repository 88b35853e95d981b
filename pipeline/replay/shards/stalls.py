"""Why the learner or the collectors wait for each other at a replay of several servers, and what to change."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.experiment.sections import Experiment
from pipeline.replay.stalls import SLOW_COLLECTORS, SLOW_LEARNER, holds_samples_back


class ShardState(NamedTuple):
    """What a stall may be due to, of one server of several."""

    address: str
    answers: bool
    windows: int
    """Present, or when it answered last."""


def waits(permits: Any, shards: Sequence[ShardState]) -> bool:
    """Whether the learner can have no more before collectors insert or shards come back.

    Args:
      permits: Reverb's `TableInfo` of the permits when shard 0 answered last; None if it never has.
      shards: in order.
    """
    gives = any(shard.answers and shard.windows for shard in shards)
    return not gives or permits is None or not shards[0].answers or holds_samples_back(permits)


def explain(experiment: Experiment, permits: Any, shards: Sequence[ShardState]) -> str:
    """Who waits for whom, and what to change, in words.

    Args:
      experiment: the run.
      permits: Reverb's `TableInfo` of the permits when shard 0 answered last; None if it never has.
      shards: in order.
    """
    seen = [
        f"shard {number} at {shard.address} " + ("has nothing" if shard.answers else "does not answer")
        for number, shard in enumerate(shards)
        if not (shard.answers and shard.windows)
    ]
    stored, replay = sum(shard.windows for shard in shards), experiment.replay
    state = "; ".join((f"{stored} windows stored, {replay.samples_per_insert:g} samples per insert wanted", *seen))
    if permits is None or not shards[0].answers:
        return f"the learner waits for shard 0, which holds the ratio of samples to inserts for all ({state})"
    limiter = permits.rate_limiter_info
    if permits.current_size < limiter.min_size_to_sample:
        return (
            f"the learner waits for collectors, which have not stored the {replay.min_size} windows that "
            f"replay.min_size asks for ({state}): {SLOW_COLLECTORS}, or lower replay.min_size"
        )
    if waits(permits, shards):
        return (
            f"the learner waits for collectors, which do not insert ({state}): {SLOW_COLLECTORS}, or raise "
            "replay.samples_per_insert"
        )
    return f"the collectors wait for the learner, which does not sample ({state}): {SLOW_LEARNER}"


def absences(silences: Sequence[tuple[str, float]], stall_seconds: float) -> str:
    """Which shards are away, for how long, and what that means; empty while all answer.

    Args:
      silences: address of each shard, in order, and the seconds since it answered last: 0 of one that answers.
      stall_seconds: `learner.stall_seconds`.
    """
    said = []
    for number, (address, seconds) in enumerate(silences):
        if seconds:
            means = "its collectors wait for it, the learner draws from the others"
            if number == 0:
                means = (
                    "it holds the ratio of samples to inserts for all, so that learner and collectors wait for it; "
                    f"learner.stall_seconds={stall_seconds:g} of that end the run, which --resume goes on with"
                )
            said.append(f"shard {number} at {address} has not answered for {seconds:.0f} s: {means}")
    return "; ".join(said)
