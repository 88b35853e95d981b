"""RMSProp as Mnih et al. 2015 trained DQN with it: centred, and epsilon within the root."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from agents.optimizers import Optimizer, zeros_like


class RmsProp(Optimizer):
    """Divides each gradient by the root of its own variance and an epsilon (Mnih et al. 2015, extended data table 1).

    With g the gradient, m a running mean of g and s one of g^2: w -= learning rate * g / sqrt(s - m^2 + epsilon). The
    paper's "min squared gradient" is epsilon, both its "momentums" are the decay of the running means.

    Args:
      variables: the float32 weights to train.
      learning_rate: see `Optimizer`, as for all further arguments.
      decay: share of a running mean that an update keeps.
      epsilon: added to the variance within the root.
    """

    def __init__(
        self, variables: Sequence[tf.Variable], learning_rate: float, *, decay: float, epsilon: float, **more: Any
    ) -> None:
        super().__init__(variables, learning_rate, **more)
        self._decay, self._epsilon = decay, epsilon
        self.means = [zeros_like(weight, "mean") for weight in variables]
        self.mean_squares = [zeros_like(weight, "mean_square") for weight in variables]

    def _common(self, applied: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (tf.where(applied, 1.0 - self._decay, 0.0),)  # shares of 0 leave the means as they are

    def _slots(self) -> Sequence[Sequence[tf.Variable]]:
        return self.means, self.mean_squares

    def _update(self, weight: tf.Variable, *rest: Any) -> None:
        mean, mean_square, gradient, rate, share = rest
        centre = mean + share * (gradient - mean)
        square = mean_square + share * (tf.square(gradient) - mean_square)
        mean.assign(centre)
        mean_square.assign(square)
        # Rounding may take the variance of a gradient that hardly changes below 0, and beyond a small epsilon.
        variance = tf.maximum(square - tf.square(centre), 0.0)
        weight.assign_sub(rate * gradient * tf.math.rsqrt(variance + self._epsilon))
