"""Trains on one and on two logical CPU devices and prints the differences as JSON; run by test_replicas.py.

A script of its own, because logical devices have to be configured before TensorFlow starts.
"""

import json

import numpy as np
import tensorflow as tf
from tf_agents.trajectories import Trajectory

from agents import ArraySpec, DqnConfig, Specs
from pipeline.config import Experiment, LearnerConfig
from pipeline.learner import Learner, Outcome
from pipeline.replay import Sample

STEPS, BATCH, CALLS = 10, 16, 2
SPECS = Specs(ArraySpec((4,), "float32"), 3)
CONFIG = DqnConfig(
    hidden_units=(16,),
    n_step=3,
    target_update_period=3,
    target_update_tau=0.5,
    learning_rate=0.01,
    learning_rate_decay_steps=15,
    gradient_clip_norm=0.05,
)


def random_sample() -> Sample:
    random = np.random.default_rng(0)
    shape = (STEPS, BATCH, CONFIG.window_length)
    step_type = random.integers(0, 3, shape)
    reward = random.normal(size=shape)
    # The halves of a batch differ, so that clipping by the norm of each half would show.
    reward[:, BATCH // 2 :] *= 20.0
    step_type[:, BATCH // 2 :, 0] = 2 * (random.random((STEPS, BATCH // 2)) < 0.5)
    trajectory = Trajectory(
        step_type=tf.constant(step_type, tf.int32),
        observation=tf.constant(random.normal(size=(*shape, 4)), tf.float32),
        action=tf.constant(random.integers(0, 3, shape)),
        policy_info=(),
        next_step_type=tf.roll(tf.constant(step_type, tf.int32), -1, axis=2),
        reward=tf.constant(reward, tf.float32),
        discount=tf.constant(random.random(shape) < 0.8, tf.float32),
    )
    return Sample(trajectory, tf.zeros((STEPS, BATCH), tf.int32))


def train(devices: list[str], sample: Sample) -> tuple[list[np.ndarray], list[np.ndarray], list[Outcome]]:
    """The agent's state before and after training, and what the learner said."""
    learner = Learner(
        Experiment(agent=CONFIG, learner=LearnerConfig(batch_size=BATCH, steps_per_call=STEPS, loop="plain")),
        SPECS,
        devices,
    )
    before = [variable.numpy() for variable in learner.agent.variables]
    outcomes = [learner.learn(sample) for _ in range(CALLS)]
    return before, [variable.numpy() for variable in learner.agent.variables], outcomes


def largest_difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def main() -> None:
    """Prints one line of JSON."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    sample = random_sample()
    before, single, outcomes = train(["CPU:0"], sample)
    before_two, mirrored, outcomes_two = train(["CPU:0", "CPU:1"], sample)
    print(
        json.dumps(
            {
                "start": largest_difference(before, before_two),
                "end": largest_difference(single, mirrored),
                "learnt": largest_difference(before[1:], single[1:]),
                "smallest_norm": min(outcome.gradient_norm for outcome in outcomes),
                "clip_norm": CONFIG.gradient_clip_norm,
                "outcomes": outcomes,
                "outcomes_of_two": outcomes_two,
            }
        )
    )


if __name__ == "__main__":
    main()
