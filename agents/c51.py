"""Categorical DQN (Bellemare et al. 2017) and Rainbow, which is its switches all on, on TF-Agents' categorical agent.

The stock agent's loss ignores importance weights, gives no TD errors and learns from pairs of frames that belong to two
episodes; it is not used.
"""

import tensorflow as tf
from tf_agents.agents.categorical_dqn import categorical_dqn_agent

from agents import distributional_losses, losses
from agents.configs.c51 import C51Config
from agents.networks import value_model
from agents.specs import Specs
from agents.td_agent import DeepTdAgent, Errors, NStepTransitions
from agents.value_network import ValueNetwork


class CategoricalNetwork(ValueNetwork):
    """A network that gives the logits of each action's distribution over the atoms."""

    def __init__(self, specs: Specs, config: C51Config, seed: int, name: str = "CategoricalNetwork") -> None:
        super().__init__(specs, lambda: value_model(specs, config, config.num_atoms, seed), name)
        self.num_atoms = config.num_atoms


class C51Agent(DeepTdAgent, categorical_dqn_agent.CategoricalDqnAgent):  # type: ignore[misc]
    """Learns the distribution of the return by cross-entropy with its projected Bellman update."""

    _config: C51Config

    def __init__(self, specs: Specs, config: C51Config, epsilon: float, seed: int) -> None:
        bounds = {"min_q_value": config.v_min, "max_q_value": config.v_max}
        super().__init__(specs, config, CategoricalNetwork(specs, config, seed), epsilon, seed, **bounds)
        model = self._q_network.model
        self._acting_model = tf.keras.Model(model.input, self._mean(model.output))

    def _mean(self, logits: tf.Tensor) -> tf.Tensor:
        """Q-values [B, A] of logits [B, A, atoms]."""
        return tf.reduce_sum(tf.nn.softmax(logits) * self._support, axis=2)

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        config = self._config
        before, after, folded = batch.observation_tm1, batch.observation_t, batch.folded
        logits_tm1 = self._q_network.raw(before, *self._noise(before, 0, training), training=training)
        logits_t = self._target_q_network.raw(after, *self._noise(after, 1, training))
        reward, atoms_t = folded.reward, self._support
        if config.munchausen:
            from agents import munchausen

            q_before = self._mean(self._target_q_network.raw(before, *self._noise(before, 3, training)))
            reward += munchausen.bonus(q_before, batch.mask_tm1, batch.action, config)
            atoms_t, probabilities_t = munchausen.soft_atoms(
                self._support, tf.nn.softmax(logits_t), batch.mask_t, config.munchausen_temperature
            )
        else:
            selector = self._q_network.raw(after, *self._noise(after, 2, training)) if config.double else logits_t
            best = tf.argmax(losses.masked_q(self._mean(selector), batch.mask_t), axis=1, output_type=tf.int32)
            probabilities_t = tf.nn.softmax(distributional_losses.of_action(logits_t, best))
        atoms = reward[:, tf.newaxis] + folded.discount[:, tf.newaxis] * atoms_t
        target = tf.stop_gradient(distributional_losses.project(self._support, atoms, probabilities_t))
        log_probabilities = tf.nn.log_softmax(distributional_losses.of_action(logits_tm1, batch.action))
        cross_entropy = -tf.reduce_sum(target * log_probabilities, axis=1)
        q_tm1 = self._mean(logits_tm1)
        td_error = tf.reduce_sum(target * self._support, axis=1) - losses.action_value(q_tm1, batch.action)
        # The priority is the divergence that is left (Hessel et al. 2018): of the loss, the part that can be learned.
        divergence = cross_entropy + tf.reduce_sum(tf.math.xlogy(target, target), axis=1)
        return Errors(cross_entropy, td_error, tf.maximum(divergence, 0.0), q_tm1)


def build(specs: Specs, config: C51Config, *, epsilon: float = 0.1, seed: int = 0) -> C51Agent:
    """Builds a categorical agent, within the distribution strategy in scope; see `agents.dqn.build`."""
    return C51Agent(specs, config, epsilon, seed)
