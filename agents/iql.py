"""Implicit Q-learning (Kostrikov et al. 2022), discrete: it never asks for an action that the data lacks."""

from typing import Any

import tensorflow as tf

from agents import losses
from agents.configs.iql import IqlConfig
from agents.networks import NetworkBuilder
from agents.policy_losses import log_probability, soft_policy
from agents.specs import Specs
from agents.td_agent import DeepTdAgent, Errors, NStepTransitions
from agents.value_network import ValueNetwork

LARGEST_WEIGHT = 100.0
"""Of an action that is imitated (Kostrikov et al. 2022, section 5.3 and their code)."""


def expectile_loss(error: tf.Tensor, expectile: float) -> tf.Tensor:
    """The asymmetric square |tau - 1(u < 0)| u^2 of each error u, which the expectile minimises (equation 3)."""
    return tf.abs(expectile - tf.cast(error < 0.0, tf.float32)) * tf.square(error)


def imitation_loss(log_probability: tf.Tensor, advantage: tf.Tensor, inverse_temperature: float) -> tf.Tensor:
    """Advantage-weighted regression: -min(exp(beta A), 100) log pi(a|s) of each example (equation 7)."""
    return -tf.minimum(tf.exp(inverse_temperature * advantage), LARGEST_WEIGHT) * log_probability


class IqlNetwork(ValueNetwork):
    """Towers behind one encoder: raw outputs float32 [B, A + 1 + A] are Q-values, the state's value and logits.

    Without a policy to act by, there are no logits.
    """

    def __init__(self, specs: Specs, config: Any, seed: int, name: str = "IqlNetwork") -> None:
        widths = (specs.num_actions, 1, specs.num_actions)[: 3 if config.learns_policy else 2]
        builder = NetworkBuilder(specs, config, seed)
        towers = [builder.dense(builder.torso(), width) for width in widths]
        super().__init__(specs, lambda: builder.model(tf.keras.layers.Concatenate(dtype="float32")(towers)), name)
        self.acting_model = builder.model(towers[2 if config.learns_policy else 0])
        """Logits, or Q-values: of the weights, those alone that act."""

    def outputs(self, observation: Any, noise: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        """What acts, float32 [B, A]: logits of the policy, or Q-values."""
        del noise  # none
        return self.acting_model(observation, training=training)


class IqlAgent(DeepTdAgent):
    """Learns a state's value as an expectile of its Q-values, these by it, and a policy by their advantages."""

    _config: Any

    def __init__(self, specs: Specs, config: Any, epsilon: float, seed: int) -> None:
        super().__init__(specs, config, IqlNetwork(specs, config, seed), epsilon, seed)
        self._acting_model = self._q_network.acting_model

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        config, online, actions = self._config, self._q_network, self._specs.num_actions
        raw_tm1 = online.raw(batch.observation_tm1, training=training)
        q_tm1, value_tm1 = raw_tm1[:, :actions], raw_tm1[:, actions]
        value_t = online.raw(batch.observation_t)[:, actions]
        target = tf.stop_gradient(batch.folded.reward + batch.folded.discount * value_t)
        td_error = target - losses.action_value(q_tm1, batch.action)
        taken = self._target_q_network.raw(batch.observation_tm1)[:, :actions]
        advantage = tf.stop_gradient(losses.action_value(taken, batch.action)) - value_tm1
        loss = tf.square(td_error) + expectile_loss(advantage, config.expectile)
        if config.learns_policy:
            _, log_policy = soft_policy(raw_tm1[:, actions + 1 :], batch.mask_tm1, 1.0)
            likelihood = log_probability(log_policy, batch.action)
            imitated = imitation_loss(likelihood, tf.stop_gradient(advantage), config.inverse_temperature)
            loss += tf.where(likelihood > likelihood.dtype.min, imitated, 0.0)  # a forbidden action is none to imitate
        return Errors(loss, td_error, tf.abs(td_error), q_tm1)


def build(specs: Specs, config: IqlConfig, *, epsilon: float = 0.1, seed: int = 0) -> IqlAgent:
    """Builds an IQL agent, within the distribution strategy in scope; see `agents.dqn.build`."""
    return IqlAgent(specs, config, epsilon, seed)
