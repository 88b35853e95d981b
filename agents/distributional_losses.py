"""The mathematics of distributions of the return, by atoms or by quantiles.

Pure functions of tensors; shapes and subscripts are those of `agents.losses`. M, N: numbers of atoms or quantiles.
"""

import tensorflow as tf


def of_action(values: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Selects the numbers [B, M] of the actions int [B] from those of all actions [B, A, M]."""
    return tf.reduce_sum(values * tf.one_hot(action, values.shape[1], dtype=values.dtype)[:, :, tf.newaxis], axis=1)


def project(support: tf.Tensor, atoms: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Projects a distribution onto an evenly spaced support (Bellemare et al. 2017, algorithm 1).

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
    """Computes the quantile regression loss of each example: summed over quantiles, the mean over targets, float32 [B].

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
