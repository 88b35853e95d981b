"""The experiments that are measured. No TensorFlow here: light clients know them, too."""

from collections.abc import Sequence

import msgspec

from pipeline import load
from pipeline.experiment.sections import Experiment

CONFIG = "cartpole"
UNENDING = (
    "stop.target_return=1e9",
    "stop.environment_steps=0",
    "checkpoint.every_seconds=1e6",
    "learner.stall_seconds=1e6",
    "collect.away_seconds=1e6",
)
"""Nothing but what is measured happens in a run, and resting does not end it."""
FREE_INSERTS = ("replay.samples_per_insert=1e-6", 'learner.loop="plain"')
"""The limiter holds no collector back; the learner soon has nothing to draw, and needs no loop that is fast."""
FREE_DRAWS = ("replay.samples_per_insert=1e6", "replay.min_size=20_000")
"""The limiter holds no learner back."""


def experiment_of(lines: Sequence[str], shards: int) -> Experiment:
    """What roles started by hand make of these lines and so many addresses on this machine."""
    experiment = load(CONFIG, (*UNENDING, *lines))
    replay = msgspec.structs.replace(experiment.replay, shards=shards, private="loopback")
    return msgspec.structs.replace(experiment, replay=replay)
