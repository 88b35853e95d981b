"""The mathematics of the agents: pure functions of tensors.

Shapes: B batch, T frames of a window, A actions. Subscripts follow rlax: `q_tm1` belongs to the state where the
action was taken, `r_t`, `discount_t` and `q_t` to what followed.
"""

from typing import NamedTuple

import tensorflow as tf
from tf_agents.trajectories import StepType


class NStepReturn(NamedTuple):
    """What follows the first frame of a window, folded into one transition."""

    reward: tf.Tensor
    """float32 [B]: the discounted sum of the rewards up to the bootstrap frame."""
    discount: tf.Tensor
    """float32 [B]: what the bootstrap value is multiplied by, gamma to the steps taken; 0 after a termination."""
    bootstrap_index: tf.Tensor
    """int32 [B]: the frame to bootstrap from, in [0, T-1]; 0 where the window starts at an episode's end."""
    valid: tf.Tensor
    """bool [B]: false where the first frame is an episode's end, so that no transition starts there."""


def n_step_return(step_type: tf.Tensor, reward: tf.Tensor, discount: tf.Tensor, gamma: float) -> NStepReturn:
    """Folds windows of T frames into transitions of at most n = T - 1 steps (Sutton and Barto 2018, equation 7.1).

    Frame t holds the reward and discount of the step taken from it. The fold stops at the first LAST frame and
    bootstraps there: a termination has put 0 into the discount before it, a truncation has left it 1.

    Args:
      step_type: int32 [B, T], of TF-Agents' `StepType`.
      reward: float32 [B, T].
      discount: float32 [B, T], 0 where the step terminated the episode, else 1.
      gamma: the discount of one step.
    """
    steps = step_type.shape[1] - 1
    not_last = tf.not_equal(step_type, StepType.LAST)
    taken = tf.ones_like(reward[:, 0])  # 1 while no boundary has been met: this step is part of the return
    total = tf.zeros_like(taken)
    product = tf.ones_like(taken)
    count = tf.zeros_like(taken)
    for k in range(steps):
        taken *= tf.cast(not_last[:, k], tf.float32)
        total += taken * product * reward[:, k]
        product *= 1.0 + taken * (gamma * discount[:, k] - 1.0)
        count += taken
    return NStepReturn(total, product, tf.cast(count, tf.int32), not_last[:, 0])


def masked_q(q: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Q-values [B, A] with the lowest float where `mask` (bool or 0/1, [B, A]) forbids an action."""
    return q if mask is None else tf.where(tf.cast(mask, tf.bool), q, q.dtype.min)


def action_value(q: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Q-values [B, A] of the actions int [B]: [B]."""
    # A sum over a one-hot product compiles to straight vector code; a gather does not.
    return tf.reduce_sum(q * tf.one_hot(action, q.shape[1], dtype=q.dtype), axis=1)


def of_action(values: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Numbers [B, A, M] of the actions int [B]: [B, M]."""
    return tf.reduce_sum(values * tf.one_hot(action, values.shape[1], dtype=values.dtype)[:, :, tf.newaxis], axis=1)


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


def soft_policy(q: tf.Tensor, mask: tf.Tensor | None, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Softmax(q / temperature) over the allowed actions, and temperature times its logarithm: float32 [B, A] each.

    The scaled logarithm is computed as q - max - temperature * logsumexp (Vieillard et al. 2020, appendix B.1), which
    does not overflow; it is the lowest float where an action is forbidden.
    """
    q = masked_q(q, mask)
    centered = q - tf.reduce_max(q, axis=1, keepdims=True)
    log_policy = centered - temperature * tf.reduce_logsumexp(centered / temperature, axis=1, keepdims=True)
    return tf.nn.softmax(centered / temperature, axis=1), masked_q(log_policy, mask)


def munchausen_bonus(
    q_tm1: tf.Tensor, mask_tm1: tf.Tensor | None, action: tf.Tensor, scale: float, temperature: float, floor: float
) -> tf.Tensor:
    """What M-DQN adds to the reward: scale * clip(temperature * log pi(a|s), floor, 0), float32 [B].

    Vieillard et al. 2020, equations 3 and 4; `q_tm1` [B, A] is the target network's. With n-step returns the first
    action's alone is added, as M-IQN does there.
    """
    _, log_policy = soft_policy(q_tm1, mask_tm1, temperature)
    taken = tf.gather(log_policy, action, axis=1, batch_dims=1)  # the product of a one-hot with the lowest float is not
    return scale * tf.clip_by_value(taken, floor, 0.0)


def soft_bootstrap_value(q_t: tf.Tensor, mask_t: tf.Tensor | None, temperature: float) -> tf.Tensor:
    """Sum over actions of pi(a|s) (q - temperature * log pi(a|s)), float32 [B] (Vieillard et al. 2020, equation 2)."""
    policy, log_policy = soft_policy(q_t, mask_t, temperature)
    entropy_regularised = policy * (masked_q(q_t, mask_t) - log_policy)
    return tf.reduce_sum(tf.where(policy > 0.0, entropy_regularised, 0.0), axis=1)


def log_probability(log_policy: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Of the actions int [B] by a policy's logarithm [B, A] of `soft_policy`: [B]; the lowest float where forbidden."""
    taken = tf.one_hot(action, log_policy.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.reduce_sum(tf.where(taken, log_policy, 0.0), axis=1)


def entropy(policy: tf.Tensor, log_policy: tf.Tensor) -> tf.Tensor:
    """- sum over actions of pi log pi, in nats, of `soft_policy` with temperature 1: float32 [B]."""
    return -tf.reduce_sum(tf.where(policy > 0.0, policy * log_policy, 0.0), axis=1)


def clipped_surrogate(ratio: tf.Tensor, advantage: tf.Tensor, clip_ratio: float) -> tf.Tensor:
    """min(r A, clip(r, 1 - epsilon, 1 + epsilon) A) of each frame, to be raised (Schulman et al. 2017, equation 7)."""
    clipped = tf.clip_by_value(ratio, 1.0 - clip_ratio, 1.0 + clip_ratio)
    return tf.minimum(ratio * advantage, clipped * advantage)


def generalised_advantages(
    step_type: tf.Tensor, reward: tf.Tensor, discount: tf.Tensor, value: tf.Tensor, gamma: float, gae_lambda: float
) -> tf.Tensor:
    """Generalised advantage estimates within windows of T frames (Schulman et al. 2016, equation 16).

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


def conservative_penalty(q: tf.Tensor, mask: tf.Tensor | None, action: tf.Tensor) -> tf.Tensor:
    """log sum over actions of exp(q), less q of the action in the data: float32 [B] (Kumar et al. 2020, equation 4)."""
    return tf.reduce_logsumexp(masked_q(q, mask), axis=1) - action_value(q, action)


def project(support: tf.Tensor, atoms: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """The projection of a distribution onto an evenly spaced support (Bellemare et al. 2017, algorithm 1).

    Args:
      support: float32 [M], ascending, evenly spaced.
      atoms: float32 [B, N], where the mass lies; mass beyond the support's ends goes to the ends.
      probabilities: float32 [B, N].

    Returns:
      float32 [B, M]: mass between two points of the support is shared by nearness.
    """
    step = support[1] - support[0]
    clipped = tf.clip_by_value(atoms, support[0], support[-1])
    nearness = 1.0 - tf.abs(clipped[:, tf.newaxis] - support[:, tf.newaxis]) / step
    return tf.reduce_sum(tf.maximum(nearness, 0.0) * probabilities[:, tf.newaxis], axis=2)


def quantile_huber_loss(quantiles: tf.Tensor, fractions: tf.Tensor, targets: tf.Tensor, kappa: float) -> tf.Tensor:
    """The quantile regression loss of each example: summed over quantiles, the mean over targets, float32 [B].

    Dabney et al. 2018a, equation 10, and 2018b, equation 3: |tau - 1(u < 0)| * Huber_kappa(u) / kappa for the TD error
    u = target - quantile of every pair.

    Args:
      quantiles: float32 [B, N].
      fractions: float32 [B, N] or [N], of the quantiles.
      targets: float32 [B, M].
      kappa: where Huber's loss turns linear.
    """
    error = targets[:, tf.newaxis, :] - quantiles[:, :, tf.newaxis]
    absolute = tf.abs(error)
    huber = tf.where(absolute <= kappa, 0.5 * tf.square(error), kappa * (absolute - 0.5 * kappa))
    below = tf.cast(error < 0.0, tf.float32)
    tilted = tf.abs(fractions[..., tf.newaxis] - below) * huber / kappa
    return tf.reduce_sum(tf.reduce_mean(tilted, axis=2), axis=1)


def scaled_noise(normal: tf.Tensor) -> tf.Tensor:
    """f(x) = sign(x) sqrt|x| of normal noise, of which factorised layers take products (Fortunato et al. 2018, 3b)."""
    return tf.sign(normal) * tf.sqrt(tf.abs(normal))


def importance_weights(
    relative_probability: tf.Tensor, exponent: tf.Tensor, smallest: tf.Tensor | None = None
) -> tf.Tensor:
    """(N P(i))^-beta over the largest of the batch: float32 [B] (Schaul et al. 2016, 3.4).

    Args:
      relative_probability: float32 [B], N P(i): how many times as likely as by uniform drawing each was.
      exponent: beta.
      smallest: float32 [], of the batch that this one is a part of; None: it is the whole.
    """
    logarithm = -exponent * tf.math.log(relative_probability)
    largest = tf.reduce_max(logarithm) if smallest is None else -exponent * tf.math.log(smallest)
    return tf.exp(logarithm - largest)


def elementwise_loss(td_error: tf.Tensor, kind: str) -> tf.Tensor:
    """Huber loss with delta 1 ("huber") or half the square ("mse") of each TD error: float32 [B]."""
    squared = 0.5 * tf.square(td_error)
    if kind == "mse":
        return squared
    absolute = tf.abs(td_error)
    return tf.where(absolute <= 1.0, squared, absolute - 0.5)


_RESCALING = 1e-3


def rescale(value: tf.Tensor) -> tf.Tensor:
    """h(x) = sign(x)(sqrt(|x| + 1) - 1) + 0.001 x, which keeps targets small (Pohlen et al. 2018, proposition A.2)."""
    return tf.sign(value) * (tf.sqrt(tf.abs(value) + 1.0) - 1.0) + _RESCALING * value


def unrescale(value: tf.Tensor) -> tf.Tensor:
    """The inverse of `rescale`."""
    root = tf.sqrt(1.0 + 4.0 * _RESCALING * (tf.abs(value) + 1.0 + _RESCALING))
    return tf.sign(value) * (tf.square((root - 1.0) / (2.0 * _RESCALING)) - 1.0)


def linear_schedule(initial: float, final: float, decay_steps: int, count: tf.Tensor) -> tf.Tensor:
    """float32 []: from `initial` to `final` in the first `decay_steps` of a count; 0 steps never move it."""
    if not decay_steps:
        return tf.constant(initial)
    return initial + tf.minimum(tf.cast(count, tf.float32) / decay_steps, 1.0) * (final - initial)


def clip_by_global_norm(gradients: list[tf.Tensor], largest: float) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients scaled down together to a global norm of at most `largest` (0: as they are), and the norm before."""
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients]))
    if not largest:
        return gradients, norm
    scale = largest / tf.maximum(norm, largest)
    return [gradient * scale for gradient in gradients], norm
