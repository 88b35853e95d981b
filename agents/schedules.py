"""Values that move with a count of gradient steps, within the compiled program: the count alone decides them.

Imported for a config that has a schedule with points.
"""

import math
from typing import TYPE_CHECKING

import tensorflow as tf

from agents.config_fields import Schedule

if TYPE_CHECKING:
    from agents.configs.value import MunchausenConfig, WindowConfig


def value_at(schedule: Schedule, initial: float, count: tf.Tensor, *, of_horizon: bool = False) -> tf.Tensor:
    """The value of a schedule after a count of steps: float32 [].

    Between two points it is a + (b - a) g(f), where f is the share of the steps between them that have passed: g(f) = f
    ("linear"), (1 - cos(pi f)) / 2 ("cosine", Loshchilov and Hutter 2017, equation 5, as a + b - eta), or 0 until f = 1
    ("piecewise"). "exponential" is linear in the logarithm, a^(1 - f) b^f.

    Args:
      schedule: its points.
      initial: the value at step 0.
      count: integer [], steps taken.
      of_horizon: of a discount: "exponential" then moves 1 - gamma, as Schwarzer et al. 2023 do.
    """
    logarithmic = schedule.shape == "exponential"
    values = [initial, *(value for _, value in schedule.points)]
    if logarithmic:
        values = [math.log(1.0 - value if of_horizon else value) for value in values]
    steps = [0, *(step for step, _ in schedule.points)]
    total, count = tf.constant(values[0], tf.float32), tf.cast(count, tf.int64)
    for at, until, before, after in zip(steps, steps[1:], values, values[1:], strict=False):
        share = tf.clip_by_value(tf.cast(count - at, tf.float32) / (until - at), 0.0, 1.0)
        if schedule.shape == "cosine":
            share = 0.5 - 0.5 * tf.cos(math.pi * share)
        elif schedule.shape == "piecewise":
            share = tf.cast(count >= until, tf.float32)
        total += (after - before) * share
    if not logarithmic:
        return total
    return 1.0 - tf.exp(total) if of_horizon else tf.exp(total)


def n_step(config: "WindowConfig", count: tf.Tensor) -> tf.Tensor:
    """N of n-step returns after a count of gradient steps, the nearest whole number: int32 []."""
    return tf.cast(tf.round(value_at(config.n_step_schedule, config.n_step, count)), tf.int32)


def temperature(config: "MunchausenConfig", count: tf.Tensor) -> tf.Tensor:
    """Munchausen's temperature after a count of gradient steps, float32 []."""
    return value_at(config.munchausen_temperature_schedule, config.munchausen_temperature, count)
