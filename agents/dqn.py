"""DQN with Double, Dueling and n-step targets, as a TF-Agents agent."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.agents.dqn import dqn_agent
from tf_agents.networks import network
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import Transition, time_step
from tf_agents.utils import nest_utils

from agents import losses, networks
from agents.configs import DqnConfig
from agents.optimizers import Adam
from agents.specs import ArraySpec, Specs


class LossExtra(NamedTuple):
    """What a gradient step says beside its loss."""

    td_error: tf.Tensor
    """float32 [B]: target minus Q-value; 0 where no transition starts."""
    q_mean: tf.Tensor
    """float32 []: mean Q-value of the actions taken."""
    q_max: tf.Tensor
    """float32 []: largest Q-value of any action in the batch."""
    gradient_norm: tf.Tensor
    """float32 []: global norm of the gradient before clipping; 0 from `agent.loss`, which takes none."""


class QNetwork(network.Network):  # type: ignore[misc]
    """A Keras Q-model as the network that TF-Agents' policies and agents expect."""

    def __init__(self, specs: Specs, config: DqnConfig, seed: int, name: str = "QNetwork") -> None:
        super().__init__(input_tensor_spec=observation_spec(specs), state_spec=(), name=name)
        self.model = networks.q_model(specs, config.hidden_units, config.activation, config.dueling, seed)

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """Q-values float32 [B, A] of a batch of observations."""
        return self.model(observation, training=training), network_state


class DqnAgent(dqn_agent.DqnAgent):  # type: ignore[misc]
    """TF-Agents' DQN agent with a loss of ours.

    It differs in three ways. Windows of n + 1 frames are folded by `losses.n_step_return`, which knows truncations.
    Gradients are summed over the replicas before they are clipped, so that a replica count changes nothing.
    `LossInfo.extra` is a `LossExtra`, with the TD errors that priorities are made of.

    `train` takes a `Trajectory` [B, n_step + 1, ...] or a `Transition` [B, ...] whose reward and discount already span
    its steps (without the last gamma, as TF-Agents has it); `reward_clip` then clips that sum.
    """

    def __init__(self, specs: Specs, config: DqnConfig, exploration_epsilon: float, seed: int) -> None:
        self._config = config
        masked = specs.masked
        observation = observation_spec(specs)
        mask = tensor_spec.BoundedTensorSpec((specs.num_actions,), tf.bool, False, True)
        super().__init__(
            time_step.time_step_spec((observation, mask) if masked else observation),
            tensor_spec.BoundedTensorSpec((), tf.int64, 0, specs.num_actions - 1),
            q_network=QNetwork(specs, config, seed),
            optimizer=None,
            observation_and_action_constraint_splitter=(lambda pair: pair) if masked else None,
            epsilon_greedy=exploration_epsilon,
            n_step_update=config.n_step,
            target_update_tau=config.target_update_tau,
            target_update_period=config.target_update_period,
            gamma=config.discount,
            train_step_counter=tf.Variable(
                0,
                dtype=tf.int64,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                name="gradient_steps",
            ),
        )
        self._optimizer = Adam(
            self._q_network.trainable_weights,
            config.learning_rate,
            learning_rate_final=config.learning_rate_final,
            decay_steps=config.learning_rate_decay_steps,
            epsilon=config.adam_epsilon,
            clip_norm=config.gradient_clip_norm,
        )
        self.initialize()

    @property
    def acting_model(self) -> tf.keras.Model:
        """The Keras model whose output the greedy policy maximises: observations -> Q-values [B, A]."""
        return self._q_network.model

    @property
    def learning_rate(self) -> tf.Tensor:
        """float32 []: the optimizer's step size at the next gradient step."""
        return self._optimizer.learning_rate()

    def _split(self, observation: Any) -> tuple[Any, Any]:
        splitter = self._observation_and_action_constraint_splitter
        if splitter is None:
            return observation, None
        network_observation, mask = splitter(observation)
        return network_observation, mask

    def _fold(self, experience: Any) -> tuple[Any, tf.Tensor, Any, losses.NStepReturn]:
        """The first observations, actions, bootstrap observations and returns of a batch of experience."""
        config = self._config
        if isinstance(experience, Transition):
            first, action_step, following = experience
            folded = losses.NStepReturn(
                _clip_reward(following.reward, config.reward_clip),
                config.discount * following.discount,
                tf.ones_like(first.step_type),
                tf.logical_not(first.is_last()),
            )
            return first.observation, action_step.action, following.observation, folded
        nest_utils.assert_matching_dtypes_and_inner_shapes(
            experience.observation, self.time_step_spec.observation, self, "experience.observation", "observation_spec"
        )
        if experience.reward.shape[1] != config.window_length:
            raise ValueError(
                f"n_step={config.n_step} learns from windows of {config.window_length} frames; "
                f"got experience of shape {experience.reward.shape}"
            )
        folded = losses.n_step_return(
            experience.step_type,
            _clip_reward(experience.reward, config.reward_clip),
            experience.discount,
            config.discount,
        )
        first = tf.nest.map_structure(lambda leaf: leaf[:, 0], experience.observation)
        if config.n_step == 1:  # frame 1 follows; where it does not (no valid transition) its value is masked
            following = tf.nest.map_structure(lambda leaf: leaf[:, 1], experience.observation)
        else:
            following = tf.nest.map_structure(
                lambda leaf: tf.gather(leaf, folded.bootstrap_index, batch_dims=1), experience.observation
            )
        return first, experience.action[:, 0], following, folded

    def _loss(self, experience: Any, weights: Any = None, training: bool = False, **_: Any) -> tf_agent.LossInfo:
        first, action, following, folded = self._fold(experience)
        network_tm1, _ = self._split(first)
        network_t, mask_t = self._split(following)
        q_tm1, _ = self._q_network(network_tm1, training=training)
        q_t, _ = self._target_q_network(network_t)
        selector_t = self._q_network(network_t)[0] if self._config.double else q_t
        value_t = losses.bootstrap_value(q_t, selector_t, mask_t)
        target_tm1 = tf.stop_gradient(folded.reward + folded.discount * value_t)
        qa_tm1 = losses.action_value(q_tm1, action)
        td_error = tf.where(folded.valid, target_tm1 - qa_tm1, 0.0)
        td_loss = losses.elementwise_loss(td_error, self._config.loss)
        if weights is not None:
            td_loss *= weights
        # Divided by the global batch, boundaries included: replicas' losses sum up to the loss of the whole batch.
        loss = tf.reduce_mean(td_loss) / tf.distribute.get_strategy().num_replicas_in_sync
        extra = LossExtra(td_error, tf.reduce_mean(qa_tm1), tf.reduce_max(q_tm1), tf.zeros(()))
        return tf_agent.LossInfo(loss, extra)

    def _train(self, experience: Any, weights: Any = None) -> tf_agent.LossInfo:
        variables = self._q_network.trainable_weights
        with tf.GradientTape() as tape:
            loss, extra = self._loss(experience, weights, training=True)
        norm = self._optimizer.apply(tape.gradient(loss, variables))
        self.train_step_counter.assign_add(1)
        self._update_target()
        return tf_agent.LossInfo(loss, extra._replace(gradient_norm=norm))


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


def observation_spec(specs: Specs) -> Any:
    """The TF-Agents tensor specs of the observation (without its mask)."""
    return specs.pack({name: _tensor_spec(spec) for name, spec in specs.leaves().items()})


def _tensor_spec(spec: ArraySpec) -> tensor_spec.TensorSpec:
    if spec.dtype == "float32":
        return tensor_spec.TensorSpec(spec.shape, tf.float32)
    if spec.dtype == "uint8":
        return tensor_spec.BoundedTensorSpec(spec.shape, tf.uint8, 0, spec.maximum[0])
    largest = np.asarray(spec.maximum, np.int32).reshape(spec.shape)
    return tensor_spec.BoundedTensorSpec(spec.shape, tf.int32, np.zeros_like(largest), largest)


def _clip_reward(reward: tf.Tensor, bound: float) -> tf.Tensor:
    return tf.clip_by_value(reward, -bound, bound) if bound else reward
