"""Adam by TensorFlow's fused kernel, with clipping by global norm and gradients summed over replicas.

Keras' Adam updates each variable by some ten operations. A Q-network of three layers has six small variables, so most
of such an update is overhead; the kernel is one operation a variable, and XLA makes one vector loop of it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from agents.config_fields import Schedule
from agents.losses import clip_by_global_norm, linear_schedule

if TYPE_CHECKING:
    from agents.configs.network import NetworkConfig


class Update(NamedTuple):
    """The result of one update, the same on every replica."""

    norm: tf.Tensor
    """float32 []: the global norm of the summed gradient before clipping."""
    applied: tf.Tensor
    """bool []: whether norm and summed loss were finite; else weights and moments stayed as they were."""


class Optimizer(tf.Module):  # type: ignore[misc]
    """Updates weights by their summed and clipped gradients, with a step size that may move by a schedule.

    A kind of optimizer gives `_update` and, if it keeps something of each weight, `_slots`. Create it in the scope of
    the distribution strategy that trains.

    Args:
      variables: the float32 weights to train.
      learning_rate: step size at the first gradient step.
      learning_rate_final: step size after `decay_steps` gradient steps, reached linearly.
      decay_steps: 0 keeps `learning_rate`.
      clip_norm: largest global norm of a gradient; 0 does not clip.
      clip_value: largest absolute value of each number of it, before its norm is clipped; 0 does not clip.
      weight_decay: kernels lose this share of themselves an update, times the step size, decoupled from the gradient
        and its moments (Loshchilov and Hutter 2019, algorithm 2). Biases, scales and offsets lose nothing.
      schedule: of the step size by the count of updates, in the place of a linear decay.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        learning_rate: float,
        *,
        learning_rate_final: float = 0.0,
        decay_steps: int = 0,
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        weight_decay: float = 0.0,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(type(self).__name__.lower())
        self._weights = tuple(variables)
        self._initial, self._final, self._decay_steps = learning_rate, learning_rate_final, decay_steps
        self._clip_norm, self._clip_value, self._weight_decay = clip_norm, clip_value, weight_decay
        self._schedule = schedule or Schedule()
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self.learning_rate_scale = tf.Variable(1.0, trainable=False, name="learning_rate_scale")
        """float32 []: what the schedule's step size is multiplied by; saved with the moments."""

    def learning_rate(self) -> tf.Tensor:
        """float32 []: the step size of the next update."""
        if not self._schedule.points:
            scheduled = linear_schedule(self._initial, self._final, self._decay_steps, self.updates)
        else:
            from agents.schedules import value_at

            scheduled = value_at(self._schedule, self._initial, self.updates)
        return scheduled * self.learning_rate_scale

    def apply(self, gradients: Sequence[tf.Tensor], loss: tf.Tensor) -> Update:
        """Sums the gradients of all replicas, clips them and updates the weights; call it in replica context.

        An update whose summed loss or gradient norm is not finite changes nothing: weights, moments and the count of
        updates keep their bits. The norm sums squares: it is not finite if any gradient is not, or if a second moment
        would overflow.

        Args:
          gradients: one float32 tensor a variable, of its shape.
          loss: float32 [], this replica's part of the global batch's.
        """
        *gradients, loss = summed_over_replicas([*gradients, loss])
        clipped, norm = clip_by_global_norm(list(gradients), self._clip_norm)
        if bound := self._clip_value:
            limited = [tf.clip_by_value(gradient, -bound, bound) for gradient in gradients]
            clipped, _ = clip_by_global_norm(limited, self._clip_norm)
        applied = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        rate, common = tf.where(applied, self.learning_rate(), 0.0), self._common(applied)
        # Each replica updates its own copies, which stay equal: across replicas it could not in a TensorFlow loop.
        for weight, *slots, gradient in zip(self._weights, *self._slots(), clipped, strict=True):
            if self._weight_decay and is_kernel(weight):
                weight.assign_sub(rate * self._weight_decay * weight)
            self._update(weight, *slots, tf.where(applied, gradient, 0.0), rate, *common)
        self.updates.assign_add(tf.cast(applied, tf.int64))
        return Update(norm, applied)

    def _common(self, applied: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Further arguments of every variable's update; its gradient and step size are 0 if it is not `applied`."""
        del applied
        return ()

    def _slots(self) -> Sequence[Sequence[tf.Variable]]:
        """The optimizer's own variables: sequences with one for each weight."""
        return ()

    def _update(self, weight: tf.Variable, *rest: Any) -> None:
        raise NotImplementedError


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1 in the efficient form of section 2).

    Args:
      variables: the float32 weights to train.
      learning_rate: see `Optimizer`, as for all further arguments.
      epsilon: added to the root of the second moment.
    """

    beta_1 = 0.9
    beta_2 = 0.999

    def __init__(
        self, variables: Sequence[tf.Variable], learning_rate: float, *, epsilon: float = 1e-7, **more: Any
    ) -> None:
        super().__init__(variables, learning_rate, **more)
        self._epsilon = epsilon
        self.first_moments = [zeros_like(weight, "first_moment") for weight in variables]
        self.second_moments = [zeros_like(weight, "second_moment") for weight in variables]

    def _common(self, applied: tf.Tensor) -> tuple[tf.Tensor, ...]:
        count = tf.cast(self.updates, tf.float32) + 1.0
        # With betas of 1 the moments stay as they are. A branch around the kernels would take XLA's vector loops away.
        betas = (tf.where(applied, beta, 1.0) for beta in (self.beta_1, self.beta_2))
        return tf.pow(self.beta_1, count), tf.pow(self.beta_2, count), *betas, tf.constant(self._epsilon)

    def _slots(self) -> Sequence[Sequence[tf.Variable]]:
        return self.first_moments, self.second_moments

    def _update(self, weight: tf.Variable, *rest: Any) -> None:
        first_moment, second_moment, gradient, rate, power_1, power_2, beta_1, beta_2, epsilon = rest
        tf.raw_ops.ResourceApplyAdam(
            var=weight.handle,
            m=first_moment.handle,
            v=second_moment.handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=gradient,
        )


def settings_of(config: "NetworkConfig") -> dict[str, Any]:
    """What `Optimizer` takes beside the variables, from an agent's configuration; for optimizers of your own, too."""
    return {
        "learning_rate": config.learning_rate,
        "learning_rate_final": config.learning_rate_final,
        "decay_steps": config.learning_rate_decay_steps,
        "clip_norm": config.gradient_clip_norm,
        "clip_value": config.gradient_clip_value,
        "weight_decay": config.weight_decay,
        "schedule": config.learning_rate_schedule,
    }


def optimizer_of(variables: Sequence[tf.Variable], config: "NetworkConfig") -> Optimizer:
    """Makes the optimizer of an agent's configuration."""
    if config.optimizer in ("adam", "adamw"):  # AdamW is Adam with decay
        return Adam(variables, epsilon=config.adam_epsilon, **settings_of(config))
    from agents.extensions import optimizer

    return optimizer(variables, config)


def is_kernel(weight: tf.Variable) -> bool:
    """Whether a weight is the matrix of a layer, by its name: no bias, scale, offset, or scale of noise."""
    return str(weight.name).partition(":")[0].endswith("kernel")


def summed_over_replicas(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums each tensor over the replicas; call it in replica context."""
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return tensors
    # In one call: replicas that sum in different orders wait for ever.
    summed: list[tf.Tensor] = replica.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
    return summed


def zeros_like(weight: tf.Variable, name: str) -> tf.Variable:
    """Makes a slot of an optimizer for a weight: zeros of its shape, which no gradient trains."""
    return tf.Variable(tf.zeros_like(weight), trainable=False, name=name)


def gradient_step_counter() -> tf.Variable:
    """Makes the counter of gradient steps, int64 [], which counts once for all replicas."""
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=first, name="gradient_steps")
