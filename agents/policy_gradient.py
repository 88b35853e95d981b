"""Policy gradients: REINFORCE (Williams 1992), with or without a value baseline, and PPO (Schulman et al. 2017).

Both learn from sequences that the present weights collected: the pipeline ensures that, with a queue and collectors
that wait. So old log-probabilities are computed here, and frames need not store them. Of actions of several dimensions
the policy is a product of one categorical distribution a dimension: log-probabilities and entropies are sums of theirs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.trajectories import StepType

from agents import losses, minibatches, policy_losses
from agents.configs.policy_gradient import PolicyGradientConfig, PpoConfig, ReinforceConfig
from agents.network_agent import flatten
from agents.policy_agent import PolicyAgent
from agents.specs import Specs
from agents.td_agent import LossExtra

_SMALLEST_DEVIATION = 1e-8
"""Advantages that are all alike stay 0 when they are scaled to a deviation of 1."""


class Frames(NamedTuple):
    """The frames of a batch, with log-probabilities, advantages and returns under the weights that collected them."""

    observation: Any
    """Nest [B, L, ...]."""
    mask: Any
    """bool [B, L, A]; () where the environment masks nothing."""
    action: tf.Tensor
    """int64 [B, L], or [B, L, D]."""
    valid: tf.Tensor
    """bool [B, L]: false where a frame teaches nothing."""
    log_probability: tf.Tensor
    """float32 [B, L], of the actions before the first update."""
    advantage: tf.Tensor
    """float32 [B, L], normalised if so configured."""
    goal: tf.Tensor
    """float32 [B, L], the returns, which are the targets of the values."""


class PolicyGradientAgent(PolicyAgent):
    """Updates the policy by the gradient of log pi(a|s) A(s, a); a kind may have another `_objective` and `_parts`.

    Frames at an episode's end teach nothing, nor do those whose action their mask forbids: no policy chose it. Losses
    are divided by the frames of the global batch, these included, and gradients summed over replicas before they are
    clipped, so that a replica count changes nothing. `LossInfo.extra` is a `LossExtra` without priorities; it counts a
    gradient step as applied where all its updates were, and speaks of those that were.

    `train` takes a `Trajectory` [B, rollout + 1, ...]. The last frame is there to bootstrap from.
    """

    _config: PolicyGradientConfig

    def __init__(self, specs: Specs, config: PolicyGradientConfig, seed: int, critic: bool, gae_lambda: float) -> None:
        super().__init__(specs, config, seed, critic)
        self._seed, self._gae_lambda = seed, gae_lambda

    def _objective(self, log_probability: tf.Tensor, frames: Frames) -> tf.Tensor:
        """The objective to maximise, float32 [N], from log-probabilities under the present weights; frames are flat."""
        return log_probability * frames.advantage

    def _parts(self, frames: Frames) -> tuple[int, Callable[[Any], Frames]]:
        """The number of updates of a gradient step, and a function from an update's number to its frames."""
        return 1, lambda _: frames

    def _train(self, experience: Any, weights: Any = None) -> tf_agent.LossInfo:
        if weights is not None:
            raise ValueError("a policy gradient takes no importance weights: its experience is its own policy's")
        frames, extra = self._frames(experience)
        count, part = self._parts(frames)

        def loss_of(k: Any) -> tf.Tensor:
            return self._mean_loss(part(k), training=True)

        return self._learn(loss_of, count, self._network.learned, experience, extra)

    def _loss(self, experience: Any, weights: Any = None, training: bool = False, **_: Any) -> tf_agent.LossInfo:
        """The loss of the whole batch before the first update."""
        del weights
        frames, extra = self._frames(experience)
        return tf_agent.LossInfo(self._mean_loss(frames, training), extra)

    def _mean_loss(self, frames: Frames, training: bool) -> tf.Tensor:
        """Computes this replica's part of the global batch's mean loss, float32 []."""
        config, flat = self._config, tf.nest.map_structure(flatten, frames)
        logits, value = self._network.evaluate(flat.observation, training)
        dimensions, allowed = self._dimensions, self._mask_of_rows(flat.mask, flat.action.shape[0])
        policy, log_policy = policy_losses.soft_policy(logits, allowed, 1.0)
        taken = policy_losses.log_probability(log_policy, dimensions.choices(flat.action))
        loss = -self._objective(dimensions.total(taken), flat)
        loss -= config.entropy_bonus * dimensions.total(policy_losses.entropy(policy, log_policy))
        if value is not None:
            loss += config.value_loss_weight * 0.5 * tf.square(flat.goal - value)
        mean = tf.reduce_mean(tf.where(flat.valid, loss, 0.0))
        return mean / tf.distribute.get_strategy().num_replicas_in_sync

    def _frames(self, experience: Any) -> tuple[Frames, LossExtra]:
        """Makes the frames to learn from and the figures of a batch; no gradient flows through them."""
        config = self._config
        self._shape_of(experience)
        observation, mask = self._split(experience.observation)
        step_type = experience.step_type
        log_probability, value = self._evaluated(observation, mask, experience.action)
        values = tf.zeros_like(experience.reward) if value is None else value
        rewards = losses.clip_reward(experience.reward, config.reward_clip)
        advantage = policy_losses.generalised_advantages(
            step_type,
            rewards,
            experience.discount,
            values,
            losses.discount_at(config, self.train_step_counter),
            self._gae_lambda,
        )
        valid = tf.not_equal(step_type[:, :-1], StepType.LAST)
        if value is None:
            valid &= policy_losses.ends_within(step_type)
        if self._masked:
            allowed = self._dimensions.allows(flatten(mask), flatten(experience.action))
            valid &= tf.reshape(allowed, (-1, step_type.shape[1]))[:, :-1]
        used = observation, mask, experience.action, log_probability
        observation, mask, action, log_probability = tf.nest.map_structure(lambda leaf: leaf[:, :-1], used)
        scaled = self._normalised(advantage, valid) if config.normalize_advantages else advantage
        frames = Frames(observation, mask, action, valid, log_probability, scaled, advantage + values[:, :-1])
        extra = LossExtra(
            td_error=tf.reduce_mean(tf.where(valid, tf.abs(advantage), 0.0), axis=1),
            priority=tf.zeros_like(values[:, 0]),
            q=tf.reduce_mean(values, axis=1),
            has_q=tf.ones_like(values[:, 0]),
            q_max=tf.reduce_max(values),
            gradient_norm=tf.zeros(()),
            applied=tf.constant(False),
        )
        return frames, extra

    def _evaluated(self, observation: Any, mask: Any, action: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Log-probabilities of the actions and values of the states under the present weights, float32 [B, T] each."""
        flat_observation, flat_mask, flat_action = tf.nest.map_structure(flatten, (observation, mask, action))
        logits, value = self._network.evaluate(flat_observation)
        dimensions, allowed = self._dimensions, self._mask_of_rows(flat_mask, flat_action.shape[0])
        _, log_policy = policy_losses.soft_policy(logits, allowed, 1.0)
        found = dimensions.total(policy_losses.log_probability(log_policy, dimensions.choices(flat_action)))
        length = action.shape[1]

        def unflatten(leaf: tf.Tensor) -> tf.Tensor:
            return tf.stop_gradient(tf.reshape(leaf, (-1, length)))

        return unflatten(found), None if value is None else unflatten(value)

    def _normalised(self, advantage: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Advantages less their mean over their deviation, both of the valid frames of the global batch."""
        weight = tf.cast(valid, tf.float32)
        count = tf.maximum(_over_replicas(tf.reduce_sum(weight)), 1.0)
        centered = advantage - _over_replicas(tf.reduce_sum(weight * advantage)) / count
        variance = _over_replicas(tf.reduce_sum(weight * tf.square(centered))) / count
        return centered / (tf.sqrt(variance) + _SMALLEST_DEVIATION)


class PpoAgent(PolicyGradientAgent):
    """Learns from each batch in several epochs of minibatches, with a clipped ratio of new to old probabilities.

    Minibatches are of whole sequences; see `minibatches.shuffled`. A replica's share is a multiple of `minibatches`.
    """

    _config: PpoConfig

    def _objective(self, log_probability: tf.Tensor, frames: Frames) -> tf.Tensor:
        ratio = tf.exp(log_probability - frames.log_probability)
        return policy_losses.clipped_surrogate(ratio, frames.advantage, self._config.clip_ratio)

    def _parts(self, frames: Frames) -> tuple[int, Callable[[Any], Frames]]:
        epochs, count, sequences = self._config.epochs, self._config.minibatches, frames.action.shape[0]
        if sequences % count:
            raise ValueError(f"a batch of {sequences} sequences does not divide into minibatches={count}")
        if count == 1:
            return epochs, lambda _: frames
        of_updates = minibatches.shuffled(self._seed, self.train_step_counter, sequences, epochs, count)

        def part(update: Any) -> Any:
            return tf.nest.map_structure(lambda leaf: tf.gather(leaf, of_updates[update]), frames)

        return epochs * count, part


def _over_replicas(total: tf.Tensor) -> tf.Tensor:
    """Adds up all replicas' sums."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return total
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, total)


def build_reinforce(
    specs: Specs, config: ReinforceConfig, *, epsilon: float = 0.0, seed: int = 0
) -> PolicyGradientAgent:
    """Builds a REINFORCE agent, within the distribution strategy in scope; see `agents.dqn.build`.

    With a baseline the advantage is the return, bootstrapped where the sequence or a truncation cuts it, less the
    state's value. Without one it is the return, and a truncation ends an episode as a termination does.

    Its `train` takes a `Trajectory` [B, config.window_length, ...]; `epsilon` has no effect, as the policy draws.
    """
    del epsilon
    return PolicyGradientAgent(specs, config, seed, config.baseline, 1.0)


def build_ppo(specs: Specs, config: PpoConfig, *, epsilon: float = 0.0, seed: int = 0) -> PpoAgent:
    """Builds a PPO agent, within the distribution strategy in scope; see `build_reinforce`."""
    del epsilon
    return PpoAgent(specs, config, seed, True, config.gae_lambda)
