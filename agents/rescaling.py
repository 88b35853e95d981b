"""The rescaling of values that R2D2 learns by: pure functions of tensors."""

import tensorflow as tf

_RESCALING = 1e-3


def rescale(value: tf.Tensor) -> tf.Tensor:
    """Value rescaling: h(x) = sign(x)(sqrt(|x| + 1) - 1) + 0.001 x (Pohlen et al. 2018, proposition A.2)."""
    return tf.sign(value) * (tf.sqrt(tf.abs(value) + 1.0) - 1.0) + _RESCALING * value


def unrescale(value: tf.Tensor) -> tf.Tensor:
    """The inverse of `rescale`."""
    root = tf.sqrt(1.0 + 4.0 * _RESCALING * (tf.abs(value) + 1.0 + _RESCALING))
    return tf.sign(value) * (tf.square((root - 1.0) / (2.0 * _RESCALING)) - 1.0)
