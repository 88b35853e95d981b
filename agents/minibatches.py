"""Several updates in one gradient step: epochs over a batch in minibatches, the same on any number of replicas."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from agents import draws
from agents.optimizers import Update


class Updates(NamedTuple):
    """The result of a gradient step's updates, the same on every replica."""

    loss: tf.Tensor
    """float32 []: this replica's mean loss over the updates that were applied; 0 if none was."""
    norm: tf.Tensor
    """float32 []: mean global norm of the gradient before clipping, over the same."""
    applied: tf.Tensor
    """bool []: whether all of them were."""


def take(update: Callable[[Any], tuple[tf.Tensor, Update]], count: int) -> Updates:
    """Takes `count` updates in turn.

    Args:
      update: takes one, by its number from 0; returns this replica's part of its loss, float32 [], and its `Update`.
      count: of the updates.
    """

    def add(k: Any, losses: tf.Tensor, norms: tf.Tensor, number: tf.Tensor) -> Any:
        loss, (norm, applied) = update(k)
        loss, norm = (tf.where(applied, value, 0.0) for value in (loss, norm))
        return k + 1, losses + loss, norms + norm, number + tf.cast(applied, tf.float32)

    totals: Any = 0, tf.zeros(()), tf.zeros(()), tf.zeros(())
    if count > 1 and tf.distribute.get_strategy().num_replicas_in_sync == 1:
        # A loop compiles in the time of one update.
        totals = tf.while_loop(lambda k, *_: k < count, add, totals, maximum_iterations=count)
    else:  # replicas cannot sum their gradients in a TensorFlow loop
        for _ in range(count):
            totals = add(*totals)
    _, loss, norm, number = totals
    applied, number = tf.equal(number, count), tf.maximum(number, 1.0)
    return Updates(loss / number, norm / number, applied)


def shuffled(seed: int, gradient_steps: tf.Tensor, examples: int, epochs: int, count: int) -> tf.Tensor:
    """Draws which of this replica's examples each minibatch holds: int32 [epochs * count, examples // count].

    Each `count` successive examples send one to every minibatch of an epoch, in an order that is drawn for them and the
    epoch. Replicas draw for the global batch, so that a minibatch holds the same examples however many replicas there
    are.

    Args:
      seed: of the agent.
      gradient_steps: int64 [], taken before this one.
      examples: of this replica, a multiple of `count`.
      epochs: passes over the examples.
      count: minibatches of an epoch.
    """
    groups = examples // count
    keys = draws.draw(tf.random.stateless_uniform, seed, gradient_steps, groups, epochs * count, stream=0)
    within = tf.argsort(tf.reshape(keys, (groups, epochs, count)))
    chosen = within + tf.range(0, examples, count)[:, tf.newaxis, tf.newaxis]
    return tf.transpose(tf.reshape(chosen, (groups, epochs * count)))
