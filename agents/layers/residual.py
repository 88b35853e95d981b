"""Residual blocks of dense layers (SimBa, Lee et al. 2025)."""

from collections.abc import Callable

import tensorflow as tf

from agents.layers.layer_norm import LayerNorm

WIDENING = 4
"""Units within a block, of each of its outputs (Lee et al. 2025)."""


def residual_block(
    features: tf.Tensor, units: int, activation: str, dense: Callable[[tf.Tensor, int, str], tf.Tensor]
) -> tf.Tensor:
    """Makes SimBa's block, x + W2 f(W1 LN(x)) (Lee et al. 2025, section 4), behind features [B, n].

    Args:
      features: float32 [B, n]; of another width than `units` they come through a linear layer first.
      units: of the block's output.
      activation: f.
      dense: makes a dense layer of inputs, units and an activation, which may be "linear".
    """
    if features.shape[-1] != units:
        features = dense(features, units, "linear")
    return features + dense(dense(LayerNorm()(features), WIDENING * units, activation), units, "linear")
