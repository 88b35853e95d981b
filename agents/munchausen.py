"""Munchausen's targets: the log-policy in the reward, and a soft bootstrap, of values, quantiles or atoms.

Vieillard et al. 2020. Pure functions of tensors; shapes and subscripts are those of `agents.losses`. The policy is the
softmax of the target network's Q-values over the allowed actions. M, N: numbers of atoms or quantiles.
"""

from typing import Any

import tensorflow as tf

from agents.configs.value import MunchausenConfig
from agents.losses import masked_q
from agents.policy_losses import log_probability, soft_policy
from agents.td_agent import NStepTransitions


def temperature_at(config: MunchausenConfig, count: tf.Tensor) -> Any:
    """Tau after a count of gradient steps: as configured, or by its schedule, float32 []."""
    if not config.munchausen_temperature_schedule.points:
        return config.munchausen_temperature
    from agents import schedules

    return schedules.temperature(config, count)


def bonus(
    q_tm1: tf.Tensor, mask_tm1: tf.Tensor | None, action: tf.Tensor, config: MunchausenConfig, temperature: Any
) -> tf.Tensor:
    """The bonus that is added to the reward: scale * clip(temperature * log pi(a|s), floor, 0), float32 [B].

    Equations 3 and 4; `q_tm1` [B, A] is the target network's. With n-step returns the first action's alone is added, as
    M-IQN does there.
    """
    _, log_policy = soft_policy(q_tm1, mask_tm1, temperature)
    taken = log_probability(log_policy, action)
    return config.munchausen_scale * tf.clip_by_value(taken, config.munchausen_floor, 0.0)


def soft_value(q_t: tf.Tensor, mask_t: tf.Tensor | None, temperature: Any) -> tf.Tensor:
    """M-DQN's value: sum_a pi(a|s) (q - temperature * log pi(a|s)), float32 [B] (equation 2)."""
    policy, log_policy = soft_policy(q_t, mask_t, temperature)
    entropy_regularised = policy * (masked_q(q_t, mask_t) - log_policy)
    return tf.reduce_sum(tf.where(policy > 0.0, entropy_regularised, 0.0), axis=1)


def target(
    batch: NStepTransitions, q_tm1: tf.Tensor, q_t: tf.Tensor, config: MunchausenConfig, count: tf.Tensor
) -> tf.Tensor:
    """M-DQN's target of each n-step transition, float32 [B], after a count of gradient steps.

    `q_tm1` and `q_t` [B, A] are the target network's.
    """
    tau = temperature_at(config, count)
    reward = batch.folded.reward + bonus(q_tm1, batch.mask_tm1, batch.action, config, tau)
    return reward + batch.folded.discount * soft_value(q_t, batch.mask_t, tau)


def soft_quantiles(quantiles_t: tf.Tensor, q_t: tf.Tensor, mask_t: tf.Tensor | None, temperature: Any) -> tf.Tensor:
    """M-IQN's quantiles: sum_a pi(a|s) (quantile - temperature * log pi(a|s)), float32 [B, N] (appendix B.1).

    Args:
      quantiles_t: float32 [B, A, N], of each action at the same fractions.
      q_t: float32 [B, A], whose softmax is the policy.
      mask_t: bool [B, A], or None.
      temperature: tau.
    """
    policy, log_policy = (part[:, :, tf.newaxis] for part in _finite_policy(q_t, mask_t, temperature))
    return tf.reduce_sum(tf.where(policy > 0.0, policy * (quantiles_t - log_policy), 0.0), axis=1)


def soft_atoms(
    support: tf.Tensor, probabilities_t: tf.Tensor, mask_t: tf.Tensor | None, temperature: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """The mixture of the actions' distributions by the policy, each shifted by -temperature * log pi(a|s).

    Its mean is `soft_value`'s: what the return of an action drawn from the policy, and its bonus, are distributed as.

    Args:
      support: float32 [M].
      probabilities_t: float32 [B, A, M], of each action.
      mask_t: bool [B, A], or None.
      temperature: tau.

    Returns:
      Atoms and their probabilities, float32 [B, A * M] each, for `distributional_losses.project`.
    """
    policy, log_policy = _finite_policy(tf.reduce_sum(probabilities_t * support, axis=2), mask_t, temperature)
    atoms = support - log_policy[:, :, tf.newaxis]
    rows = tf.shape(policy)[0], support.shape[0] * policy.shape[1]
    return tf.reshape(atoms, rows), tf.reshape(policy[:, :, tf.newaxis] * probabilities_t, rows)


def _finite_policy(q: tf.Tensor, mask: tf.Tensor | None, temperature: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """`soft_policy`, but a scaled logarithm of 0 where an action is forbidden, which may be all of a last frame's."""
    policy, log_policy = soft_policy(q, mask, temperature)
    return policy, log_policy if mask is None else tf.where(tf.cast(mask, tf.bool), log_policy, 0.0)
