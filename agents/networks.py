"""Keras networks: an encoder for any observation, a torso, and the heads of value-based agents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from agents.specs import ArraySpec, Specs

IMAGE_RANK = 3


class _Seeds:
    """A fresh initializer a layer, all drawn from one seed, so that a seed fixes every initial weight."""

    def __init__(self, seed: int) -> None:
        self._sequence = np.random.SeedSequence(seed)

    def he_uniform(self) -> tf.keras.initializers.Initializer:
        (child,) = self._sequence.spawn(1)
        return tf.keras.initializers.HeUniform(seed=int(child.generate_state(1)[0]))

    def lecun_uniform(self) -> tf.keras.initializers.Initializer:
        (child,) = self._sequence.spawn(1)
        return tf.keras.initializers.LecunUniform(seed=int(child.generate_state(1)[0]))


def _encode(spec: ArraySpec, leaf: tf.Tensor, seeds: _Seeds, activation: str) -> tf.Tensor:
    """One observation array as float32 features [B, n] (see `ArraySpec` for what each dtype means)."""
    if spec.dtype == "int32":
        flat = tf.keras.layers.Reshape((len(spec.maximum),))(leaf)
        one_hot = [tf.one_hot(flat[:, j], largest + 1) for j, largest in enumerate(spec.maximum)]
        return one_hot[0] if len(one_hot) == 1 else tf.keras.layers.Concatenate()(one_hot)
    features = leaf
    if spec.dtype == "uint8":
        features = tf.cast(leaf, tf.float32) / float(max(1, spec.maximum[0]))
        if len(spec.shape) == IMAGE_RANK:
            features = _nature_torso(features, seeds, activation)
    return tf.keras.layers.Flatten()(features)


def _nature_torso(image: tf.Tensor, seeds: _Seeds, activation: str) -> tf.Tensor:
    """The convolutions of Mnih et al. 2015 (Methods, Model architecture) on float32 [B, height, width, channels]."""
    for filters, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        image = tf.keras.layers.Conv2D(
            filters, kernel, stride, padding="same", activation=activation, kernel_initializer=seeds.he_uniform()
        )(image)
    return image


_FEW_UNITS = 4
_LARGE_BATCH = 512


class NarrowDense(tf.keras.layers.Dense):  # type: ignore[misc]
    """A linear layer of few units, such as the head of two actions.

    The gradient of its input is a product that sums over the units, for which XLA on a CPU has only a scalar loop. As a
    sum written out over them it is fused vector code: 7 % of a compiled gradient step at batch 256. Batches too large
    for that (the plain loop runs them) and wider layers take the product.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Float32 [B, units] of features float32 [B, n]."""
        if self.units > _FEW_UNITS or (inputs.shape[0] or 1) > _LARGE_BATCH:
            return super().call(inputs)

        @tf.custom_gradient  # type: ignore[misc]
        def product(features: tf.Tensor, kernel: tf.Tensor) -> Any:
            def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                parts = [upstream[:, unit : unit + 1] * kernel[None, :, unit] for unit in range(self.units)]
                return tf.add_n(parts), tf.matmul(features, upstream, transpose_a=True)

            return tf.matmul(features, kernel), gradient

        return product(inputs, tf.convert_to_tensor(self.kernel)) + self.bias


def q_model(specs: Specs, hidden_units: Sequence[int], activation: str, dueling: bool, seed: int) -> tf.keras.Model:
    """A Keras model from a batch of observations to Q-values.

    Args:
      specs: of the environment; a masked one's mask is no input.
      hidden_units: units of each dense layer.
      activation: of the hidden layers, a Keras name.
      dueling: Q = V + A - mean(A) (Wang et al. 2016, equation 9) instead of one linear layer.
      seed: of the initial weights.

    Returns:
      A functional model: observation nest with batch dimension -> float32 [B, actions].
    """
    seeds = _Seeds(seed)
    leaves = specs.leaves()
    inputs = {
        name: tf.keras.Input(spec.shape, dtype=spec.dtype, name=f"leaf_{position}")
        for position, (name, spec) in enumerate(leaves.items())
    }
    encoded = [_encode(spec, inputs[name], seeds, activation) for name, spec in leaves.items()]
    features = encoded[0] if len(encoded) == 1 else tf.keras.layers.Concatenate()(encoded)
    for units in hidden_units:
        features = tf.keras.layers.Dense(units, activation, kernel_initializer=seeds.he_uniform())(features)
    advantages = NarrowDense(specs.num_actions, kernel_initializer=seeds.lecun_uniform())(features)
    if not dueling:
        return tf.keras.Model(specs.pack(inputs), advantages)
    value = NarrowDense(1, kernel_initializer=seeds.lecun_uniform())(features)
    centered = advantages - tf.reduce_mean(advantages, axis=1, keepdims=True)
    return tf.keras.Model(specs.pack(inputs), value + centered)
