"""The DQN agent: Double, Dueling, n-step, Noisy, Munchausen, and a conservative penalty for datasets."""

import tensorflow as tf

from agents import losses
from agents.configs import DqnConfig
from agents.networks import value_model
from agents.specs import Specs
from agents.td_agent import DeepTdAgent, Errors, NStepTransitions
from agents.value_network import ValueNetwork


class QNetwork(ValueNetwork):
    """A network that gives one number an action: its Q-value."""

    def __init__(self, specs: Specs, config: DqnConfig, seed: int, name: str = "QNetwork") -> None:
        super().__init__(specs, lambda: value_model(specs, config, None, seed), name)


class DqnAgent(DeepTdAgent):
    """Q-learning with a network (Mnih et al. 2015, algorithm 1)."""

    _config: DqnConfig

    def __init__(self, specs: Specs, config: DqnConfig, epsilon: float, seed: int) -> None:
        super().__init__(specs, config, QNetwork(specs, config, seed), epsilon, seed)

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        config = self._config
        online, target = self._q_network, self._target_q_network
        before, after, folded = batch.observation_tm1, batch.observation_t, batch.folded
        q_tm1 = online.raw(before, *self._noise(before, 0, training), training=training)
        q_t = target.raw(after, *self._noise(after, 1, training))
        reward = folded.reward
        if config.munchausen:
            from agents import munchausen

            target_tm1 = target.raw(before, *self._noise(before, 3, training))
            reward += munchausen.bonus(target_tm1, batch.mask_tm1, batch.action, config)
            value_t = munchausen.soft_value(q_t, batch.mask_t, config.munchausen_temperature)
        else:
            selector_t = online.raw(after, *self._noise(after, 2, training)) if config.double else q_t
            value_t = losses.bootstrap_value(q_t, selector_t, batch.mask_t)
        td_error = tf.stop_gradient(reward + folded.discount * value_t) - losses.action_value(q_tm1, batch.action)
        loss = losses.elementwise_loss(td_error, config.loss)
        if config.cql_alpha:
            loss += config.cql_alpha * losses.conservative_penalty(q_tm1, batch.mask_tm1, batch.action)
        return Errors(loss, td_error, tf.abs(td_error), q_tm1)


def build(specs: Specs, config: DqnConfig, *, epsilon: float = 0.1, seed: int = 0) -> DqnAgent:
    """Builds a DQN agent, within the distribution strategy in scope.

    Args:
      specs: the environment's interface; a masked one's observations are pairs of observation and bool mask [A].
      config: hyperparameters.
      epsilon: of the agent's own `collect_policy`, a probability; collectors of the pipeline have their own schedule.
      seed: of the initial weights.

    Returns:
      An initialized `tf_agents.agents.TFAgent` whose `train` takes `Trajectory` [B, n_step + 1, ...].
    """
    return DqnAgent(specs, config, epsilon, seed)
