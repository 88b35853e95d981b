"""Tabular Q-learning (Watkins 1989), with the same windows, replay and learner as the networks."""

from typing import Any

import numpy as np
import tensorflow as tf

from agents import losses
from agents.configs import QLearningConfig
from agents.networks import inputs_of
from agents.optimizers import Sgd
from agents.specs import Specs
from agents.td_agent import Errors, NStepTransitions, TdAgent, ValueNetwork


def table_model(specs: Specs, initial_value: float) -> tf.keras.Model:
    """Builds a table of Q-values as a Keras model: one weight a state and action, states numbered by all categories."""
    leaves, inputs = specs.leaves(), inputs_of(specs)
    sizes = [largest + 1 for spec in leaves.values() for largest in spec.maximum]
    parts = [tf.reshape(inputs[name], (-1, len(spec.maximum))) for name, spec in leaves.items()]
    digits = parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)
    places = np.append(np.cumprod(sizes[:0:-1])[::-1], 1).astype(np.int32)
    one_hot = tf.one_hot(tf.reduce_sum(digits * places, axis=1), int(np.prod(sizes)))
    initial = tf.keras.initializers.Constant(initial_value)
    table = tf.keras.layers.Dense(specs.num_actions, use_bias=False, kernel_initializer=initial)
    return tf.keras.Model(specs.pack(inputs), table(one_hot))


class Table(ValueNetwork):
    """A table of Q-values as a network: one weight a state and action."""

    def __init__(self, specs: Specs, config: QLearningConfig, name: str = "Table") -> None:
        super().__init__(specs, lambda: table_model(specs, config.initial_value), name)

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """Q-values float32 [B, A] of a batch of observations."""
        return self.raw(observation, training=training), network_state


class QLearningAgent(TdAgent):
    """Moves each visited entry of the table by the learning rate times its TD errors, all of a batch together.

    That is gradient descent on half the squared errors, summed over the global batch. There is no target network: its
    copy is made after every gradient step.
    """

    _config: QLearningConfig

    def __init__(self, specs: Specs, config: QLearningConfig, epsilon: float, seed: int) -> None:
        table = Table(specs, config)
        super().__init__(specs, config, table, epsilon, seed, target_update_tau=1.0, target_update_period=1)

    def _make_optimizer(self) -> Sgd:
        config = self._config
        return Sgd(
            self._q_network.trainable_weights,
            config.learning_rate,
            learning_rate_final=config.learning_rate_final,
            decay_steps=config.learning_rate_decay_steps,
        )

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        q_tm1 = self._q_network.raw(batch.observation_tm1, training=training)
        q_t = tf.stop_gradient(self._q_network.raw(batch.observation_t))
        value_t = losses.bootstrap_value(q_t, q_t, batch.mask_t)
        target_tm1 = batch.folded.reward + batch.folded.discount * value_t
        td_error = target_tm1 - losses.action_value(q_tm1, batch.action)
        # The caller takes the mean over the global batch; the rule is a sum.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        total = tf.cast(tf.shape(td_error)[0] * replicas, tf.float32)
        return Errors(total * losses.elementwise_loss(td_error, "mse"), td_error, tf.abs(td_error), q_tm1)


def build(specs: Specs, config: QLearningConfig, *, epsilon: float = 0.1, seed: int = 0) -> QLearningAgent:
    """Builds a tabular agent, within the distribution strategy in scope; see `agents.dqn.build`."""
    return QLearningAgent(specs, config, epsilon, seed)
