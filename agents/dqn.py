"""The DQN agent: Double, Dueling, n-step, Noisy, Munchausen, and a conservative penalty for datasets."""

import tensorflow as tf

from agents import losses
from agents.configs.dqn import DqnConfig
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

    def _q_values(self, outputs: tf.Tensor) -> tf.Tensor:
        """Q-values float32 [B, A] of what the model puts out."""
        return outputs

    def _td_loss(self, outputs_tm1: tf.Tensor, action: tf.Tensor, target: tf.Tensor, td_error: tf.Tensor) -> tf.Tensor:
        """The loss of each action's Q-value for its target, float32 [B]."""
        return losses.elementwise_loss(td_error, self._config.loss)

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        config, online, target_network = self._config, self._q_network, self._target_q_network
        before, after, folded = batch.observation_tm1, batch.observation_t, batch.folded
        outputs_tm1 = online.raw(before, *self._noise(before, 0, training), training=training)
        q_tm1, q_t = self._q_values(outputs_tm1), target_network.outputs(after, self._noise(after, 1, training))
        if config.munchausen:
            from agents import munchausen

            target_tm1 = target_network.outputs(before, self._noise(before, 3, training))
            target = munchausen.target(batch, target_tm1, q_t, config, self.train_step_counter)
        else:
            selector_t = online.outputs(after, self._noise(after, 2, training)) if config.double else q_t
            target = folded.reward + folded.discount * losses.bootstrap_value(q_t, selector_t, batch.mask_t)
        target = self._shared(tf.stop_gradient(target))
        td_error = target - losses.action_value(q_tm1, batch.action)
        loss = self._td_loss(outputs_tm1, batch.action, target, td_error)
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
    if config.hl_gauss:
        from agents import hl_gauss

        return hl_gauss.build(specs, config, epsilon, seed)
    if specs.action_sizes or config.demonstrates:
        from agents.branching import suited

        kind: type[DqnAgent] = suited(DqnAgent, specs, config)
        return kind(specs, config, QNetwork(specs, config, seed), epsilon, seed)
    return DqnAgent(specs, config, QNetwork(specs, config, seed), epsilon, seed)
