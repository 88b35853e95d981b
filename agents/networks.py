"""Keras networks: an encoder for any observation, a torso, and the heads of the agents."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from agents.configs import DeepConfig, IqnConfig, PolicyConfig, R2d2Config
from agents.initializers import Seeds
from agents.normalization import RunningNormalization
from agents.specs import ArraySpec, Specs
from agents.torsos import TORSOS, imported

IMAGE_RANK = 3


def _inputs(specs: Specs) -> dict[str, tf.Tensor]:
    """A Keras input for each leaf of the observation."""
    return {
        name: tf.keras.Input(spec.shape, dtype=spec.dtype, name=f"leaf_{position}")
        for position, (name, spec) in enumerate(specs.leaves().items())
    }


def _encode(name: str, spec: ArraySpec, leaf: tf.Tensor, seeds: Seeds, config: DeepConfig | PolicyConfig) -> tf.Tensor:
    """One observation array as float32 features [B, n] (see `ArraySpec` for what each dtype means)."""
    if spec.dtype == "int32":
        flat = tf.keras.layers.Reshape((len(spec.maximum),))(leaf)
        one_hot = [tf.one_hot(flat[:, j], largest + 1) for j, largest in enumerate(spec.maximum)]
        return one_hot[0] if len(one_hot) == 1 else tf.keras.layers.Concatenate()(one_hot)
    features = leaf
    if spec.dtype == "float32" and config.normalize_observations:
        features = RunningNormalization(name)(leaf)
    if spec.dtype == "uint8":
        features = tf.cast(leaf, tf.float32) / float(max(1, spec.maximum[0]))
    if config.torso:
        features = imported(config.torso)(features, seeds, config.activation)
    elif spec.dtype == "uint8" and len(spec.shape) == IMAGE_RANK:
        features = TORSOS[config.image_torso](features, seeds, config.activation)
    return tf.keras.layers.Flatten()(features)


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


class NoisyDense(tf.keras.layers.Layer):  # type: ignore[misc]
    """A dense layer whose weights carry factorised Gaussian noise of learned scale (Fortunato et al. 2018, 3b).

    Each example has noise of its own, an input beside the features: y = (mu + sigma * f(e_out) f(e_in)') x and the like
    for the bias, of which the outer product is never formed. Noise of zeros leaves the mean layer.
    """

    def __init__(self, units: int, sigma: float, activation: str | None, initial_mean: Any) -> None:
        super().__init__()
        self._units, self._sigma, self._initial_mean = units, sigma, initial_mean
        self._activation = tf.keras.activations.get(activation)

    def build(self, input_shape: Any) -> None:
        """Creates the means and the scales, sigma/sqrt(n) for n inputs."""
        n = int(input_shape[0][-1])
        scale = tf.keras.initializers.Constant(self._sigma / n**0.5)
        kernel_mean, bias_mean = self._initial_mean
        self.kernel = self.add_weight("kernel", (n, self._units), initializer=kernel_mean)
        self.bias = self.add_weight("bias", (self._units,), initializer=bias_mean)
        self.kernel_sigma = self.add_weight("kernel_sigma", (n, self._units), initializer=scale)
        self.bias_sigma = self.add_weight("bias_sigma", (self._units,), initializer=scale)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Float32 [B, units] of features [B, n] and noise [B, n] and [B, units] (see `losses.scaled_noise`)."""
        features, noise_in, noise_out = inputs
        mean = tf.matmul(features, self.kernel) + self.bias
        spread = tf.matmul(features * noise_in, self.kernel_sigma) + self.bias_sigma
        return self._activation(mean + noise_out * spread)


class _Builder:
    """Makes the layers of one network in order: seeds for each, and for noisy ones their part of the noise input."""

    def __init__(self, specs: Specs, config: DeepConfig | PolicyConfig, seed: int) -> None:
        self.specs, self.seeds = specs, Seeds(seed)
        self.config: Any = config  # a policy's has neither noise nor the head of Q-values
        self.inputs = _inputs(specs)
        leaves = specs.leaves().items()
        encoded = [_encode(name, spec, self.inputs[name], self.seeds, config) for name, spec in leaves]
        self.features = encoded[0] if len(encoded) == 1 else tf.keras.layers.Concatenate()(encoded)
        self.noise: Any = None
        self._noise_used = 0

    def expect(self, *layers: tuple[int, int]) -> None:
        """Makes the noise input, if the network is noisy, for layers of so many inputs and units."""
        if self.config.noisy:
            self.noise = tf.keras.Input((sum(n + units for n, units in layers),), dtype=tf.float32, name="noise")

    def dense(self, features: tf.Tensor, units: int, activation: str | None = None, repeats: Any = 1) -> tf.Tensor:
        """A dense layer behind features [B * repeats, n]: linear without an activation."""
        if self.noise is None:
            if activation is None:
                return NarrowDense(units, kernel_initializer=self.seeds.lecun_uniform())(features)
            return tf.keras.layers.Dense(units, activation, kernel_initializer=self.seeds.he_uniform())(features)
        n = features.shape[-1]
        initial = self.seeds.fan_in_uniform(n), self.seeds.fan_in_uniform(n)
        noise = (self._take(n, repeats), self._take(units, repeats))
        return NoisyDense(units, self.config.noisy_sigma, activation, initial)((features, *noise))

    def torso(self) -> tf.Tensor:
        """Hidden layers behind the encoder: float32 [B, n]. A second torso shares the encoder only."""
        features = self.features
        for units in self.config.hidden_units:
            features = self.dense(features, units, self.config.activation)
        return features

    def model(self, output: Any, *more: tf.Tensor) -> tf.keras.Model:
        """The model from the observation nest, further inputs and the noise, as far as there are any."""
        inputs = [self.specs.pack(self.inputs), *more, *([] if self.noise is None else [self.noise])]
        return tf.keras.Model(inputs if len(inputs) > 1 else inputs[0], output)

    def head(self, features: tf.Tensor, outputs: int | None, repeats: Any = 1) -> tf.Tensor:
        """`outputs` numbers an action, [B, A, outputs], or one, [B, A], for None.

        V + A - mean(A) (Wang et al. 2016, equation 9) if the network is dueling.
        """
        actions = self.specs.num_actions
        advantages = self.dense(features, actions * (outputs or 1), repeats=repeats)
        if outputs is not None:
            advantages = tf.reshape(advantages, (-1, actions, outputs))
        if not self.config.dueling:
            return advantages
        value = self.dense(features, outputs or 1, repeats=repeats)
        if outputs is not None:
            value = value[:, tf.newaxis]
        return value + advantages - tf.reduce_mean(advantages, axis=1, keepdims=True)

    def head_layers(self, width: int, outputs: int | None) -> list[tuple[int, int]]:
        """Inputs and units of the layers that `head` makes."""
        each = outputs or 1
        return [(width, self.specs.num_actions * each), *([(width, each)] if self.config.dueling else [])]

    def _take(self, width: int, repeats: Any) -> tf.Tensor:
        start, self._noise_used = self._noise_used, self._noise_used + width
        part = self.noise[:, start : start + width]
        return part if isinstance(repeats, int) else tf.repeat(part, repeats, axis=0)


def value_model(specs: Specs, config: DeepConfig, outputs: int | None, seed: int) -> tf.keras.Model:
    """A Keras model from a batch of observations to numbers for each action.

    Args:
      specs: of the environment; a masked one's mask is no input.
      config: layers, activation, dueling, noise.
      outputs: numbers an action, the atoms or quantiles of a distribution; None for Q-values.
      seed: of the initial weights.

    Returns:
      A functional model: observation nest with batch dimension -> float32 [B, A], or [B, A, outputs]. A noisy network
      takes a list of the observation and the noise, scaled normal float32 [B, n].
    """
    builder, hidden = _Builder(specs, config, seed), config.hidden_units
    widths = (builder.features.shape[-1], *hidden)
    builder.expect(*zip(widths, hidden, strict=False), *builder.head_layers(widths[-1], outputs))
    return builder.model(builder.head(builder.torso(), outputs))


def implicit_quantile_model(specs: Specs, config: IqnConfig, seed: int) -> tf.keras.Model:
    """A Keras model from observations and fractions in (0, 1) to the quantiles of each action's return there.

    The embedding of a fraction, relu(W cos(pi i tau) + b) for i < n (Dabney et al. 2018b, equation 4), multiplies the
    features before the last hidden layer.

    Returns:
      A functional model: a list of the observation nest, fractions float32 [B, N] and, in a noisy network, the noise ->
      float32 [B, A, N].
    """
    builder = _Builder(specs, config, seed)
    features, hidden = builder.features, config.hidden_units
    widths = (features.shape[-1], *hidden)
    builder.expect(*zip(widths, hidden, strict=False), *builder.head_layers(widths[-1], None))
    for units in hidden[:-1]:
        features = builder.dense(features, units, config.activation)
    width = features.shape[-1]
    tau = tf.keras.Input((None,), dtype=tf.float32, name="fractions")
    fractions = tf.shape(tau)[1]
    cosines = tf.cos(np.pi * tf.range(config.embedding_cosines, dtype=tf.float32) * tf.reshape(tau, (-1, 1)))
    embedding = tf.keras.layers.Dense(width, "relu", kernel_initializer=builder.seeds.he_uniform())(cosines)
    merged = tf.reshape(features[:, tf.newaxis] * tf.reshape(embedding, (-1, fractions, width)), (-1, width))
    for units in hidden[-1:]:
        merged = builder.dense(merged, units, config.activation, repeats=fractions)
    values = tf.reshape(builder.head(merged, None, repeats=fractions), (-1, fractions, specs.num_actions))
    return builder.model(tf.transpose(values, (0, 2, 1)), tau)


class Recurrent(NamedTuple):
    """The parts of a recurrent Q-network, and all of them as one step."""

    encoder: tf.keras.Model
    """Observation nest -> features float32 [B, n]."""
    cell: tf.keras.layers.Layer
    """Features and a list of output and cell state -> output [B, units] and the next list."""
    head: tf.keras.Model
    """Output float32 [B, units] -> Q-values [B, A]."""
    step: tf.keras.Model
    """A list of observation nest and state [B, 2 units] -> Q-values and next state side by side."""


def recurrent_model(specs: Specs, config: R2d2Config, seed: int) -> Recurrent:
    """A network with an LSTM between its hidden layers and its head."""
    builder = _Builder(specs, config, seed)
    features = builder.torso()
    encoder = builder.model(features)
    cell = tf.keras.layers.LSTMCell(
        config.lstm_units,
        kernel_initializer=builder.seeds.glorot_uniform(),
        recurrent_initializer=builder.seeds.orthogonal(),
    )
    output = tf.keras.Input((config.lstm_units,))
    head = tf.keras.Model(output, builder.head(output, None))
    state = tf.keras.Input((config.state_units,), name="state")
    following, states = cell(features, tf.split(state, 2, axis=1))
    step = builder.model(tf.concat([head(following), *states], axis=1), state)
    return Recurrent(encoder, cell, head, step)


class ActorCritic(NamedTuple):
    """A policy and the values of its states, as two models that share the encoder."""

    policy: tf.keras.Model
    """Observation nest -> logits float32 [B, A]."""
    both: tf.keras.Model
    """Observation nest -> a list of logits and values float32 [B, 1]; of logits alone where there is no critic."""


def actor_critic_model(specs: Specs, config: PolicyConfig, seed: int, critic: bool) -> ActorCritic:
    """A policy with hidden layers of its own and, with a `critic`, the same for its states' values."""
    builder = _Builder(specs, config, seed)
    head = NarrowDense(specs.num_actions, kernel_initializer=builder.seeds.nearly_zero())
    logits = head(builder.torso())
    outputs = [logits, builder.dense(builder.torso(), 1)] if critic else [logits]
    return ActorCritic(builder.model(logits), builder.model(outputs))


def mean_of_quantiles(model: tf.keras.Model, fractions: tf.Tensor) -> tf.keras.Model:
    """An implicit quantile model's mean over fixed fractions [1, K]: observations (and noise) -> float32 [B, A]."""
    observation, _, *noise = model.input
    batch = tf.shape(tf.nest.flatten(observation)[0])[0]
    quantiles = model([observation, tf.tile(fractions, (batch, 1)), *noise])
    inputs = [observation, *noise] if noise else observation
    return tf.keras.Model(inputs, tf.reduce_mean(quantiles, axis=2))


def table_model(specs: Specs, initial_value: float) -> tf.keras.Model:
    """A table of Q-values as a Keras model: one weight a state and action, states numbered over all categories."""
    leaves, inputs = specs.leaves(), _inputs(specs)
    sizes = [largest + 1 for spec in leaves.values() for largest in spec.maximum]
    parts = [tf.reshape(inputs[name], (-1, len(spec.maximum))) for name, spec in leaves.items()]
    digits = parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)
    places = np.append(np.cumprod(sizes[:0:-1])[::-1], 1).astype(np.int32)
    one_hot = tf.one_hot(tf.reduce_sum(digits * places, axis=1), int(np.prod(sizes)))
    initial = tf.keras.initializers.Constant(initial_value)
    table = tf.keras.layers.Dense(specs.num_actions, use_bias=False, kernel_initializer=initial)
    return tf.keras.Model(specs.pack(inputs), table(one_hot))
