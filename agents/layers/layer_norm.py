"""Layer normalisation (Ba et al. 2016): each example's features are shifted and scaled by their own statistics."""

from typing import Any

import tensorflow as tf

_EPSILON = 1e-6


class LayerNorm(tf.keras.layers.Layer):  # type: ignore[misc]
    """Normalises each example's features, then scales and shifts them by learned weights (equation 4).

    The features are the last axis: units of a dense layer, and the channels of each pixel of a convolution (as in PQN,
    Gallici et al. 2024). XLA's sums over the last axis are scalar loops on a CPU; sums as products with a column of 1/n
    take half the time. Keras' own layer calls the kernel of batch normalisation.
    """

    def __init__(self) -> None:
        super().__init__(dtype="float32")

    def build(self, input_shape: Any) -> None:
        """Creates the scale, ones, and the offset, zeros: float32 [n] for n features."""
        n = int(input_shape[-1])
        self.gain = self.add_weight("gain", (n,), initializer="ones")
        self.offset = self.add_weight("offset", (n,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Float32 [..., n] of features float32 [..., n]."""
        n = inputs.shape[-1]
        rows = inputs if inputs.shape.rank == 2 else tf.reshape(inputs, (-1, n))
        mean_of = tf.fill((n, 1), 1.0 / n)
        centered = rows - tf.matmul(rows, mean_of)
        variance = tf.matmul(tf.square(centered), mean_of)
        scaled = centered * tf.math.rsqrt(variance + _EPSILON) * self.gain + self.offset
        return scaled if inputs.shape.rank == 2 else tf.reshape(scaled, (-1, *inputs.shape[1:]))
