"""PQN (Gallici et al. 2024): Q(lambda) from sequences of the present weights, without replay or target network."""

from typing import Any, NamedTuple

import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.policies import epsilon_greedy_policy
from tf_agents.trajectories import StepType

from agents import lambda_returns, losses, minibatches
from agents.branching import BranchPolicy, SharedFeatures
from agents.configs.pqn import PqnConfig
from agents.network_agent import NetworkAgent, flatten
from agents.networks import NetworkBuilder
from agents.optimizers import optimizer_of
from agents.specs import Specs
from agents.td_agent import Errors, LossExtra, loss_info
from agents.value_network import ValueNetwork


class Frames(NamedTuple):
    """Frames to learn from, with the returns under the weights before the first update; [N, ...] once they are flat."""

    observation: Any
    """Nest [B, L, ...]."""
    action: tf.Tensor
    """int64 [B, L], or [B, L, D]."""
    valid: tf.Tensor
    """bool [B, L]: false where a frame is an episode's end, from which no action was taken."""
    goal: tf.Tensor
    """float32 [B, L]: what the Q-value of the action is to become."""


class PqnAgent(NetworkAgent):
    """Moves Q-values to Q(lambda) returns, in epochs of minibatches of frames.

    The returns are of the weights before a gradient step's first update. Losses are divided by the frames of the
    global batch, ends of episodes included, and gradients summed over replicas before they are clipped, so that a
    replica count changes nothing. `LossInfo.extra` is a `LossExtra` without priorities; it counts a gradient step as
    applied where all its updates were.

    `train` takes a `Trajectory` [B, rollout + 1, ...]. The last frame is there to bootstrap from.
    """

    _config: PqnConfig

    def __init__(self, specs: Specs, config: PqnConfig, epsilon: float, seed: int) -> None:
        network = ValueNetwork(specs, lambda: q_model(specs, config, seed), "PqnNetwork")
        super().__init__(
            specs,
            config,
            network,
            lambda drawing: epsilon_greedily(drawing, epsilon),
            optimizer_of(network.trainable_weights, config),
        )
        self._seed = seed

    def _train(self, experience: Any, weights: Any = None) -> tf_agent.LossInfo:
        if weights is not None:
            raise ValueError("pqn takes no importance weights: each of its sequences is learned from once")
        config, variables = self._config, self._network.trainable_weights
        frames, extra = self._frames(experience)
        flat = tf.nest.map_structure(flatten, frames)
        examples, count = flat.action.shape[0], config.minibatches
        if examples % count:
            raise ValueError(f"a batch of {examples} frames does not divide into minibatches={count}")
        if count > 1:
            # Gathered once, not in each update: then those of compiled code are of what lies side by side.
            of_updates = minibatches.shuffled(self._seed, self.train_step_counter, examples, config.epochs, count)
            flat = tf.nest.map_structure(lambda leaf: tf.gather(leaf, of_updates), flat)

        def loss_of(k: Any) -> tf.Tensor:
            part = flat if count == 1 else tf.nest.map_structure(lambda leaf: tf.gather(leaf, k), flat)
            return self._mean_loss(part, training=True)

        return self._learn(loss_of, config.epochs * count, variables, experience, extra)

    def _loss(self, experience: Any, weights: Any = None, training: bool = False, **_: Any) -> tf_agent.LossInfo:
        """The loss of the whole batch before the first update."""
        del weights
        frames, extra = self._frames(experience)
        return tf_agent.LossInfo(self._mean_loss(tf.nest.map_structure(flatten, frames), training), extra)

    def _mean_loss(self, flat: Frames, training: bool) -> tf.Tensor:
        """Computes this replica's part of the mean loss of frames [N, ...], float32 []."""
        q, dimensions = self._network.raw(flat.observation, training=training), self._dimensions
        td_error = dimensions.repeated(flat.goal) - losses.action_value(q, dimensions.choices(flat.action))
        loss = dimensions.mean(losses.elementwise_loss(td_error, self._config.loss))
        mean = tf.reduce_mean(tf.where(flat.valid, loss, 0.0))
        return mean / tf.distribute.get_strategy().num_replicas_in_sync

    def _frames(self, experience: Any) -> tuple[Frames, LossExtra]:
        """Makes the frames to learn from and the figures of a batch; no gradient flows through them."""
        config, shape = self._config, self._shape_of(experience)
        observation, mask = self._split(experience.observation)
        step_type, action = experience.step_type, experience.action[:, :-1]
        raw = self._network.raw(tf.nest.map_structure(flatten, observation))
        allowed = self._mask_of_rows(flatten(mask) if self._masked else (), experience.reward.shape.num_elements())
        # Each frame's rows: of one number there is one, and no dimension for it.
        form = (-1, shape[1], *([self._dimensions.count] if self._dimensions.count > 1 else []), raw.shape[1])
        q = tf.stop_gradient(tf.reshape(raw, form))
        allowed = None if allowed is None else tf.reshape(allowed, form)
        rewards = losses.clip_reward(experience.reward, config.reward_clip)
        goal = lambda_returns.q_lambda_returns(
            step_type,
            rewards,
            experience.discount,
            q,
            allowed,
            losses.discount_at(config, self.train_step_counter),
            config.q_lambda,
        )
        valid = tf.not_equal(step_type[:, :-1], StepType.LAST)
        observation = tf.nest.map_structure(lambda leaf: leaf[:, :-1], observation)
        q = tf.reshape(q[:, :-1], (-1, raw.shape[1]))
        taken, of_rows = tf.reshape(action, [-1]), self._dimensions.repeated
        td_error = tf.abs(of_rows(tf.reshape(goal, [-1])) - losses.action_value(q, taken))
        td_error = tf.where(valid, tf.reshape(self._dimensions.mean(td_error), (-1, config.rollout)), 0.0)
        mean, nothing = tf.reduce_mean(td_error, axis=1), tf.zeros_like(goal[:, 0])
        if allowed is not None:
            allowed = tf.reshape(allowed[:, :-1], (-1, raw.shape[1]))
            allowed = losses.allowed_where(allowed, of_rows(tf.reshape(valid, [-1])))
        extra = loss_info(Errors(nothing, mean, nothing, q), taken, None, allowed).extra
        return Frames(observation, action, valid, goal), extra


def q_model(specs: Specs, config: PqnConfig, seed: int) -> tf.keras.Model:
    """Builds a Keras model from a batch of observations to Q-values float32 [B, A]; a mask is no input."""
    builder = NetworkBuilder(specs, config, seed)
    features, sizes = builder.torso(), specs.action_sizes
    if len(sizes) > 1:
        features = SharedFeatures(len(sizes))(features)
    return builder.model(builder.dense(features, specs.num_actions))


def epsilon_greedily(drawing: Any, epsilon: float) -> Any:
    """The policy that collects, of one that draws: each dimension of an action explores by itself."""
    if isinstance(drawing, BranchPolicy):
        return drawing.exploring(epsilon)
    return epsilon_greedy_policy.EpsilonGreedyPolicy(drawing, epsilon)


def build(specs: Specs, config: PqnConfig, *, epsilon: float = 0.1, seed: int = 0) -> PqnAgent:
    """Builds a PQN agent, within the distribution strategy in scope; see `agents.dqn.build`.

    Its `train` takes a `Trajectory` [B, config.window_length, ...].
    """
    return PqnAgent(specs, config, epsilon, seed)
