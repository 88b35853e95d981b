"""Spectral normalisation (Miyato et al. 2018): layers whose kernel is divided by its largest singular value.

The singular vector is a weight of the network that no gradient changes: it is copied to the target network, published,
saved and exported with the kernel, and the layer's output is a function of both. So whatever runs the layer runs the
normalised kernel, and nothing but `follow`, once an update, moves the vector.
"""

from typing import Any

import tensorflow as tf

from agents.initializers import Seeds

_FIRST_ITERATIONS = 15
_LEAST_NORM = 1e-12


def largest_singular_value(matrix: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
    """The estimate u' W v of a matrix's largest singular value, float32 [] (Miyato et al. 2018, equation 19).

    v is W' u at length 1. Its gradient is u v', as both count as constants (equation 12).

    Args:
      matrix: W, float32 [m, n].
      left: u, float32 [m], of length 1.
    """
    right = _unit(tf.linalg.matvec(tf.stop_gradient(matrix), left, transpose_a=True))
    return tf.tensordot(left, tf.linalg.matvec(matrix, tf.stop_gradient(right)), 1)


def next_left(matrix: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
    """One power iteration, u <- W W' u at length 1 (Miyato et al. 2018, algorithm 1): float32 [m]."""
    right = _unit(tf.linalg.matvec(matrix, left, transpose_a=True))
    return _unit(tf.linalg.matvec(matrix, right))


def _unit(vector: tf.Tensor) -> tf.Tensor:
    return vector / tf.maximum(tf.norm(vector), _LEAST_NORM)


class SpectralLayer(tf.keras.layers.Layer):  # type: ignore[misc]
    """The base of layers with a normalised kernel; a convolution's is taken as a matrix of its units' columns.

    Args:
      seeds: of the initial kernel and vector.
      activation: behind the layer, or "linear".
    """

    def __init__(self, seeds: Seeds, activation: str, **more: Any) -> None:
        super().__init__(activation=activation, kernel_initializer=seeds.he_uniform(), dtype="float32", **more)
        self._first = seeds.unit_normal()

    def build(self, input_shape: Any) -> None:
        """Creates kernel, bias, and the vector, which some power iterations have brought near the singular one."""
        super().build(input_shape)
        columns = int(self.kernel.shape[-1])
        with tf.init_scope():
            left = _unit(self._first((columns,)))
            for _ in range(_FIRST_ITERATIONS):
                left = next_left(self.matrix(), left)
            left = left.numpy()
        self.singular_vector = self.add_weight(
            "singular_vector", (columns,), initializer=tf.keras.initializers.Constant(left), trainable=False
        )

    def matrix(self) -> tf.Tensor:
        """The kernel as a matrix, float32 [units, inputs]."""
        return tf.transpose(tf.reshape(self.kernel, (-1, self.kernel.shape[-1])))

    def normalised(self) -> tf.Tensor:
        """The kernel over its largest singular value."""
        return self.kernel / tf.maximum(largest_singular_value(self.matrix(), self.singular_vector), _LEAST_NORM)

    def follow(self, applied: tf.Tensor) -> None:
        """Takes one power iteration where an update was applied, bool []: else the vector keeps its bits."""
        following = next_left(self.matrix(), self.singular_vector)
        self.singular_vector.assign(tf.where(applied, following, self.singular_vector))


class SpectralDense(SpectralLayer, tf.keras.layers.Dense):  # type: ignore[misc]
    """A dense layer whose product can lengthen no difference of two inputs."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Float32 [B, units] of features float32 [B, n]."""
        return self.activation(tf.matmul(inputs, self.normalised()) + self.bias)


class SpectralConv2D(SpectralLayer, tf.keras.layers.Conv2D):  # type: ignore[misc]
    """A convolution whose kernel, as a matrix, has a largest singular value of 1."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Float32 [B, height, width, filters] of images float32 [B, height, width, channels]."""
        image = tf.nn.conv2d(inputs, self.normalised(), self.strides, self.padding.upper())
        return self.activation(image + self.bias)


def follow(network: tf.Module, applied: tf.Tensor) -> None:
    """Has every normalised layer of a network follow an update; call it in replica context.

    Replicas have the same kernels and vectors, and so the same ones afterwards: nothing is summed.

    Args:
      network: whose layers they are.
      applied: bool [], whether the update changed the weights.
    """
    for layer in network.submodules:
        if isinstance(layer, SpectralLayer):
            with tf.control_dependencies([applied]):
                layer.follow(applied)
