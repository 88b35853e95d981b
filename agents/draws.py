"""Draws a gradient step's random numbers: the same in every form of the loop and on any number of replicas."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_STREAMS = 8
"""Random draws with numbers of their own in one gradient step."""


def draw(
    distribution: Callable[..., tf.Tensor], seed: int, gradient_steps: tf.Tensor, batch: Any, width: int, stream: int
) -> tf.Tensor:
    """Draws random numbers float32 [batch, width] for this replica's part of a batch; call it in replica context.

    They are drawn for the global batch, of which a replica takes its part, so that a replica count changes nothing.
    XLA's numbers of a seed are others than TensorFlow's, so both forms of the loop draw by XLA.

    Args:
      distribution: such as `tf.random.stateless_uniform`.
      seed: of the agent.
      gradient_steps: int64 [], taken before this one.
      batch: examples of this replica.
      width: numbers an example.
      stream: which of the gradient step's draws this is, from 0 to 7.
    """
    context = tf.distribute.get_replica_context()
    both = [seed % 2**20 * _STREAMS + stream, tf.cast(gradient_steps % 2**31, tf.int32)]
    drawn = _drawn(distribution, (batch * context.num_replicas_in_sync, width), tf.stack(both))
    if context.num_replicas_in_sync == 1:
        return drawn
    start = tf.cast(context.replica_id_in_sync_group, tf.int32) * batch
    return drawn[start : start + batch]


@tf.function(jit_compile=True, autograph=False)  # type: ignore[misc]
def _drawn(distribution: Callable[..., tf.Tensor], shape: Any, seed: tf.Tensor) -> tf.Tensor:
    return distribution(shape, seed, alg="philox")
