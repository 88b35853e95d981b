"""Importance weights, for what a replay draws by priority: pure functions of tensors, of a batch of B windows."""

from typing import Any

import tensorflow as tf

from agents import losses


def exponent(replay: Any, gradient_steps: tf.Tensor) -> tf.Tensor:
    """Beta at the next gradient step, float32 [] (Schaul et al. 2016, 3.4: it changes linearly).

    Args:
      replay: the config's section, with `importance_exponent`, `importance_exponent_final` and
        `importance_exponent_steps`.
      gradient_steps: int64 [], taken before.
    """
    first, final = replay.importance_exponent, replay.importance_exponent_final
    return losses.linear_schedule(first, final, replay.importance_exponent_steps, gradient_steps)


def weights_of(
    relative_probability: tf.Tensor, exponent: tf.Tensor, learned: tf.Tensor, smallest: tf.Tensor | None = None
) -> tf.Tensor:
    """Importance weights: (N P(i))^-beta over the largest of the batch, float32 [B] (Schaul et al. 2016, 3.4).

    A window that nothing is learned from has the least priority, which would make its weight the largest of the batch,
    and all others small. It weighs nothing.

    Args:
      relative_probability: float32 [B], N P(i): how many times as likely as by uniform drawing each was.
      exponent: beta.
      learned: bool [B], whether anything is learned from a window.
      smallest: float32 [], of `smallest_learned`, of the batch that this one is a part of; None: it is the whole.
    """
    if smallest is None:
        smallest = smallest_learned(relative_probability, learned)
    ratio = tf.where(learned, relative_probability, smallest) / smallest
    return tf.where(learned, tf.exp(-exponent * tf.math.log(ratio)), 0.0)


def smallest_learned(relative_probability: tf.Tensor, learned: tf.Tensor) -> tf.Tensor:
    """The smallest N P(i) along the last axis of what is learned from; the largest float where that is nothing."""
    return tf.reduce_min(tf.where(learned, relative_probability, tf.float32.max), axis=-1)
