"""Tabular Q-learning (Watkins 1989) by the same windows, replay and learner as the networks."""

from typing import Any

import tensorflow as tf

from agents import losses, networks
from agents.configs import QLearningConfig
from agents.optimizers import Sgd
from agents.specs import Specs
from agents.td_agent import Errors, TdAgent, Transitions, ValueNetwork


class Table(ValueNetwork):
    """One weight a state and action."""

    def __init__(self, specs: Specs, config: QLearningConfig, name: str = "Table") -> None:
        super().__init__(specs, lambda: networks.table_model(specs, config.initial_value), name)

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """Q-values float32 [B, A] of a batch of observations."""
        return self.raw(observation, training=training), network_state


class QLearningAgent(TdAgent):
    """Moves each entry visited by its learning rate times its TD errors, all of a batch on the table before it.

    That is gradient descent on half the squared errors, summed over the global batch. There is no target network: its
    copy is made after every gradient step.
    """

    def __init__(self, specs: Specs, config: QLearningConfig, epsilon: float, seed: int) -> None:
        table = Table(specs, config)
        super().__init__(specs, config, table, epsilon, seed, target_update_tau=1.0, target_update_period=1)

    def _make_optimizer(self) -> Sgd:
        config: QLearningConfig = self._config
        return Sgd(
            self._q_network.trainable_weights,
            config.learning_rate,
            learning_rate_final=config.learning_rate_final,
            decay_steps=config.learning_rate_decay_steps,
        )

    def _errors(self, batch: Transitions, training: bool) -> Errors:
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
