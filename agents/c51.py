"""Categorical DQN (Bellemare et al. 2017) and Rainbow, which is its switches all on, on TF-Agents' categorical agent.

The stock agent's loss ignores importance weights, gives no TD errors and learns from pairs of frames that belong to two
episodes; it is not used.
"""

from typing import Any

import tensorflow as tf
from tf_agents.agents.categorical_dqn import categorical_dqn_agent

from agents import distributional_losses, losses, support
from agents.branching import suited
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


def mean(logits: tf.Tensor, atoms: Any) -> tf.Tensor:
    """The mean return [B, A] of logits [B, A, N] over atoms [N]."""
    return tf.reduce_sum(tf.nn.softmax(logits) * atoms, axis=2)


class C51Agent(DeepTdAgent, categorical_dqn_agent.CategoricalDqnAgent):  # type: ignore[misc]
    """Learns the distribution of the return by cross-entropy with its projected Bellman update.

    Where `v_min` or `v_max` is "auto" it has the atoms of `support.provisional` until `set_support`.
    """

    _config: C51Config

    def __init__(self, specs: Specs, config: C51Config, epsilon: float, seed: int) -> None:
        low, high = support.provisional(config.discount, config.v_min, config.v_max)
        # TF-Agents' own policies keep these ends: which action is the best does not depend on them.
        bounds = {"min_q_value": low, "max_q_value": high}
        super().__init__(specs, config, CategoricalNetwork(specs, config, seed), epsilon, seed, **bounds)
        model = self._q_network.model
        self._open = None
        if config.open_fields:
            from agents.layers.open_support import OpenSupport

            self._open = OpenSupport(self._support.numpy(), mean)
        self._acting_model = tf.keras.Model(model.input, (self._open or self._mean)(model.output))

    def set_support(self, low: float, high: float) -> None:
        """Decides the ends of a support that the configuration leaves open, before or between gradient steps."""
        assert self._open is not None
        self._open.points.assign(tf.linspace(tf.constant(low, tf.float32), high, self._config.num_atoms))

    @property
    def _atoms(self) -> Any:
        """float32 [N]: the returns that the logits are of."""
        return self._support if self._open is None else self._open.points

    def _mean(self, logits: tf.Tensor) -> tf.Tensor:
        """Q-values [B, A] of logits [B, A, atoms]."""
        return mean(logits, self._atoms)

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        config, support_atoms = self._config, tf.convert_to_tensor(self._atoms)
        before, after, folded = batch.observation_tm1, batch.observation_t, batch.folded
        logits_tm1 = self._q_network.raw(before, *self._noise(before, 0, training), training=training)
        logits_t = self._target_q_network.raw(after, *self._noise(after, 1, training))
        reward, atoms_t = folded.reward, support_atoms
        if config.munchausen:
            from agents import munchausen

            tau = munchausen.temperature_at(config, self.train_step_counter)
            q_before = self._mean(self._target_q_network.raw(before, *self._noise(before, 3, training)))
            reward += munchausen.bonus(q_before, batch.mask_tm1, batch.action, config, tau)
            atoms_t, probabilities_t = munchausen.soft_atoms(support_atoms, tf.nn.softmax(logits_t), batch.mask_t, tau)
        else:
            selector = self._q_network.raw(after, *self._noise(after, 2, training)) if config.double else logits_t
            best = tf.argmax(losses.masked_q(self._mean(selector), batch.mask_t), axis=1, output_type=tf.int32)
            probabilities_t = tf.nn.softmax(distributional_losses.of_action(logits_t, best))
        atoms = reward[:, tf.newaxis] + folded.discount[:, tf.newaxis] * atoms_t
        projected = distributional_losses.project(support_atoms, atoms, probabilities_t)
        target = self._shared(tf.stop_gradient(projected))
        log_probabilities = tf.nn.log_softmax(distributional_losses.of_action(logits_tm1, batch.action))
        cross_entropy = -tf.reduce_sum(target * log_probabilities, axis=1)
        q_tm1 = self._mean(logits_tm1)
        td_error = tf.reduce_sum(target * support_atoms, axis=1) - losses.action_value(q_tm1, batch.action)
        # The priority is the divergence that is left (Hessel et al. 2018): of the loss, the part that can be learned.
        divergence = cross_entropy + tf.reduce_sum(tf.math.xlogy(target, target), axis=1)
        return Errors(cross_entropy, td_error, tf.maximum(divergence, 0.0), q_tm1)


def build(specs: Specs, config: C51Config, *, epsilon: float = 0.1, seed: int = 0) -> C51Agent:
    """Builds a categorical agent, within the distribution strategy in scope; see `agents.dqn.build`."""
    agent: C51Agent = suited(C51Agent, specs, config)(specs, config, epsilon, seed)
    return agent
