"""Agents that learn quantiles of the return: QR-DQN (Dabney et al. 2018a) and IQN (Dabney et al. 2018b)."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from agents import distributional_losses, draws, losses
from agents.branching import suited
from agents.configs.quantile import IqnConfig, QrDqnConfig, QuantileConfig
from agents.networks import ValueNetworkBuilder, value_model
from agents.specs import Specs
from agents.td_agent import DeepTdAgent, Errors, NStepTransitions
from agents.value_network import ValueNetwork, batch_size_of


def midpoints(count: int) -> tf.Tensor:
    """Computes the middles of `count` equal parts of (0, 1), float32 [1, count]."""
    return tf.constant((np.arange(count)[np.newaxis] + 0.5) / count, tf.float32)


def cosines_of(fractions: tf.Tensor, count: int) -> tf.Tensor:
    """Computes cos(pi i tau) for i < count of fractions float32 [B, 1], as float32 [B, count], to 1e-5.

    XLA calls the C library for each cosine on a CPU, a seventh of a step of `cartpole_iqn`; this is vector code.
    """
    turns = tf.range(count, dtype=tf.float32) * fractions
    y = tf.abs(turns - 2.0 * tf.floor(0.5 * turns + 0.5)) - 0.5  # cos(pi turns) = -sin(pi y), y in [-1/2, 1/2]
    series = [(-1) ** k * np.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(6)]
    sine = tf.zeros_like(y)
    for coefficient in reversed(series):
        sine = coefficient + y * y * sine
    return -y * sine


def implicit_quantile_model(specs: Specs, config: IqnConfig, seed: int) -> tf.keras.Model:
    """Builds a Keras model from observations and fractions in (0, 1) to the quantiles of each action's return there.

    The embedding of a fraction, relu(W cos(pi i tau) + b) for i < n (Dabney et al. 2018b, equation 4), multiplies the
    features before the last `layers_per_fraction` hidden layers. These run B * N times, the others B times.

    Returns:
      A functional model: a list of the observation nest, fractions float32 [B, N] (or [1, N], the same for all, which
      are embedded once) and, in a noisy network, the noise -> float32 [B, A, N].
    """
    builder = ValueNetworkBuilder(specs, config, seed)
    features, hidden = builder.features, config.hidden_units
    widths = (features.shape[-1], *hidden)
    builder.expect(*zip(widths, hidden, strict=False), *builder.head_layers(widths[-1], None))
    shared = max(0, len(hidden) - config.layers_per_fraction)
    for index in range(shared):
        features = builder.hidden(features, index)
    width = features.shape[-1]
    tau = tf.keras.Input((None,), dtype=tf.float32, name="fractions")
    fractions = tf.shape(tau)[1]
    cosines = cosines_of(tf.reshape(tau, (-1, 1)), config.embedding_cosines)
    initial = builder.seeds.he_uniform()
    embedding = tf.keras.layers.Dense(width, "relu", kernel_initializer=initial, dtype="float32")(cosines)
    merged = tf.reshape(features[:, tf.newaxis] * tf.reshape(embedding, (-1, fractions, width)), (-1, width))
    for index in range(shared, len(hidden)):
        merged = builder.hidden(merged, index, fractions)
    values = tf.reshape(builder.head(merged, None, repeats=fractions), (-1, fractions, specs.num_actions))
    return builder.model(tf.transpose(values, (0, 2, 1)), tau)


def mean_of_quantiles(model: tf.keras.Model, fractions: tf.Tensor) -> tf.keras.Model:
    """Builds the mean of an implicit quantile model over fixed fractions [1, K]: observations (and noise) -> [B, A]."""
    observation, _, *noise = model.input
    quantiles = model([observation, fractions, *noise])
    inputs = [observation, *noise] if noise else observation
    return tf.keras.Model(inputs, tf.reduce_mean(quantiles, axis=2))


class QuantileNetwork(ValueNetwork):
    """A network that gives the quantiles of each action's return at fixed fractions."""

    def __init__(self, specs: Specs, config: QrDqnConfig, seed: int, name: str = "QuantileNetwork") -> None:
        super().__init__(specs, lambda: value_model(specs, config, config.num_quantiles, seed), name)

    def outputs(self, observation: Any, noise: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        """Q-values float32 [B, A]: the mean of the quantiles."""
        return tf.reduce_mean(self.raw(observation, *noise, training=training), axis=2)


class ImplicitQuantileNetwork(ValueNetwork):
    """A network that gives the quantiles of each action's return at any fractions."""

    def __init__(self, specs: Specs, config: IqnConfig, seed: int, name: str = "ImplicitQuantileNetwork") -> None:
        super().__init__(specs, lambda: implicit_quantile_model(specs, config, seed), name)
        self._acting_fractions = midpoints(config.acting_quantiles)

    def outputs(self, observation: Any, noise: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        """Q-values float32 [B, A]: the mean at fixed fractions."""
        return tf.reduce_mean(self.raw(observation, self._acting_fractions, *noise, training=training), axis=2)


class QuantileAgent(DeepTdAgent):
    """Learns quantiles of the return by regression on those of its Bellman update."""

    _config: QuantileConfig

    def _fractions(self, batch: tf.Tensor, target: bool, training: bool) -> tf.Tensor:
        """Fractions float32 [batch or 1, N] to take quantiles at, of the target or of what is learned."""
        raise NotImplementedError

    def _acting_fractions(self) -> tf.Tensor | None:
        """Fractions [1, K] whose mean chooses the bootstrap action; None takes those that are bootstrapped from."""
        return None

    def _quantiles(
        self, network: ValueNetwork, observation: Any, fractions: tf.Tensor, stream: int, training: bool
    ) -> tf.Tensor:
        """A network's quantiles float32 [B, A, N] at the fractions."""
        raise NotImplementedError

    def _of_rows(self, fractions: tf.Tensor) -> tf.Tensor:
        """The fractions of each row, of those of each example."""
        return fractions

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        config = self._config
        before, after, folded = batch.observation_tm1, batch.observation_t, batch.folded
        size = batch_size_of(before)
        learned, bootstrapped = self._fractions(size, False, training), self._fractions(size, True, training)
        quantiles_tm1 = self._quantiles(self._q_network, before, learned, 0, training)
        quantiles_t = self._quantiles(self._target_q_network, after, bootstrapped, 1, training)
        selector_t, acting = quantiles_t, self._acting_fractions()
        if config.double or acting is not None:
            network, stream = (self._q_network, 2) if config.double else (self._target_q_network, 1)
            fractions = bootstrapped if acting is None else acting
            selector_t = self._quantiles(network, after, fractions, stream, training)
        reward, mean_t = folded.reward, tf.reduce_mean(selector_t, axis=2)
        if config.munchausen:
            from agents import munchausen

            tau = munchausen.temperature_at(config, self.train_step_counter)
            fractions = bootstrapped if acting is None else acting
            target_tm1 = self._quantiles(self._target_q_network, before, fractions, 3, training)
            reward += munchausen.bonus(tf.reduce_mean(target_tm1, axis=2), batch.mask_tm1, batch.action, config, tau)
            next_quantiles = munchausen.soft_quantiles(quantiles_t, mean_t, batch.mask_t, tau)
        else:
            best = tf.argmax(losses.masked_q(mean_t, batch.mask_t), axis=1, output_type=tf.int32)
            next_quantiles = distributional_losses.of_action(quantiles_t, best)
        target = reward[:, tf.newaxis] + folded.discount[:, tf.newaxis] * next_quantiles
        target = self._shared(tf.stop_gradient(target))
        taken_tm1 = distributional_losses.of_action(quantiles_tm1, batch.action)
        q_tm1 = tf.reduce_mean(quantiles_tm1, axis=2)
        loss = distributional_losses.quantile_huber_loss(taken_tm1, self._of_rows(learned), target, config.kappa)
        if config.cql_alpha:
            loss += config.cql_alpha * losses.conservative_penalty(q_tm1, batch.mask_tm1, batch.action)
        td_error = tf.reduce_mean(target, axis=1) - tf.reduce_mean(taken_tm1, axis=1)
        return Errors(loss, td_error, tf.abs(td_error), q_tm1)


class QrDqnAgent(QuantileAgent):
    """Learns quantiles at the midpoints of equal parts of (0, 1)."""

    _config: QrDqnConfig

    def __init__(self, specs: Specs, config: QrDqnConfig, epsilon: float, seed: int) -> None:
        super().__init__(specs, config, QuantileNetwork(specs, config, seed), epsilon, seed)
        model = self._q_network.model
        self._acting_model = tf.keras.Model(model.input, tf.reduce_mean(model.output, axis=2))

    def _fractions(self, batch: tf.Tensor, target: bool, training: bool) -> tf.Tensor:
        return midpoints(self._config.num_quantiles)

    def _quantiles(
        self, network: ValueNetwork, observation: Any, fractions: tf.Tensor, stream: int, training: bool
    ) -> tf.Tensor:
        return network.raw(observation, *self._noise(observation, stream, training), training=training)


class IqnAgent(QuantileAgent):
    """Learns quantiles at fractions drawn anew in every gradient step; acts by the mean at fixed ones.

    The bootstrap action is the one that acting would take, by K fractions of its own (Dabney et al. 2018b, algorithm
    1). They are the midpoints, not draws: the mean of few draws varies by more than actions differ.
    """

    _config: IqnConfig

    def __init__(self, specs: Specs, config: IqnConfig, epsilon: float, seed: int) -> None:
        super().__init__(specs, config, ImplicitQuantileNetwork(specs, config, seed), epsilon, seed)
        self._acting_model = mean_of_quantiles(self._q_network.model, midpoints(config.acting_quantiles))

    def _fractions(self, batch: tf.Tensor, target: bool, training: bool) -> tf.Tensor:
        count = self._config.target_quantile_samples if target else self._config.quantile_samples
        if not training:
            return midpoints(count)
        stream = 5 if target else 4
        return draws.draw(tf.random.stateless_uniform, self._seed, self.train_step_counter, batch, count, stream)

    def _acting_fractions(self) -> tf.Tensor:
        return midpoints(self._config.acting_quantiles)

    def _quantiles(
        self, network: ValueNetwork, observation: Any, fractions: tf.Tensor, stream: int, training: bool
    ) -> tf.Tensor:
        return network.raw(observation, fractions, *self._noise(observation, stream, training), training=training)


def build_qr_dqn(specs: Specs, config: QrDqnConfig, *, epsilon: float = 0.1, seed: int = 0) -> QrDqnAgent:
    """Builds a QR-DQN agent, within the distribution strategy in scope; see `agents.dqn.build`."""
    agent: QrDqnAgent = suited(QrDqnAgent, specs, config)(specs, config, epsilon, seed)
    return agent


def build_iqn(specs: Specs, config: IqnConfig, *, epsilon: float = 0.1, seed: int = 0) -> IqnAgent:
    """Builds an IQN agent, within the distribution strategy in scope; see `agents.dqn.build`."""
    agent: IqnAgent = suited(IqnAgent, specs, config)(specs, config, epsilon, seed)
    return agent
