"""Q-values over a support that is decided after the network was made."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


class OpenSupport(tf.keras.layers.Layer):  # type: ignore[misc]
    """The means of distributions over points that may move; as weights they go wherever the others go.

    Args:
      points: float32 [N], at first.
      mean: maps logits [B, A, M] and the points to Q-values [B, A].
    """

    def __init__(self, points: NDArray[np.float32], mean: Callable[[tf.Tensor, Any], tf.Tensor], **more: Any) -> None:
        super().__init__(dtype="float32", **more)
        self._first, self._mean = points, mean

    def build(self, input_shape: Any) -> None:
        """Creates the points, which no gradient changes."""
        first = tf.keras.initializers.Constant(self._first)
        self.points = self.add_weight("points", self._first.shape, initializer=first, trainable=False)
        super().build(input_shape)

    def call(self, logits: tf.Tensor) -> tf.Tensor:
        """Q-values [B, A] of logits [B, A, M]."""
        return self._mean(logits, self.points)
