"""Adam over one flat vector.

Keras' Adam updates each variable by some ten operations. A Q-network of three layers has six small variables, so most
of an update's time is overhead; over one vector of all weights the same arithmetic is one fused loop, and gradients of
several replicas are summed in one collective.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from agents.losses import clip_by_global_norm


class Adam(tf.Module):  # type: ignore[misc]
    """Adam (Kingma and Ba 2015, algorithm 1 in the efficient form of section 2), with clipping by global norm.

    Create it in the scope of the distribution strategy that trains.

    Args:
      variables: the float32 weights to train.
      learning_rate: step size at the first gradient step.
      learning_rate_final: step size after `decay_steps` gradient steps, reached linearly.
      decay_steps: 0 keeps `learning_rate`.
      epsilon: added to the root of the second moment.
      clip_norm: largest global norm of a gradient; 0 does not clip.
    """

    beta_1 = 0.9
    beta_2 = 0.999

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        learning_rate: float,
        *,
        learning_rate_final: float = 0.0,
        decay_steps: int = 0,
        epsilon: float = 1e-7,
        clip_norm: float = 0.0,
    ) -> None:
        super().__init__("flat_adam")
        self._weights = tuple(variables)
        self._sizes = [int(variable.shape.num_elements()) for variable in variables]
        self._initial, self._final, self._decay_steps = learning_rate, learning_rate_final, decay_steps
        self._epsilon, self._clip_norm = epsilon, clip_norm
        self.first_moment = tf.Variable(tf.zeros(sum(self._sizes)), trainable=False, name="first_moment")
        self.second_moment = tf.Variable(tf.zeros(sum(self._sizes)), trainable=False, name="second_moment")
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")

    def learning_rate(self) -> tf.Tensor:
        """float32 []: the step size of the next update."""
        if not self._decay_steps:
            return tf.constant(self._initial)
        passed = tf.minimum(tf.cast(self.updates, tf.float32) / self._decay_steps, 1.0)
        return self._initial + passed * (self._final - self._initial)

    def apply(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Sums the gradients of all replicas, clips them and updates the weights; call it in replica context.

        Args:
          gradients: one float32 tensor a variable, of its shape.

        Returns:
          float32 []: the global norm of the summed gradient before clipping.
        """
        replica = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
        # Scaled and joined in one pass: XLA would compute a vector joined before again for each of its uses.
        clipped, norm = clip_by_global_norm(list(gradients), self._clip_norm)
        flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in clipped], axis=0)
        replica.merge_call(self._update_replicas, args=(flat,))
        return norm

    def _update_replicas(self, strategy: tf.distribute.Strategy, gradient: Any) -> None:
        rest = (self.second_moment, self.updates, gradient, self._weights)
        strategy.extended.update(self.first_moment, self._update, args=rest, group=True)

    def _update(
        self,
        first_moment: tf.Variable,
        second_moment: tf.Variable,
        updates: tf.Variable,
        gradient: tf.Tensor,
        weights: Sequence[tf.Variable],
    ) -> None:
        rate = self.learning_rate()
        count = tf.cast(updates.assign_add(1), tf.float32)
        correction = tf.sqrt(1.0 - tf.pow(self.beta_2, count)) / (1.0 - tf.pow(self.beta_1, count))
        first = first_moment.assign_add((1.0 - self.beta_1) * (gradient - first_moment))
        second = second_moment.assign_add((1.0 - self.beta_2) * (tf.square(gradient) - second_moment))
        change = rate * correction * first / (tf.sqrt(second) + self._epsilon)
        for weight, part in zip(weights, tf.split(change, self._sizes), strict=True):
            weight.assign_sub(tf.reshape(part, weight.shape))
