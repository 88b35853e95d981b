"""DQfD's parts of the loss, for the kinds that learn Q-values of a state's actions (Hester et al. 2018).

J(Q) = J_DQ(Q) + lambda_1 J_n(Q) + lambda_2 J_E(Q) + lambda_3 J_L2(Q), the paper's equation 3: a loss of one step beside
that of n steps, a large-margin loss of demonstrated actions, and the squares of the weights. Windows of demonstrations
are told from others by the trajectory's policy info, 1 of a demonstration's and 0 of any other's; without any, as in a
run that learns offline, all are demonstrations.
"""

from typing import Any

import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.trajectories import Transition

from agents import losses
from agents.td_agent import DeepTdAgent, Errors, NStepTransitions


def large_margin_loss(q: tf.Tensor, action: tf.Tensor, margin: float, mask: tf.Tensor | None = None) -> tf.Tensor:
    """J_E(Q) = max_a [Q(s, a) + l(a_E, a)] - Q(s, a_E), float32 [B] (Hester et al. 2018, equation 2).

    l(a_E, a) is the margin for all actions but the demonstrated one, a_E, and 0 for that: the loss is 0 where its
    Q-value exceeds every other by the margin.

    Args:
      q: float32 [B, A].
      action: int [B], the demonstrated one.
      margin: the paper's 0.8.
      mask: bool [B, A], the actions that are allowed; None allows all. The demonstrated one counts in any case.
    """
    is_other = 1.0 - tf.one_hot(action, q.shape[1])
    taken = losses.action_value(q, action)
    raised = losses.masked_q(q + margin * is_other, mask)
    return tf.maximum(tf.reduce_max(raised, axis=1), taken) - taken


class Demonstrating:
    """Adds DQfD's parts to the loss of a kind: put before the kind in a class, see `demonstrating`."""

    _config: Any
    _q_network: Any

    def _transitions(self, experience: Any) -> NStepTransitions:
        found: NStepTransitions = super()._transitions(experience)  # type: ignore[misc]
        return found._replace(info=experience.policy_info if _has_marks(experience) else ())

    def _one_step(self, experience: Any, batch: NStepTransitions) -> NStepTransitions:
        """The first step of each window as a transition of its own."""
        agent: Any = self
        config = self._config
        rewards = losses.clip_reward(experience.reward[:, :2], config.reward_clip)
        gamma, _ = losses.horizon(config, agent.train_step_counter)
        folded = losses.n_step_return(experience.step_type[:, :2], rewards, experience.discount[:, :2], gamma)
        after, mask = agent._split(tf.nest.map_structure(lambda leaf: leaf[:, 1], experience.observation))
        return batch._replace(observation_t=after, mask_t=mask, folded=folded)

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        found: Errors = super()._errors(batch, training)  # type: ignore[misc]
        config = self._config
        if not config.margin:
            return found
        loss = config.margin_weight * large_margin_loss(found.q_tm1, batch.action, config.margin, batch.mask_tm1)
        marked = 1.0 if isinstance(batch.info, tuple) else batch.info
        return found._replace(loss=found.loss + marked * loss)

    def _loss(self, experience: Any, weights: Any = None, training: bool = False, **more: Any) -> tf_agent.LossInfo:
        found = super()._loss(experience, weights, training, **more)  # type: ignore[misc]
        config, loss, agent = self._config, found.loss, self
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if config.one_step_weight and not isinstance(experience, Transition):
            batch = self._one_step(experience, self._transitions(experience))
            errors: Errors = super()._errors(batch, training)  # type: ignore[misc]
            one = tf.where(batch.folded.valid, errors.loss, 0.0)
            one = one if weights is None else one * weights
            loss += config.one_step_weight * tf.reduce_mean(one) / replicas
        if config.l2_weight:
            squares = [tf.reduce_sum(tf.square(weight)) for weight in agent._q_network.trainable_weights]
            loss += config.l2_weight * tf.add_n(squares) / replicas
        return found._replace(loss=loss)


def _has_marks(experience: Any) -> bool:
    return not isinstance(experience, Transition) and not isinstance(experience.policy_info, tuple)


def demonstrating(kind: type[DeepTdAgent]) -> Any:
    """The class of agents of a kind whose loss has DQfD's parts, as far as the configuration has them."""
    return type(f"Demonstrating{kind.__name__}", (Demonstrating, kind), {"__doc__": kind.__doc__})
