"""Q(lambda): returns that mix bootstraps after every number of steps. Pure functions of tensors."""

import tensorflow as tf

from agents import policy_losses
from agents.losses import masked_q


def q_lambda_returns(
    step_type: tf.Tensor,
    reward: tf.Tensor,
    discount: tf.Tensor,
    q: tf.Tensor,
    mask: tf.Tensor | None,
    gamma: float,
    q_lambda: float,
) -> tf.Tensor:
    """Computes Peng's Q(lambda) returns within windows of T frames (Gallici et al. 2024, section 4.1).

    G_t = r_t + gamma (lambda G_{t+1} + (1 - lambda) max_a Q(s_{t+1}, a)), as Peng and Williams 1994 have it and Daley
    and Amato 2019 (equation 4) compute it backwards: nothing is cut where an action was not the greedy one. At an
    episode's LAST frame and at the window's last, G is max_a Q: they are bootstrapped from. A termination has put 0
    into the discount before.

    Args:
      step_type: int32 [B, T], of TF-Agents' `StepType`.
      reward: float32 [B, T].
      discount: float32 [B, T], 0 where the step terminated the episode, else 1.
      q: float32 [B, T, A], of each frame's state; [B, T, D, n] of actions of several dimensions, whose maxima's mean
        then stands for the maximum (Tavakoli et al. 2018, equation 6).
      mask: bool, as `q`, whose maximum is over what is allowed; None allows all.
      gamma: the discount of one step.
      q_lambda: lambda.

    Returns:
      float32 [B, T - 1], of all frames but the last; where a frame is an episode's end it means nothing.
    """
    value = tf.reduce_max(masked_q(q, mask), axis=-1)
    if value.shape.rank > 2:
        value = tf.reduce_sum(value / value.shape[2], axis=2)  # two lowest floats would add up to -inf
    # With max_a Q for V, an advantage and its V are this return (Schulman et al. 2016, equation 16).
    advantage = policy_losses.generalised_advantages(step_type, reward, discount, value, gamma, q_lambda)
    return advantage + value[:, :-1]
