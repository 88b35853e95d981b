"""The mathematics of learning values: pure functions of tensors.

Shapes: B batch, T frames of a window, A actions. Subscripts follow rlax: `q_tm1` belongs to the state where the
action was taken, `r_t`, `discount_t` and `q_t` to what followed.
"""

from typing import Any, NamedTuple

import tensorflow as tf
from tf_agents.trajectories import StepType

from agents.configs.value import WindowConfig


class NStepReturn(NamedTuple):
    """What follows the first frame of a window, folded into one n-step transition."""

    reward: tf.Tensor
    """float32 [B]: the discounted sum of the rewards up to the bootstrap frame."""
    discount: tf.Tensor
    """float32 [B]: what the bootstrap value is multiplied by, gamma to the steps taken; 0 after a termination."""
    bootstrap_index: tf.Tensor
    """int32 [B]: the frame to bootstrap from, in [0, T-1]; 0 where the window starts at an episode's end."""
    valid: tf.Tensor
    """bool [B]: false where the first frame is an episode's end, so that no n-step transition starts there."""


def n_step_return(
    step_type: tf.Tensor, reward: tf.Tensor, discount: tf.Tensor, gamma: Any, n: tf.Tensor | None = None
) -> NStepReturn:
    """Folds windows of T frames into n-step transitions, n = T - 1 (Sutton and Barto 2018, equation 7.1).

    Frame t holds the reward and discount of the step taken from it. The fold stops at the first LAST frame and
    bootstraps there: a termination has put 0 into the discount before it, a truncation has left it 1.

    Args:
      step_type: int32 [B, T], of TF-Agents' `StepType`.
      reward: float32 [B, T].
      discount: float32 [B, T], 0 where the step terminated the episode, else 1.
      gamma: the discount of one step, float32 [].
      n: int32 [], 1 to T - 1, where fewer steps than the window holds are folded.
    """
    steps = step_type.shape[1] - 1
    not_last = tf.not_equal(step_type, StepType.LAST)
    taken = tf.ones_like(reward[:, 0])  # 1 while no boundary has been met: this step is part of the return
    total = tf.zeros_like(taken)
    product = tf.ones_like(taken)
    count = tf.zeros_like(taken)
    for k in range(steps):
        taken *= tf.cast(not_last[:, k] if n is None else not_last[:, k] & (k < n), tf.float32)
        total += taken * product * reward[:, k]
        product *= 1.0 + taken * (gamma * discount[:, k] - 1.0)
        count += taken
    return NStepReturn(total, product, tf.cast(count, tf.int32), not_last[:, 0])


def horizon(config: WindowConfig, count: tf.Tensor) -> tuple[Any, tf.Tensor | None]:
    """Gamma and n after a count of gradient steps, for `n_step_return`: as configured, or by their schedules."""
    gamma = discount_at(config, count)
    if not config.n_step_schedule.points:
        return gamma, None
    from agents import schedules

    return gamma, schedules.n_step(config, count)


def discount_at(config: Any, count: tf.Tensor) -> Any:
    """Gamma after a count of gradient steps: as a kind's configuration has it, or by its schedule, float32 []."""
    if not config.discount_schedule.points:
        return config.discount
    from agents import schedules

    return schedules.value_at(config.discount_schedule, config.discount, count, of_horizon=True)


def masked_q(q: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Puts the lowest float into Q-values [B, A] where `mask` (bool or 0/1, [B, A]) forbids an action."""
    return q if mask is None else tf.where(tf.cast(mask, tf.bool), q, q.dtype.min)


def allowed_where(mask: tf.Tensor | None, valid: tf.Tensor) -> tf.Tensor | None:
    """Bool [B, A]: what `mask` [B, A] allows in the rows that are `valid`, bool [B]; None without a mask."""
    return None if mask is None else tf.logical_and(tf.cast(mask, tf.bool), valid[:, tf.newaxis])


def mean_elsewhere(values: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """Puts the mean of the values [B] that are `counted`, bool [B], in the place of the others; 0 if none is."""
    number = tf.maximum(tf.reduce_sum(tf.cast(counted, values.dtype)), 1.0)
    return tf.where(counted, values, tf.reduce_sum(tf.where(counted, values, 0.0)) / number)


def action_value(q: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Selects the Q-values [B] of the actions int [B] from those of all actions [B, A]."""
    # A sum over a one-hot product compiles to straight vector code; a gather does not.
    return tf.reduce_sum(q * tf.one_hot(action, q.shape[1], dtype=q.dtype), axis=1)


def bootstrap_value(q_t: tf.Tensor, selector_t: tf.Tensor, mask_t: tf.Tensor | None) -> tf.Tensor:
    """The value to bootstrap from: `q_t` at the best allowed action of `selector_t`.

    With the target network's Q-values in both it is DQN's max (Mnih et al. 2015, equation 2); with the online network's
    as selector it is Double DQN's (van Hasselt et al. 2016, equation 4).

    Args:
      q_t: float32 [B, A], evaluates.
      selector_t: float32 [B, A], selects.
      mask_t: [B, A], true or 1 where an action is allowed; None allows all.

    Returns:
      float32 [B].
    """
    return action_value(q_t, tf.argmax(masked_q(selector_t, mask_t), axis=1, output_type=tf.int32))


def conservative_penalty(q: tf.Tensor, mask: tf.Tensor | None, action: tf.Tensor) -> tf.Tensor:
    """CQL's penalty (Kumar et al. 2020, equation 4): log sum_a exp(q) less q of the action in the data, float32 [B]."""
    return tf.reduce_logsumexp(masked_q(q, mask), axis=1) - action_value(q, action)


def elementwise_loss(td_error: tf.Tensor, kind: str) -> tf.Tensor:
    """Huber loss with delta 1 ("huber") or half the square ("mse") of each TD error: float32 [B]."""
    squared = 0.5 * tf.square(td_error)
    if kind == "mse":
        return squared
    absolute = tf.abs(td_error)
    return tf.where(absolute <= 1.0, squared, absolute - 0.5)


def clip_reward(reward: tf.Tensor, bound: float) -> tf.Tensor:
    """Clips rewards to [-bound, bound]; 0 does not clip."""
    return tf.clip_by_value(reward, -bound, bound) if bound else reward


def linear_schedule(initial: float, final: float, decay_steps: int, count: tf.Tensor) -> tf.Tensor:
    """Linear change from `initial` to `final` in the first `decay_steps` of a count, float32 []; 0 steps: constant."""
    if not decay_steps:
        return tf.constant(initial)
    return initial + tf.minimum(tf.cast(count, tf.float32) / decay_steps, 1.0) * (final - initial)


def clip_by_global_norm(gradients: list[tf.Tensor], largest: float) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Scales gradients down to a global norm of at most `largest` (0: any); returns them and the norm before."""
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
    if not largest:
        return gradients, norm
    scale = largest / tf.maximum(norm, largest)
    return [gradient * scale for gradient in gradients], norm
