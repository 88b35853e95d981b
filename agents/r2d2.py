"""Recurrent Q-learning from replayed sequences: R2D2 (Kapturowski et al. 2019) and its plain form, DRQN."""

from typing import Any, NamedTuple

import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.trajectories import StepType

from agents import losses, rescaling
from agents.branching import BranchingPolicies, branching, dimensions_of
from agents.configs.r2d2 import R2d2Config
from agents.networks import ValueNetworkBuilder
from agents.specs import Specs
from agents.td_agent import DeepTdAgent, Errors, loss_info
from agents.value_network import ValueNetwork, batch_size_of


class Recurrent(NamedTuple):
    """The parts of a recurrent Q-network, and all of them as one step."""

    encoder: tf.keras.Model
    """Observation nest -> features float32 [B, n]."""
    cell: tf.keras.layers.Layer
    """Features and a list of output and cell state -> output [B, units] and the next list."""
    head: tf.keras.Model
    """Output float32 [B, units] -> Q-values [B, A]."""
    step: tf.keras.Model
    """A list of observation nest and state [B, 2 units] -> Q-values and next state side by side."""


def recurrent_model(specs: Specs, config: R2d2Config, seed: int) -> Recurrent:
    """Builds a network with an LSTM between its hidden layers and its head."""
    builder = ValueNetworkBuilder(specs, config, seed)
    features = builder.torso()
    encoder = builder.model(features)
    cell = tf.keras.layers.LSTMCell(
        config.lstm_units,
        kernel_initializer=builder.seeds.glorot_uniform(),
        recurrent_initializer=builder.seeds.orthogonal(),
        dtype="float32",
    )
    output = tf.keras.Input((config.lstm_units,))
    head = tf.keras.Model(output, builder.head(output, None))
    state = tf.keras.Input((config.state_units,), name="state")
    following, states = cell(features, tf.split(state, 2, axis=1))
    step = builder.model(tf.concat([head(following), *states], axis=1), state)
    return Recurrent(encoder, cell, head, step)


class RecurrentNetwork(ValueNetwork):
    """A Q-network with an LSTM; its state is one vector of output and cell."""

    def __init__(self, specs: Specs, config: R2d2Config, seed: int, name: str = "RecurrentNetwork") -> None:
        parts = recurrent_model(specs, config, seed)
        super().__init__(specs, lambda: parts.step, name, tf.TensorSpec((config.state_units,), tf.float32))
        self._parts, self._actions = parts, specs.num_actions

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """Q-values float32 [B, A], or rows, of one step, and the states that follow; an episode begins with zeros."""
        keep = tf.cast(step_type != StepType.FIRST, tf.float32)[:, tf.newaxis]
        both = self.model([observation, network_state * keep], training=training)
        return dimensions_of(self._specs).rows(both[:, : self._actions]), both[:, self._actions :]

    def unroll(self, observation: Any, is_first: tf.Tensor, state: tf.Tensor, burn_in: int) -> tf.Tensor:
        """Computes Q-values of the frames after the burn-in, through which no gradient flows.

        Args:
          observation: nest [B, T, ...].
          is_first: bool [B, T], frames at which an episode begins and the state with it.
          state: float32 [B, 2 units], before the first frame.
          burn_in: frames at the beginning.

        Returns:
          float32 [B, T - burn_in, A].
        """
        batch, length = is_first.shape[0], is_first.shape[1]
        flat = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (-1, *leaf.shape[2:])), observation)
        features = tf.reshape(self._parts.encoder(flat), (batch, length, -1))
        keep = 1.0 - tf.cast(is_first, tf.float32)
        states = tf.split(state, 2, axis=1)
        outputs = []
        for t in range(length):
            states = [part * keep[:, t, tf.newaxis] for part in states]
            output, states = self._parts.cell(features[:, t], states)
            if t + 1 == burn_in:
                states = [tf.stop_gradient(part) for part in states]
            if t >= burn_in:
                outputs.append(output)
        stacked = tf.reshape(tf.stack(outputs, axis=1), (-1, outputs[0].shape[1]))
        return tf.reshape(self._parts.head(stacked), (batch, length - burn_in, self._actions))


class R2d2Agent(DeepTdAgent):
    """Learns from every frame of a sequence after its burn-in; the n last frames are only bootstrapped from."""

    _config: R2d2Config

    def __init__(self, specs: Specs, config: R2d2Config, epsilon: float, seed: int) -> None:
        self._dimensions = dimensions_of(specs)
        super().__init__(
            specs,
            config,
            RecurrentNetwork(specs, config, seed),
            epsilon,
            seed,
            n_step=1,  # TF-Agents refuses more of a recurrent network; its own loss is not used
        )
        self._train_sequence_length = config.window_length

    def _loss(self, experience: Any, weights: Any = None, training: bool = False, **_: Any) -> tf_agent.LossInfo:
        config = self._config
        burn_in, length, n = config.burn_in, config.sequence, config.largest_n_step
        if experience.reward.shape[1] != config.window_length:
            raise ValueError(
                f"burn_in={burn_in}, sequence={length} and n_step={n} need {config.window_length} frames; "
                f"got experience of shape {experience.reward.shape}"
            )
        dimensions, (observation, mask) = self._dimensions, self._split(experience.observation)
        is_first = experience.step_type == StepType.FIRST
        online = self._q_network.unroll(observation, is_first, self._state(experience), burn_in)
        target = self._target_q_network.unroll(observation, is_first, self._state(experience), burn_in)

        def windows(leaf: tf.Tensor) -> tf.Tensor:
            """The windows that begin in each frame learned from, [B * length, n + 1, ...]."""
            parts = [leaf[:, t : t + n + 1] for t in range(length)]
            return tf.reshape(tf.stack(parts, axis=1), (-1, n + 1, *leaf.shape[2:]))

        behind = tf.nest.map_structure(lambda leaf: leaf[:, burn_in:], (experience.step_type, experience.discount))
        rewards = losses.clip_reward(experience.reward[:, burn_in:], config.reward_clip)
        step_type, discount = (windows(leaf) for leaf in behind)
        gamma_and_n = losses.horizon(config, self.train_step_counter)
        folded = losses.n_step_return(step_type, windows(rewards), discount, *gamma_and_n)

        def of_bootstrap(leaf: tf.Tensor) -> tf.Tensor:
            return tf.gather(windows(leaf), folded.bootstrap_index, batch_dims=1)

        q_t = dimensions.rows(of_bootstrap(target))
        selector_t = dimensions.rows(of_bootstrap(tf.stop_gradient(online))) if config.double else q_t
        frames = batch_size_of(folded.reward)
        mask_t = dimensions.masks(None if mask is None else of_bootstrap(mask[:, burn_in:]), frames)
        value_t = dimensions.mean(losses.bootstrap_value(q_t, selector_t, mask_t))
        if config.value_rescaling:
            goal = rescaling.rescale(folded.reward + folded.discount * rescaling.unrescale(value_t))
        else:
            goal = folded.reward + folded.discount * value_t
        q_tm1 = dimensions.rows(tf.reshape(online[:, :length], (-1, online.shape[2])))
        action = tf.reshape(experience.action[:, burn_in : burn_in + length], (-1,))
        valid = dimensions.repeated(folded.valid)
        goal = dimensions.repeated(tf.stop_gradient(goal))
        error = tf.where(valid, goal - losses.action_value(q_tm1, action), 0.0)

        def of_frames(of_rows: tf.Tensor) -> tf.Tensor:
            return tf.reshape(dimensions.mean(of_rows), (-1, length))

        loss = tf.reduce_mean(of_frames(losses.elementwise_loss(error, config.loss)), axis=1)
        absolute, eta = of_frames(tf.abs(error)), config.priority_maximum_share
        priority = eta * tf.reduce_max(absolute, axis=1) + (1.0 - eta) * tf.reduce_mean(absolute, axis=1)
        of_first = None if mask is None else tf.reshape(mask[:, burn_in : burn_in + length], (-1, mask.shape[2]))
        errors = Errors(loss, tf.reduce_mean(of_frames(error), axis=1), priority, q_tm1)
        allowed = losses.allowed_where(dimensions.masks(of_first, frames), valid)
        return loss_info(errors, action, weights, allowed)

    def _state(self, experience: Any) -> tf.Tensor:
        """The state before a sequence's first frame: as stored, or zeros."""
        config = self._config
        if config.stored_state and tf.is_tensor(experience.policy_info):
            return experience.policy_info[:, 0]
        return tf.zeros((experience.reward.shape[0], config.state_units))


def build(specs: Specs, config: R2d2Config, *, epsilon: float = 0.1, seed: int = 0) -> R2d2Agent:
    """Builds a recurrent agent, within the distribution strategy in scope; see `agents.dqn.build`.

    Its `train` takes a `Trajectory` [B, config.window_length, ...] whose `policy_info` is the recurrent state that each
    action was chosen with, float32 [B, config.window_length, config.state_units], or () to start from zeros.
    """
    kind = branching(R2d2Agent, BranchingPolicies) if specs.action_sizes else R2d2Agent
    agent: R2d2Agent = kind(specs, config, epsilon, seed)
    return agent
