"""Tabular Q-learning (Watkins 1989), with the same windows, replay and learner as the networks."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tf_agents.agents import tf_agent

from agents import losses
from agents.configs.q_learning import QLearningConfig
from agents.networks import inputs_of
from agents.optimizers import Optimizer, Update, summed_over_replicas
from agents.specs import Specs
from agents.td_agent import Errors, NStepTransitions, TdAgent
from agents.value_network import ValueNetwork

_LEAST_KEPT = 1e-30
"""Of an entry's value by one visit with alpha = 1: its logarithm has to be finite."""


def state_numbers(specs: Specs, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Numbers the states of a table by all their categories: int32 [B] of the leaves [B, ...] by name."""
    leaves = specs.leaves()
    parts = [tf.reshape(tf.cast(inputs[name], tf.int32), (-1, len(spec.maximum))) for name, spec in leaves.items()]
    digits = parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)
    places = np.append(np.cumprod(_sizes(specs)[:0:-1])[::-1], 1).astype(np.int32)
    return tf.reduce_sum(digits * places, axis=1)


def table_model(specs: Specs, initial_value: float) -> tf.keras.Model:
    """Builds a table of Q-values as a Keras model: one weight a state and action, states by `state_numbers`."""
    inputs = inputs_of(specs)
    one_hot = tf.one_hot(state_numbers(specs, inputs), int(np.prod(_sizes(specs))))
    initial = tf.keras.initializers.Constant(initial_value)
    table = tf.keras.layers.Dense(specs.num_actions, use_bias=False, kernel_initializer=initial, dtype="float32")
    return tf.keras.Model(specs.pack(inputs), table(one_hot))


class Table(ValueNetwork):
    """A table of Q-values as a network: one weight a state and action."""

    def __init__(self, specs: Specs, config: QLearningConfig, name: str = "Table") -> None:
        super().__init__(specs, lambda: table_model(specs, config.initial_value), name)


class Visits(NamedTuple):
    """What a batch says of each entry of a table, float32 [states, A]; visits of several replicas add up."""

    weight: tf.Tensor
    """Sum of the importance weights w of its visits."""
    error: tf.Tensor
    """Sum of w times TD error."""
    log_kept: tf.Tensor
    """Sum of log(1 - alpha w): the logarithm of the share of its value that as many single updates would keep."""


class WatkinsRule(Optimizer):
    """Moves each visited entry of a table as far as Watkins' rule does when it takes the visits one by one.

    One visit moves an entry by the share alpha of its TD error (Watkins and Dayan 1992, equation 1), so k visits with
    the same target move it by the share 1 - (1 - alpha)^k. Targets that differ are taken as their weighted mean, which
    is what remains of all orders in which they could come. For alpha <= 1 an entry never leaves the range that its
    value and its targets span, however often a batch repeats it.
    """

    def apply_visits(self, visits: Visits, loss: tf.Tensor) -> Update:
        """Updates the table by the visits of all replicas; see `Optimizer.apply` for what is not finite."""
        *summed, loss = summed_over_replicas([*visits, loss])
        weight, error, log_kept = summed
        norm = tf.norm(error)
        applied = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        (table,) = self._weights
        change = -tf.math.expm1(log_kept) * tf.math.divide_no_nan(error, weight)
        table.assign_add(tf.where(applied, change, 0.0))
        self.updates.assign_add(tf.cast(applied, tf.int64))
        return Update(norm, applied)


class QLearningAgent(TdAgent):
    """Moves each visited entry of the table toward the mean of its targets; see `WatkinsRule`.

    There is no target network: its copy is made after every gradient step.
    """

    _config: QLearningConfig
    _optimizer: WatkinsRule

    def __init__(self, specs: Specs, config: QLearningConfig, epsilon: float, seed: int) -> None:
        table = Table(specs, config)
        super().__init__(specs, config, table, epsilon, seed, target_update_tau=1.0, target_update_period=1)

    def _make_optimizer(self) -> WatkinsRule:
        config = self._config
        return WatkinsRule(
            self._q_network.trainable_weights,
            config.learning_rate,
            learning_rate_final=config.learning_rate_final,
            decay_steps=config.learning_rate_decay_steps,
            schedule=config.learning_rate_schedule,
        )

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        q_tm1 = self._q_network.raw(batch.observation_tm1, training=training)
        q_t = tf.stop_gradient(self._q_network.raw(batch.observation_t))
        value_t = losses.bootstrap_value(q_t, q_t, batch.mask_t)
        target_tm1 = batch.folded.reward + batch.folded.discount * value_t
        td_error = target_tm1 - losses.action_value(q_tm1, batch.action)
        return Errors(losses.elementwise_loss(td_error, "mse"), td_error, tf.abs(td_error), q_tm1)

    def _update_weights(self, experience: Any, weights: Any) -> tuple[tf_agent.LossInfo, Update]:
        found = self._loss(experience, weights, training=True)
        batch = self._transitions(experience)
        weight = tf.cast(batch.folded.valid, tf.float32)
        if weights is not None:
            weight *= weights
        visits = self._visits(batch, weight, found.extra.td_error)
        return found, self._optimizer.apply_visits(visits, found.loss)

    def _visits(self, batch: NStepTransitions, weight: tf.Tensor, td_error: tf.Tensor) -> Visits:
        (table,) = self._q_network.trainable_weights
        observation = batch.observation_tm1
        state = state_numbers(self._specs, observation if isinstance(observation, dict) else {"": observation})
        entry = state * self._specs.num_actions + tf.cast(batch.action, tf.int32)

        def total(values: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.math.unsorted_segment_sum(values, entry, int(np.prod(table.shape))), table.shape)

        kept = tf.maximum(1.0 - self._optimizer.learning_rate() * weight, _LEAST_KEPT)
        return Visits(total(weight), total(weight * td_error), total(tf.math.log(kept)))


def _sizes(specs: Specs) -> list[int]:
    """Number of values of each category of an observation."""
    return [largest + 1 for spec in specs.leaves().values() for largest in spec.maximum]


def build(specs: Specs, config: QLearningConfig, *, epsilon: float = 0.1, seed: int = 0) -> QLearningAgent:
    """Builds a tabular agent, within the distribution strategy in scope; see `agents.dqn.build`."""
    return QLearningAgent(specs, config, epsilon, seed)
