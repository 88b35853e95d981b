"""Hidden layers of the forms that a config asks for: normalised, residual, or with a spectral norm."""

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from agents.initializers import Seeds

if TYPE_CHECKING:
    from agents.configs.network import NetworkConfig


def hidden_layer(
    features: tf.Tensor,
    units: int,
    config: "NetworkConfig",
    seeds: Seeds,
    dense: Any,
    is_last: bool,
) -> tf.Tensor:
    """Makes one hidden layer behind features [B, n]: float32 [B, units].

    Args:
      features: float32 [B, n].
      units: of the layer.
      config: its form.
      seeds: of the initial weights.
      dense: makes an ordinary dense layer, which may be noisy, of features, units and an activation.
      is_last: whether the head is next.
    """
    if config.residual:
        from agents.layers.residual import residual_block

        def of_block(inputs: tf.Tensor, width: int, activation: str) -> tf.Tensor:
            if config.spectral_norm in ("residual", "all"):
                return _spectral(inputs, width, activation, seeds)
            return dense(inputs, width, activation)

        features = residual_block(features, units, config.activation, of_block)
        return _normalised(features) if is_last else features
    layer = dense
    if config.spectral_norm == "all" or (is_last and config.spectral_norm == "last_hidden"):

        def layer(inputs: tf.Tensor, width: int, activation: str) -> tf.Tensor:
            return _spectral(inputs, width, activation, seeds)

    if not config.layer_norm:
        return layer(features, units, config.activation)
    return tf.keras.layers.Activation(config.activation, dtype="float32")(_normalised(layer(features, units, "linear")))


def _normalised(features: tf.Tensor) -> tf.Tensor:
    from agents.layers.layer_norm import LayerNorm

    return LayerNorm()(features)


def _spectral(inputs: tf.Tensor, units: int, activation: str, seeds: Seeds) -> tf.Tensor:
    from agents.layers.spectral_norm import SpectralDense

    return SpectralDense(seeds, activation, units=units)(inputs)
