"""The mathematics of policies: softmax policies and policy gradients.

Pure functions of tensors; shapes and subscripts are those of `agents.losses`.
"""

import tensorflow as tf
from tf_agents.trajectories import StepType

from agents.losses import masked_q


def soft_policy(q: tf.Tensor, mask: tf.Tensor | None, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Softmax(q / temperature) over the allowed actions, and temperature times its logarithm: float32 [B, A] each.

    The scaled logarithm is computed as q - max - temperature * logsumexp (Vieillard et al. 2020, appendix B.1), which
    does not overflow; it is the lowest float where an action is forbidden.
    """
    q = masked_q(q, mask)
    centered = q - tf.reduce_max(q, axis=1, keepdims=True)
    log_policy = centered - temperature * tf.reduce_logsumexp(centered / temperature, axis=1, keepdims=True)
    return tf.nn.softmax(centered / temperature, axis=1), masked_q(log_policy, mask)


def log_probability(log_policy: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Log-probabilities [B] of the actions int [B], from `soft_policy`'s [B, A]; the lowest float where forbidden."""
    taken = tf.one_hot(action, log_policy.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.reduce_sum(tf.where(taken, log_policy, 0.0), axis=1)


def entropy(policy: tf.Tensor, log_policy: tf.Tensor) -> tf.Tensor:
    """Entropy of a policy in nats, - sum over actions of pi log pi, float32 [B]; temperature 1 in `soft_policy`."""
    return -tf.reduce_sum(tf.where(policy > 0.0, policy * log_policy, 0.0), axis=1)


def clipped_surrogate(ratio: tf.Tensor, advantage: tf.Tensor, clip_ratio: float) -> tf.Tensor:
    """PPO's objective of each frame: min(r A, clip(r, 1 - epsilon, 1 + epsilon) A) (Schulman et al. 2017, eq. 7)."""
    clipped = tf.clip_by_value(ratio, 1.0 - clip_ratio, 1.0 + clip_ratio)
    return tf.minimum(ratio * advantage, clipped * advantage)


def generalised_advantages(
    step_type: tf.Tensor, reward: tf.Tensor, discount: tf.Tensor, value: tf.Tensor, gamma: float, gae_lambda: float
) -> tf.Tensor:
    """Estimates generalised advantages within windows of T frames (Schulman et al. 2016, equation 16).

    A_t = delta_t + gamma lambda A_{t+1} with delta_t = r_t + gamma V_{t+1} - V_t, cut at an episode's LAST frame and at
    the window's: it bootstraps there, but for a termination, which has put 0 into the discount before. With lambda = 1,
    A_t + V_t is the return; with values of 0 too, it is the sum of the rewards alone.

    Args:
      step_type: int32 [B, T], of TF-Agents' `StepType`.
      reward: float32 [B, T].
      discount: float32 [B, T], 0 where the step terminated the episode, else 1.
      value: float32 [B, T], of each frame's state.
      gamma: the discount of one step.
      gae_lambda: lambda.

    Returns:
      float32 [B, T - 1], of all frames but the last; 0 where a frame is an episode's end.
    """
    not_last = tf.cast(tf.not_equal(step_type[:, :-1], StepType.LAST), tf.float32)
    decay = gamma * not_last * discount[:, :-1]
    total = not_last * (reward[:, :-1] - value[:, :-1]) + decay * value[:, 1:]
    decay, frames = gae_lambda * decay, reward.shape[1] - 1
    # The sum over s of delta_{t+s} times the decays before it, by doubling: after k rounds it has its first 2^k terms.
    for shift in (2**k for k in range((frames - 1).bit_length())):
        total += decay * tf.pad(total[:, shift:], ((0, 0), (0, shift)))
        decay *= tf.pad(decay[:, shift:], ((0, 0), (0, shift)))
    return total


def ends_within(step_type: tf.Tensor) -> tf.Tensor:
    """Whether the episode of each frame but the last ends at a later frame of its window: bool [B, T - 1] of [B, T]."""
    last = tf.cast(tf.equal(step_type[:, 1:], StepType.LAST), tf.int32)
    return tf.cumsum(last, axis=1, reverse=True) > 0
