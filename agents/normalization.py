"""Normalises float observations by running statistics, which are weights of the network and are saved with it."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

_LONGEST = 1e6
"""Observations that the statistics remember: older ones then fade, and a float32 count stays exact."""
_CLIP = 10.0
_EPSILON = 1e-8


class RunningNormalization(tf.keras.layers.Layer):  # type: ignore[misc]
    """Shifts and scales each feature by the mean and deviation seen in learning so far, and clips at 10 deviations.

    Its statistics are weights that no gradient changes; `observe` moves them (Chan et al. 1983, equation 2.1).

    Args:
      leaf: name of the observation's array that it normalises.
    """

    def __init__(self, leaf: str, **more: Any) -> None:
        super().__init__(dtype="float32", **more)
        self.leaf = leaf

    def build(self, input_shape: Any) -> None:
        """Creates the statistics, of no observation yet: float32, of one observation's shape, and a scalar."""
        shape = tuple(input_shape[1:])
        self.mean = self.add_weight("mean", shape, initializer="zeros", trainable=False)
        self.variance = self.add_weight("variance", shape, initializer="ones", trainable=False)
        self.count = self.add_weight("count", (), initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Float32 [B, ...] of observations float32 [B, ...]; these themselves before the first were seen."""
        scaled = (inputs - self.mean) * tf.math.rsqrt(self.variance + _EPSILON)
        return tf.where(self.count > 0.0, tf.clip_by_value(scaled, -_CLIP, _CLIP), inputs)

    def observe(self, values: tf.Tensor, wanted: tf.Tensor | bool = True) -> None:
        """Takes a batch into the statistics; call it in replica context, with equal shares.

        Args:
          values: float32 [n, ...]; a batch that they would not stay finite with changes nothing.
          wanted: bool [], the same on every replica; false changes nothing.
        """
        mean, square = tf.reduce_mean(values, axis=0), tf.reduce_mean(tf.square(values - self.mean), axis=0)
        replica = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            mean, square = replica.all_reduce(tf.distribute.ReduceOp.MEAN, [mean, square])
        seen = tf.cast(tf.shape(values)[0] * replica.num_replicas_in_sync, tf.float32)
        total = self.count + seen
        difference, share = mean - self.mean, seen / total
        spread = tf.maximum(0.0, square - tf.square(difference))  # of the batch around its own mean
        variance = (1.0 - share) * self.variance + share * spread + share * (1.0 - share) * tf.square(difference)
        taken = wanted & tf.reduce_all(tf.math.is_finite(variance))  # no finite variance goes with an infinite mean
        self.mean.assign_add(tf.where(taken, share * difference, 0.0))
        self.variance.assign(tf.where(taken, variance, self.variance))
        self.count.assign(tf.where(taken, tf.minimum(total, _LONGEST), self.count))


def observe(model: tf.keras.Model, observation: Any, batch_dimensions: int, applied: tf.Tensor) -> None:
    """Takes a batch of observations into the statistics of a model's normalisation layers, if it has any.

    Args:
      model: of `agents.networks`.
      observation: an array or a dict of them, without a mask.
      batch_dimensions: 1 where a batch holds single observations, 2 where it holds windows.
      applied: bool [], whether the batch's update was applied; else the statistics do not change. It is computed first:
        replicas that sum two things in different orders would wait for each other for ever.
    """
    for layer in model.layers:
        if isinstance(layer, RunningNormalization):
            leaf = observation[layer.leaf] if isinstance(observation, Mapping) else observation
            with tf.control_dependencies([applied]):
                layer.observe(tf.identity(tf.reshape(leaf, (-1, *leaf.shape[batch_dimensions:]))), applied)
