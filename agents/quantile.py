"""Agents that learn quantiles of the return: QR-DQN (Dabney et al. 2018a) and IQN (Dabney et al. 2018b)."""

from typing import Any

import numpy as np
import tensorflow as tf

from agents import losses, networks
from agents.configs import IqnConfig, QrDqnConfig, QuantileConfig
from agents.specs import Specs
from agents.td_agent import DeepTdAgent, Errors, Transitions, ValueNetwork, batch_size_of, silence


def midpoints(count: int) -> tf.Tensor:
    """The middles of `count` equal parts of (0, 1), float32 [1, count]."""
    return tf.constant((np.arange(count)[np.newaxis] + 0.5) / count, tf.float32)


class QuantileNetwork(ValueNetwork):
    """The quantiles of each action's return at fixed fractions."""

    def __init__(self, specs: Specs, config: QrDqnConfig, seed: int, name: str = "QuantileNetwork") -> None:
        super().__init__(specs, lambda: networks.value_model(specs, config, config.num_quantiles, seed), name)

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """Q-values float32 [B, A]: the mean of the quantiles, without noise."""
        quantiles = self.raw(observation, *silence(self.model, observation), training=training)
        return tf.reduce_mean(quantiles, axis=2), network_state


class ImplicitQuantileNetwork(ValueNetwork):
    """The quantiles of each action's return at the fractions asked for."""

    def __init__(self, specs: Specs, config: IqnConfig, seed: int, name: str = "ImplicitQuantileNetwork") -> None:
        super().__init__(specs, lambda: networks.implicit_quantile_model(specs, config, seed), name)
        self._acting_fractions = midpoints(config.acting_quantiles)

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """Q-values float32 [B, A]: the mean at fixed fractions, without noise."""
        fractions = tf.tile(self._acting_fractions, (batch_size_of(observation), 1))
        quantiles = self.raw(observation, fractions, *silence(self.model, observation), training=training)
        return tf.reduce_mean(quantiles, axis=2), network_state


class QuantileAgent(DeepTdAgent):
    """Learns quantiles of the return by regression on those of its Bellman update."""

    def _fractions(self, batch: tf.Tensor, target: bool, training: bool) -> tf.Tensor:
        """Fractions float32 [batch or 1, N] to take quantiles at, of the target or of what is learned."""
        raise NotImplementedError

    def _quantiles(
        self, network: ValueNetwork, observation: Any, fractions: tf.Tensor, stream: int, training: bool
    ) -> tf.Tensor:
        """A network's quantiles float32 [B, A, N] at the fractions."""
        raise NotImplementedError

    def _errors(self, batch: Transitions, training: bool) -> Errors:
        config: QuantileConfig = self._config
        before, after, folded = batch.observation_tm1, batch.observation_t, batch.folded
        size = batch_size_of(before)
        learned, bootstrapped = self._fractions(size, False, training), self._fractions(size, True, training)
        quantiles_tm1 = self._quantiles(self._q_network, before, learned, 0, training)
        quantiles_t = self._quantiles(self._target_q_network, after, bootstrapped, 1, training)
        selector_t = quantiles_t
        if config.double:
            selector_t = self._quantiles(self._q_network, after, bootstrapped, 2, training)
        mean_t = losses.masked_q(tf.reduce_mean(selector_t, axis=2), batch.mask_t)
        next_quantiles = losses.of_action(quantiles_t, tf.argmax(mean_t, axis=1, output_type=tf.int32))
        target = folded.reward[:, tf.newaxis] + folded.discount[:, tf.newaxis] * next_quantiles
        target = tf.stop_gradient(target)
        taken_tm1 = losses.of_action(quantiles_tm1, batch.action)
        q_tm1 = tf.reduce_mean(quantiles_tm1, axis=2)
        loss = losses.quantile_huber_loss(taken_tm1, learned, target, config.kappa)
        if config.cql_alpha:
            loss += config.cql_alpha * losses.conservative_penalty(q_tm1, batch.mask_tm1, batch.action)
        td_error = tf.reduce_mean(target, axis=1) - tf.reduce_mean(taken_tm1, axis=1)
        return Errors(loss, td_error, tf.abs(td_error), q_tm1)


class QrDqnAgent(QuantileAgent):
    """Quantiles at the midpoints of equal parts."""

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
    """Quantiles at fractions drawn anew in every gradient step; acts by the mean at fixed ones."""

    def __init__(self, specs: Specs, config: IqnConfig, epsilon: float, seed: int) -> None:
        super().__init__(specs, config, ImplicitQuantileNetwork(specs, config, seed), epsilon, seed)
        self._acting_model = networks.mean_of_quantiles(self._q_network.model, midpoints(config.acting_quantiles))

    def _fractions(self, batch: tf.Tensor, target: bool, training: bool) -> tf.Tensor:
        config: IqnConfig = self._config
        count = config.target_quantile_samples if target else config.quantile_samples
        if not training:
            return tf.tile(midpoints(count), (batch, 1))
        return self._draw(tf.random.stateless_uniform, batch, count, 5 if target else 4)

    def _quantiles(
        self, network: ValueNetwork, observation: Any, fractions: tf.Tensor, stream: int, training: bool
    ) -> tf.Tensor:
        return network.raw(observation, fractions, *self._noise(observation, stream, training), training=training)


def build_qr_dqn(specs: Specs, config: QrDqnConfig, *, epsilon: float = 0.1, seed: int = 0) -> QrDqnAgent:
    """Builds a QR-DQN agent, within the distribution strategy in scope; see `agents.dqn.build`."""
    return QrDqnAgent(specs, config, epsilon, seed)


def build_iqn(specs: Specs, config: IqnConfig, *, epsilon: float = 0.1, seed: int = 0) -> IqnAgent:
    """Builds an IQN agent, within the distribution strategy in scope; see `agents.dqn.build`."""
    return IqnAgent(specs, config, epsilon, seed)
