"""Dense layers of an ensemble: one for each head, in one product."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class EnsembleDense(tf.keras.layers.Layer):  # type: ignore[misc]
    """As many dense layers as there are heads, each with weights of its own.

    Args:
      units: of each head.
      activation: behind the layer, or "linear".
      initializers: of the kernels, one for each head.
    """

    def __init__(
        self, units: int, activation: str, initializers: Sequence[tf.keras.initializers.Initializer], **more: Any
    ) -> None:
        super().__init__(dtype="float32", **more)
        self._units, self._initializers = units, initializers
        self._activation = tf.keras.activations.get(activation)

    def build(self, input_shape: Any) -> None:
        """Creates kernels float32 [K, n, units] for K heads and n features, and biases of zeros [K, units]."""
        heads, shape = len(self._initializers), (int(input_shape[-1]), self._units)

        def drawn(_: Any, dtype: Any = None, **__: Any) -> tf.Tensor:
            return tf.stack([initializer(shape, dtype) for initializer in self._initializers])

        self.kernel = self.add_weight("kernel", (heads, *shape), initializer=drawn)
        self.bias = self.add_weight("bias", (heads, self._units), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Float32 [B, K, units] of features float32 [B, n], which all heads share, or [B, K, n]."""
        if inputs.shape.rank == 2:
            side_by_side = tf.reshape(tf.transpose(self.kernel, (1, 0, 2)), (inputs.shape[-1], -1))
            linear = tf.reshape(tf.matmul(inputs, side_by_side), (-1, *self.bias.shape))
        else:
            linear = tf.transpose(tf.matmul(tf.transpose(inputs, (1, 0, 2)), self.kernel), (1, 0, 2))
        return self._activation(linear + self.bias)
