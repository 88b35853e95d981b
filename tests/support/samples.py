"""What a replay would give a learner, random, for any kind of the registry."""

from typing import Any

import numpy as np
import tensorflow as tf
from kinds import experience, specs_of

from agents import Specs
from pipeline.acting.frame_stacks import unpacked
from pipeline.replay.sampling import Sample, decode


def random_sample(config: Any, steps: int, batch: int, bad: int, specs: Specs | None = None) -> Sample:
    """Batches whose halves differ, so that clipping by the norm of each half would show.

    Args:
      config: of the agent.
      steps: K, batches.
      batch: B, of each.
      bad: the step whose batch has a number that is none, in its first half.
      specs: of the environment; None takes the kind's own.
    """
    shape = steps, batch, config.window_length
    trajectory = experience(specs or specs_of(config.kind), shape, state_units=config.state_units)
    reward, step_type = trajectory.reward.numpy(), trajectory.step_type.numpy()
    random = np.random.default_rng(0)
    reward[:, batch // 2 :] *= 20.0
    step_type[:, batch // 2 :, 0] = 2 * (random.random((steps, batch // 2)) < 0.5)
    poison = reward if config.kind != "behaviour_cloning" else trajectory.observation[0].numpy()
    poison[bad, 0] = np.nan
    observation = trajectory.observation
    if poison is not reward:
        observation = (tf.constant(poison), observation[1])
    step_type[bad, 0] = 1
    trajectory = trajectory._replace(
        reward=tf.constant(reward), step_type=tf.constant(step_type), observation=observation
    )
    relative = tf.constant(random.uniform(0.1, 10.0, (steps, batch)), tf.float32)
    return Sample(trajectory, tf.zeros((steps, batch), tf.int32), relative, tf.zeros((1,), tf.uint64))


def part(sample: Sample, index: int, parts: int) -> Sample:
    """One of several equal parts of each batch, in order."""
    size = sample.relative_probability.shape[1] // parts

    def cut(leaf: Any) -> Any:
        return leaf[:, index * size : (index + 1) * size]

    trajectory = tf.nest.map_structure(cut, sample.trajectory)
    return sample._replace(
        trajectory=trajectory,
        gradient_steps=cut(sample.gradient_steps),
        relative_probability=cut(sample.relative_probability),
    )


def trajectory_of(server: Any, sample: Any) -> Any:
    """The trajectory of a sample, which may be packed, as the learner's program makes it."""
    if not isinstance(sample.trajectory, np.ndarray):
        return sample.trajectory

    def decoded(windows: Any) -> Any:
        return decode(windows, server._layout)[0]

    batch_size = sample.gradient_steps.shape[1]
    made = unpacked(decoded, server._experiment.window, batch_size, tf.constant(sample.trajectory))
    return tf.nest.map_structure(lambda leaf: leaf.numpy(), made)
