"""RAdam, by the kernel of Adam; imported where a kind is to warm up by it."""

import math
from typing import Any

import tensorflow as tf

from agents.optimizers import Adam

_WITHOUT_SECOND_MOMENT = 1e20
"""An epsilon beside which the root of a second moment is nothing: of gradients up to 1e12."""


class RAdam(Adam):
    """Rectified Adam (Liu et al. 2020, algorithm 2): the step size warms up as the second moment becomes reliable.

    Its first four updates, whose second moment says too little, are of the first moment alone.
    """

    def _common(self, applied: tf.Tensor) -> tuple[tf.Tensor, ...]:
        *common, epsilon = super()._common(applied)
        rectification = radam_rectification(self.updates + 1, self.beta_2)
        adapts = rectification > 0.0
        # The same kernel serves both: a large epsilon takes the second moment away, and the scale the epsilon.
        plain = _WITHOUT_SECOND_MOMENT / tf.sqrt(1.0 - common[1])
        scale = tf.where(adapts, rectification, plain)
        return *common, tf.where(adapts, epsilon, _WITHOUT_SECOND_MOMENT), scale

    def _update(self, weight: tf.Variable, *rest: Any) -> None:
        first_moment, second_moment, gradient, rate, *common, scale = rest
        super()._update(weight, first_moment, second_moment, gradient, rate * scale, *common)


def radam_rectification(update: tf.Tensor, beta_2: float) -> tf.Tensor:
    """The factor r_t of RAdam's step size (Liu et al. 2020, algorithm 2): float32 [], 0 while rho_t is at most 4.

    Args:
      update: t, int64 [], from 1.
      beta_2: decay of the second moment.
    """
    count, longest = tf.cast(update, tf.float32), 2.0 / (1.0 - beta_2) - 1.0
    decayed = count * math.log(beta_2)
    # expm1: rho_t is a small difference of large numbers at first.
    length = longest + 2.0 * count * tf.exp(decayed) / tf.math.expm1(decayed)
    share = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
    return tf.where(length > 4.0, tf.sqrt(tf.maximum(share, 0.0)), 0.0)
