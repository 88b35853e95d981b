"""Builds Keras networks: an encoder for any observation, hidden layers, and the head of Q-values.

What a config does not ask for (convolutions, normalisation, noise) is imported when it is used.
"""

import functools
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from agents.initializers import Seeds
from agents.specs import CATEGORIES, ArraySpec, Specs

if TYPE_CHECKING:
    from agents.configs.network import NetworkConfig
    from agents.configs.value import DeepConfig
    from agents.noisy import NoisyLayers


def inputs_of(specs: Specs) -> dict[str, tf.Tensor]:
    """Makes a Keras input for each array of the observation, by its name."""
    return {
        name: tf.keras.Input(spec.shape, dtype=spec.dtype, name=f"leaf_{position}")
        for position, (name, spec) in enumerate(specs.leaves().items())
    }


def _encode(name: str, spec: ArraySpec, leaf: tf.Tensor, seeds: Seeds, config: "NetworkConfig") -> tf.Tensor:
    """Encodes one observation array as float32 features [B, n] (see `ArraySpec` for what each dtype means)."""
    if spec.dtype in CATEGORIES:
        flat = tf.keras.layers.Reshape((len(spec.maximum),))(leaf)
        one_hot = [tf.one_hot(flat[:, j], largest + 1) for j, largest in enumerate(spec.maximum)]
        return one_hot[0] if len(one_hot) == 1 else tf.keras.layers.Concatenate(dtype="float32")(one_hot)
    features = leaf
    if spec.dtype == "float32" and config.normalize_observations:
        from agents.normalization import RunningNormalization

        features = RunningNormalization(name)(leaf)
    if spec.dtype == "uint8":
        features = tf.cast(leaf, tf.float32) / float(max(1, spec.maximum[0]))
    elif spec.maximum and not config.normalize_observations:
        features = leaf / float(spec.maximum[0])
    if config.torso:
        from agents import torsos

        features = torsos.imported(config.torso)(features, seeds, config.activation)
    elif picture := spec.as_picture():
        from agents import torsos

        convolution = torsos.Convolutions(seeds, config)
        features = torsos.TORSOS[config.image_torso](torsos.arranged(features, picture), convolution)
        if config.torso_pooling != "none":
            from agents.layers.pooling import pooled

            features = pooled(features, config.torso_pooling, config.torso_cells)
    return tf.keras.layers.Flatten(dtype="float32")(features)


def in_float32(activation: str) -> Any:
    """The activation, by its name; one that gives float32 where layers multiply in another dtype.

    A cast of its own would be one more node of the model, whose weights could then come in another order.
    """
    if tf.keras.mixed_precision.global_policy().compute_dtype == "float32":
        return activation
    function = tf.keras.activations.get(activation)
    return lambda inputs: tf.cast(function(inputs), tf.float32)


_FEW_UNITS = 4
_LARGE_BATCH = 512


class NarrowDense(tf.keras.layers.Dense):  # type: ignore[misc]
    """A linear layer of few units, such as the head of two actions.

    The gradient of its input is a product that sums over the units, for which XLA on a CPU has only a scalar loop. As a
    sum written out over them it is fused vector code: 7 % of a compiled gradient step at batch 256. Batches too large
    for that (the plain loop runs them) and wider layers take the product. In mixed precision it multiplies in float32.
    """

    def __init__(self, units: int, **more: Any) -> None:
        super().__init__(units, dtype="float32", **more)

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


class NetworkBuilder:
    """Makes the layers of one network in order, each with initial weights of its own seed.

    Args:
      specs: of the environment; a masked one's mask is no input.
      config: hidden layers, activation, and how observations are encoded.
      seed: of the initial weights.
      inputs: of another builder, whose network is part of the same model.
    """

    def __init__(self, specs: Specs, config: "NetworkConfig", seed: int, inputs: Any = None) -> None:
        self.specs, self.seeds = specs, Seeds(seed)
        self._of_hidden = config
        self.inputs = inputs or inputs_of(specs)  # by leaf name
        leaves = specs.leaves().items()
        encoded = [_encode(name, spec, self.inputs[name], self.seeds, config) for name, spec in leaves]
        self.features = encoded[0] if len(encoded) == 1 else tf.keras.layers.Concatenate(dtype="float32")(encoded)
        """float32 [B, n]: the encoded observation."""

    def dense(self, features: tf.Tensor, units: int, activation: str | None = None, repeats: Any = 1) -> tf.Tensor:
        """Makes a dense layer behind features [B * repeats, n]: the last of a network without an activation."""
        del repeats
        if activation is None:
            return NarrowDense(units, kernel_initializer=self.seeds.lecun_uniform())(features)
        activated = in_float32(activation)
        return tf.keras.layers.Dense(units, activated, kernel_initializer=self.seeds.he_uniform())(features)

    def torso(self) -> tf.Tensor:
        """Makes the hidden layers behind the encoder: float32 [B, n]. A second torso shares the encoder only."""
        features = self.features
        for index in range(len(self._of_hidden.hidden_units)):
            features = self.hidden(features, index)
        return features

    def hidden(self, features: tf.Tensor, index: int, repeats: Any = 1) -> tf.Tensor:
        """Makes a hidden layer behind features [B * repeats, n], the first, second, ... of `hidden_units`."""
        config, is_last = self._of_hidden, index + 1 == len(self._of_hidden.hidden_units)
        units = config.hidden_units[index]
        if not (config.layer_norm or config.residual or config.spectral_norm in ("all", "last_hidden")):
            return self.dense(features, units, config.activation, repeats)
        from agents.layers.hidden import hidden_layer

        dense = functools.partial(self.dense, repeats=repeats)
        return hidden_layer(features, units, config, self.seeds, dense, is_last)

    def model(self, output: Any, *more: tf.Tensor) -> tf.keras.Model:
        """Makes the model from the observation nest and further inputs, as far as there are any."""
        observation = self.specs.pack(self.inputs)
        return tf.keras.Model([observation, *more] if more else observation, output)


class ValueNetworkBuilder(NetworkBuilder):
    """Adds the head of Q-values, which may be dueling, and layers that may be noisy."""

    def __init__(self, specs: Specs, config: "DeepConfig", seed: int, inputs: Any = None) -> None:
        super().__init__(specs, config, seed, inputs)
        self._config = config
        self._noisy: NoisyLayers | None = None

    def expect(self, *layers: tuple[int, int]) -> None:
        """Makes the noise input, if the network is noisy, for layers of so many inputs and units."""
        if self._config.noisy:
            from agents.noisy import NoisyLayers

            self._noisy = NoisyLayers(layers, self._config.noisy_sigma, self.seeds)

    def dense(self, features: tf.Tensor, units: int, activation: str | None = None, repeats: Any = 1) -> tf.Tensor:
        """See `NetworkBuilder`; noisy after `expect`."""
        if self._noisy is None:
            return super().dense(features, units, activation)
        return self._noisy.dense(features, units, activation, repeats)

    def model(self, output: Any, *more: tf.Tensor) -> tf.keras.Model:
        """Makes the model from the observation nest, further inputs and the noise, as far as there are any."""
        return super().model(output, *more, *([] if self._noisy is None else [self._noisy.input]))

    def head(self, features: tf.Tensor, outputs: int | None, repeats: Any = 1) -> tf.Tensor:
        """Makes the head: `outputs` numbers an action, [B, A, outputs], or one, [B, A], for None.

        V + A - mean(A) (Wang et al. 2016, equation 9) if the network is dueling. A dimension has a branch of its own.
        """
        if len(self.specs.action_sizes) > 1:
            from agents.branching import head

            return head(self, features, outputs, self._config.dueling, repeats)
        actions = self.specs.num_actions
        advantages = self.dense(features, actions * (outputs or 1), repeats=repeats)
        if outputs is not None:
            advantages = tf.reshape(advantages, (-1, actions, outputs))
        if not self._config.dueling:
            return advantages
        value = self.dense(features, outputs or 1, repeats=repeats)
        if outputs is not None:
            value = value[:, tf.newaxis]
        return value + advantages - tf.reduce_mean(advantages, axis=1, keepdims=True)

    def head_layers(self, width: int, outputs: int | None) -> list[tuple[int, int]]:
        """Inputs and units of the layers that `head` makes."""
        each = outputs or 1
        return [(width, self.specs.num_actions * each), *([(width, each)] if self._config.dueling else [])]


def value_model(specs: Specs, config: "DeepConfig", outputs: int | None, seed: int) -> tf.keras.Model:
    """Builds a Keras model from a batch of observations to numbers for each action.

    Args:
      specs: of the environment; a masked one's mask is no input.
      config: layers, activation, dueling, noise.
      outputs: numbers an action, the atoms or quantiles of a distribution; None for Q-values.
      seed: of the initial weights.

    Returns:
      A functional model: observation nest with batch dimension -> float32 [B, A], or [B, A, outputs]. A noisy network
      takes a list of the observation and the noise, scaled normal float32 [B, n].
    """
    builder, hidden = ValueNetworkBuilder(specs, config, seed), config.hidden_units
    widths = (builder.features.shape[-1], *hidden)
    builder.expect(*zip(widths, hidden, strict=False), *builder.head_layers(widths[-1], outputs))
    return builder.model(builder.head(builder.torso(), outputs))
