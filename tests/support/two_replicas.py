"""Trains the named variants on one and on two logical CPU devices and prints the differences as JSON.

Run by test_replicas.py with names of `kinds.FEW`, which may have ", branching" behind them: with actions of dimensions.

A script of its own, because logical devices have to be configured before TensorFlow starts.
"""

import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf
from kinds import DIMENSIONS, FEW, specs_of
from samples import random_sample

from agents import Specs
from pipeline.experiment.replay_section import ReplayConfig
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.learner import Learner, Outcome
from pipeline.replay.sampling import Sample

STEPS, BATCH, CALLS = 10, 16, 2
BAD = 4
"""The step of each call whose batch has a number that is none."""


def train(
    config: Any, specs: Specs, devices: list[str], sample: Sample
) -> tuple[list[np.ndarray], list[np.ndarray], list[Outcome]]:
    """The agent's state before and after training, and what the learner said."""
    learner = Learner(
        Experiment(
            agent=config,
            learner=LearnerConfig(batch_size=BATCH, steps_per_call=STEPS, loop="plain"),
            replay=ReplayConfig(prioritized=not config.on_policy),
        ),
        specs,
        devices,
    )
    before = [variable.numpy() for variable in learner.agent.variables]
    outcomes = [learner.learn(sample) for _ in range(CALLS)]
    return before, [variable.numpy() for variable in learner.agent.variables], outcomes


def largest_difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def floats(state: list[np.ndarray]) -> list[np.ndarray]:
    """Without the counters."""
    return [values for values in state if values.dtype == np.float32]


def difference(one: Outcome, other: Outcome) -> float:
    """Between priorities; on-policy there are none."""
    if one.priorities is None and other.priorities is None:
        return 0.0
    return float(np.abs(one.priorities - other.priorities).max())


def compared(name: str) -> dict[str, Any]:
    """How far one device and two are apart."""
    name, _, branching = name.partition(", ")
    config = FEW[name]
    specs = DIMENSIONS if branching else specs_of(config.kind)
    sample = random_sample(config, STEPS, BATCH, BAD, specs)
    before, single, outcomes = train(config, specs, ["CPU:0"], sample)
    before_two, mirrored, outcomes_two = train(config, specs, ["CPU:0", "CPU:1"], sample)
    pairs = zip(outcomes, outcomes_two, strict=True)
    return {
        "start": largest_difference(before, before_two),
        "end": largest_difference(single, mirrored),
        "learnt": largest_difference(*(floats(state) for state in (before, single))),
        "smallest_norm": min(outcome.gradient_norm for outcome in outcomes),
        "clip_norm": getattr(config, "gradient_clip_norm", 0.0),
        "priorities": max(difference(*pair) for pair in pairs),
        "outcomes": [outcome[:5] for outcome in outcomes],
        "outcomes_of_two": [outcome[:5] for outcome in outcomes_two],
        "skipped": [[outcome.skipped for outcome in of] for of in (outcomes, outcomes_two)],
    }


def main() -> None:
    """Prints one line of JSON: for each variant what `compared` found."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    results = {}
    for position, name in enumerate(sys.argv[1:]):
        # Strategies of one process give their collectives the same keys, and TensorFlow takes one for the other.
        tf.distribute.MirroredStrategy._collective_key_base = 100 * position
        results[name] = compared(name)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
