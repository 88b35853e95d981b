"""Behaviour cloning (Pomerleau 1991): a policy learned by imitation of a dataset's actions, without rewards."""

from typing import Any

import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.trajectories import StepType

from agents import losses, normalization, policy_losses
from agents.configs.behaviour_cloning import BehaviourCloningConfig
from agents.network_agent import flatten
from agents.policy_agent import PolicyAgent
from agents.specs import Specs
from agents.td_agent import Errors, loss_info


class BehaviourCloningAgent(PolicyAgent):
    """Minimises the cross-entropy -log pi(a|s) of the actions taken.

    Frames at an episode's end teach nothing, nor do those whose action their mask forbids. Losses are divided by the
    frames of the global batch, these included, and gradients summed over replicas before they are clipped.
    `LossInfo.extra` is a `LossExtra`: its errors and priorities are the cross-entropies, its values the logits.

    `train` takes a `Trajectory` [B, 1, ...], of which it reads observation, action and step type.
    """

    def _train(self, experience: Any, weights: Any = None) -> tf_agent.LossInfo:
        variables = self._network.learned
        with tf.GradientTape() as tape:
            loss, extra = self._loss(experience, weights, training=True)
        norm, applied = self._optimizer.apply(tape.gradient(loss, variables), loss)
        self._network.follow(self._config.spectral_norm, applied)
        self.train_step_counter.assign_add(1)
        normalization.observe(self._network.model, self._split(experience.observation)[0], 2, applied)
        return tf_agent.LossInfo(loss, extra._replace(gradient_norm=norm, applied=applied))

    def _loss(self, experience: Any, weights: Any = None, training: bool = False, **_: Any) -> tf_agent.LossInfo:
        if experience.reward.shape[1] != 1:
            raise ValueError(f"behaviour cloning learns from single frames; got experience {experience.reward.shape}")
        observation, mask = tf.nest.map_structure(flatten, self._split(experience.observation))
        action, step_type = flatten(experience.action), flatten(experience.step_type)
        dimensions, logits = self._dimensions, self._network.evaluate(observation, training)[0]
        allowed, choices = self._mask_of_rows(mask, action.shape[0]), dimensions.choices(action)
        log_policy = policy_losses.soft_policy(logits, allowed, 1.0)[1]
        valid = tf.not_equal(step_type, StepType.LAST)
        if self._masked:
            valid &= dimensions.allows(mask, action)
        taken = dimensions.total(policy_losses.log_probability(log_policy, choices))
        cross_entropy = tf.where(valid, -taken, 0.0)
        allowed = losses.allowed_where(allowed, dimensions.repeated(valid))
        return loss_info(Errors(cross_entropy, cross_entropy, cross_entropy, logits), choices, weights, allowed)


def build(
    specs: Specs, config: BehaviourCloningConfig, *, epsilon: float = 0.0, seed: int = 0
) -> BehaviourCloningAgent:
    """Builds a behaviour cloning agent, within the distribution strategy in scope; see `agents.dqn.build`.

    `epsilon` has no effect: the agent's `collect_policy` draws from the policy learned.
    """
    del epsilon
    return BehaviourCloningAgent(specs, config, seed, critic=False)
