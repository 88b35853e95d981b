"""The base of the value-based agents: windows folded into n-step transitions, weighted losses, one gradient step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.agents.dqn import dqn_agent
from tf_agents.trajectories import Transition
from tf_agents.utils import common, nest_utils

from agents import losses, tf_specs
from agents.configs.value import DeepConfig, WindowConfig
from agents.optimizers import Optimizer, Update, gradient_step_counter, optimizer_of
from agents.specs import Specs
from agents.value_network import ValueNetwork, batch_size_of

_COPY_PERIOD = 200
"""Gradient steps between copies of the weights into the target network, where a config leaves it open."""


class LossExtra(NamedTuple):
    """Figures of a gradient step beside its loss."""

    td_error: tf.Tensor
    """float32 [B]: target minus Q-value; 0 where no n-step transition starts. Of a policy gradient mean absolute
    advantages."""
    priority: tf.Tensor
    """float32 [B], not negative: the priority of each window (of its n-step transition or sequence); 0 where none
    starts, or on-policy."""
    q: tf.Tensor
    """float32 [B]: Q-value of the action taken, of a sequence their mean; of a policy gradient the states' values.
    Where the environment masks actions, the mean of the batch where no n-step transition starts: no action is taken
    there, and the one chosen may be forbidden."""
    has_q: tf.Tensor
    """float32 [B]: 1 where `q` is of a Q-value that the batch says something of, 0 where the mean stands for it."""
    q_max: tf.Tensor
    """float32 []: largest Q-value of any action in the batch; of a policy gradient the largest value of a state. Where
    the environment masks actions, of those allowed where an n-step transition starts; -inf if none does."""
    gradient_norm: tf.Tensor
    """float32 []: global norm of the gradient before clipping; 0 from `agent.loss`, which takes none."""
    applied: tf.Tensor
    """bool []: whether the gradient step changed the weights, as it does where loss and gradient are finite; false from
    `agent.loss`."""


class NStepTransitions(NamedTuple):
    """A batch of n-step transitions: first observation, action, folded return, bootstrap observation."""

    observation_tm1: Any
    mask_tm1: tf.Tensor | None
    """bool [B, A]; None where the environment masks nothing."""
    action: tf.Tensor
    """int64 [B]."""
    observation_t: Any
    mask_t: tf.Tensor | None
    folded: losses.NStepReturn
    info: Any = ()
    """What a kind keeps of the policy's info."""


class Errors(NamedTuple):
    """Losses, TD errors and priorities of a batch of n-step transitions."""

    loss: tf.Tensor
    """float32 [B], of each n-step transition, before importance weights."""
    td_error: tf.Tensor
    """float32 [B]: target minus Q-value."""
    priority: tf.Tensor
    """float32 [B], not negative."""
    q_tm1: tf.Tensor
    """float32 [B, A]: Q-values of the first observations."""


class TdAgent(dqn_agent.DqnAgent):  # type: ignore[misc]
    """TF-Agents' DQN agent with losses of ours, which a kind gives in `_errors`.

    It differs in four ways. Windows of n + 1 frames are folded by `losses.n_step_return`, which knows truncations.
    Frames at an episode's end start no n-step transition, and importance weights weigh each one's loss. Gradients are
    summed over the replicas before they are clipped, so that a replica count changes nothing. `LossInfo.extra` is a
    `LossExtra`, with the priorities of the windows.

    `train` takes a `Trajectory` [B, n_step + 1, ...] or a `Transition` [B, ...] whose reward and discount already span
    its steps (without the last gamma, as TF-Agents has it); `reward_clip` then clips that sum.
    """

    _config: WindowConfig
    """A kind declares its own type."""
    _q_network: Any

    def __init__(
        self,
        specs: Specs,
        config: WindowConfig,
        q_network: ValueNetwork,
        epsilon: float,
        seed: int,
        n_step: int | None = None,
        **more: Any,
    ) -> None:
        self._specs, self._seed = specs, seed
        self._config = config
        super().__init__(
            tf_specs.time_step(specs),
            tf_specs.action(specs),
            q_network,
            None,  # optimizer: ours sums over replicas before it clips
            observation_and_action_constraint_splitter=(lambda pair: pair) if specs.masked else None,
            epsilon_greedy=epsilon,
            n_step_update=n_step or config.largest_n_step,
            gamma=config.discount,
            train_step_counter=gradient_step_counter(),
            **more,
        )
        self._optimizer = self._make_optimizer()
        self._acting_model = q_network.model
        self.initialize()

    def _setup_policy(self, *specs_and_temperature: Any) -> tuple[Any, Any]:
        """Makes the greedy policy, and the one that collects, which a noisy network's noise explores for, too."""
        policy, collect_policy = super()._setup_policy(*specs_and_temperature)
        silent = self._q_network
        if silent.noise_units:
            from agents.noisy import NoisyView

            self._q_network = NoisyView(silent)
            _, collect_policy = super()._setup_policy(*specs_and_temperature)
            self._q_network = silent
        return policy, collect_policy

    @property
    def acting_model(self) -> tf.keras.Model:
        """See `agents.builder.LearningAgent`."""
        return self._acting_model

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        """Losses, TD errors and priorities of n-step transitions; the caller masks those of frames that start none."""
        raise NotImplementedError

    def _shared(self, target: tf.Tensor) -> tf.Tensor:
        """Makes one target of those that the dimensions of an action have each; here there is one (see `branching`)."""
        return target

    def _make_optimizer(self) -> Optimizer:
        """Makes the optimizer of the Q-network's weights, of `agents.optimizers`."""
        raise NotImplementedError

    def _observe(self, observation: Any, batch_dimensions: int, applied: tf.Tensor) -> None:
        """Takes the observations of an update into statistics of the network's own, if it has any."""

    @property
    def config(self) -> WindowConfig:
        """The configuration that the agent was built with."""
        return self._config

    @property
    def noise_units(self) -> int:
        """Noise numbers an observation that the acting model takes beside it; 0 where it takes none."""
        return int(self._q_network.noise_units)

    @property
    def learning_rate(self) -> tf.Tensor:
        """float32 []: the optimizer's step size at the next gradient step."""
        return self._optimizer.learning_rate()

    @property
    def learning_rate_scale(self) -> tf.Variable:
        """See `agents.builder.LearningAgent`."""
        return self._optimizer.learning_rate_scale

    def _transitions(self, experience: Any) -> NStepTransitions:
        first, action, following, folded = self._fold(experience)
        observation_tm1, mask_tm1 = self._split(first)
        observation_t, mask_t = self._split(following)
        return NStepTransitions(observation_tm1, mask_tm1, action, observation_t, mask_t, folded)

    def _split(self, observation: Any) -> tuple[Any, Any]:
        splitter = self._observation_and_action_constraint_splitter
        if splitter is None:
            return observation, None
        network_observation, mask = splitter(observation)
        return network_observation, mask

    def _fold(self, experience: Any) -> tuple[Any, tf.Tensor, Any, losses.NStepReturn]:
        """The first observations, actions, bootstrap observations and returns of a batch of experience."""
        config = self._config
        gamma, n = losses.horizon(config, self.train_step_counter)
        if isinstance(experience, Transition):
            from agents.folded_transitions import folded as folded_already

            return folded_already(experience, config.reward_clip, gamma)
        nest_utils.assert_matching_dtypes_and_inner_shapes(
            experience.observation, self.time_step_spec.observation, self, "experience.observation", "observation_spec"
        )
        if experience.reward.shape[1] != config.window_length:
            raise ValueError(
                f"n_step={config.largest_n_step} learns from windows of {config.window_length} frames; "
                f"got experience of shape {experience.reward.shape}"
            )
        rewards = losses.clip_reward(experience.reward, config.reward_clip)
        folded = losses.n_step_return(experience.step_type, rewards, experience.discount, gamma, n)
        first = tf.nest.map_structure(lambda leaf: leaf[:, 0], experience.observation)
        if config.window_length == 2:  # frame 1; if frame 0 is an episode's end, none starts there: its loss is masked
            following = tf.nest.map_structure(lambda leaf: leaf[:, 1], experience.observation)
        else:
            following = tf.nest.map_structure(
                lambda leaf: tf.gather(leaf, folded.bootstrap_index, batch_dims=1), experience.observation
            )
        return first, experience.action[:, 0], following, folded

    def _loss(self, experience: Any, weights: Any = None, training: bool = False, **_: Any) -> tf_agent.LossInfo:
        batch = self._transitions(experience)
        errors, valid = self._errors(batch, training), batch.folded.valid
        loss, td_error, priority = (
            tf.where(valid, part, 0.0) for part in (errors.loss, errors.td_error, errors.priority)
        )
        errors = Errors(loss, td_error, priority, errors.q_tm1)
        return loss_info(errors, batch.action, weights, losses.allowed_where(batch.mask_tm1, valid))

    def _train(self, experience: Any, weights: Any = None) -> tf_agent.LossInfo:
        (loss, extra), (norm, applied) = self._update_weights(experience, weights)
        self.train_step_counter.assign_add(1)
        if isinstance(experience, Transition):
            self._observe(experience.time_step.observation, 1, applied)
        else:
            self._observe(experience.observation, 2, applied)
        self._update_target(applied)
        return tf_agent.LossInfo(loss, extra._replace(gradient_norm=norm, applied=applied))

    def _update_weights(self, experience: Any, weights: Any) -> tuple[tf_agent.LossInfo, Update]:
        """Moves the network's weights once; returns the losses before."""
        variables = self._q_network.trainable_weights
        with tf.GradientTape() as tape:
            found = self._loss(experience, weights, training=True)
        return found, self._optimizer.apply(tape.gradient(found.loss, variables), found.loss)

    def _get_target_updater(self, tau: float = 1.0, period: int = 1) -> Callable[[tf.Tensor], None]:
        """Makes `_update_target`, which moves the target network every `period` updates, not counting skipped ones."""

        def move_if_due(strategy: Any, applied: Any) -> Any:
            if period == 1 and tau == 1.0:  # needs no condition: after a skipped update the copy changes nothing
                return self._move_target(tau)
            of_first = strategy.experimental_local_results(applied)[0]  # as on every replica
            due = of_first & tf.equal(self._optimizer.updates % period, 0)
            return tf.cond(due, lambda: self._move_target(tau), tf.no_op)

        return lambda applied: tf.distribute.get_replica_context().merge_call(move_if_due, args=(applied,))

    def _move_target(self, tau: float) -> Any:
        """Gives the target network this share of the online network's weights; a kind with several overrides it."""
        online, target = self._q_network.variables, self._target_q_network.variables
        return common.soft_variables_update(online, target, tau, tau_non_trainable=1.0)


class DeepTdAgent(TdAgent):
    """A `TdAgent` with an optimizer of choice, a target network, and a network of many forms."""

    _config: DeepConfig

    def __init__(
        self, specs: Specs, config: DeepConfig, q_network: ValueNetwork, epsilon: float, seed: int, **more: Any
    ) -> None:
        super().__init__(
            specs,
            config,
            q_network,
            epsilon,
            seed,
            target_update_tau=config.target_update_tau,
            target_update_period=target_update_period(config),
            **more,
        )

    def _noise(self, observation: Any, stream: int, training: bool) -> list[tf.Tensor]:
        """The noise for one pass through a noisy network, as its last input; none for any other network."""
        if not training or not self.noise_units:
            silence: list[tf.Tensor] = self._q_network.silence(observation)
            return silence
        from agents.noisy import draw_noise

        batch = batch_size_of(observation)
        return [draw_noise(self._seed, self.train_step_counter, batch, self.noise_units, stream)]

    def _make_optimizer(self) -> Optimizer:
        return optimizer_of(self._q_network.trainable_weights, self._config)

    def _observe(self, observation: Any, batch_dimensions: int, applied: tf.Tensor) -> None:
        if self._config.normalize_observations:
            from agents import normalization

            normalization.observe(self._q_network.model, self._split(observation)[0], batch_dimensions, applied)
        self._q_network.follow(self._config.spectral_norm, applied)


def loss_info(
    errors: Errors, action: tf.Tensor, weights: tf.Tensor | None, allowed: tf.Tensor | None
) -> tf_agent.LossInfo:
    """Computes the weighted mean loss of a batch and its `LossExtra`.

    Args:
      errors: float32 [B, ...], 0 where nothing is learned; a recurrent agent's Q-values are of all frames, [F, A].
      action: int64 [B] or [F], taken where those Q-values are of.
      weights: float32 [B], importance weights; None gives all the same weight.
      allowed: bool [B, A] or [F, A], whose Q-values are told of; None tells of all. Nothing trains the others, which
        may be anything.
    """
    loss = errors.loss if weights is None else errors.loss * weights
    # Divided by the global batch, boundaries included: replicas' losses sum up to the loss of the whole batch.
    mean = tf.reduce_mean(loss) / tf.distribute.get_strategy().num_replicas_in_sync
    taken, q_max = losses.action_value(errors.q_tm1, action), tf.reduce_max(errors.q_tm1)
    rows = errors.td_error.shape[0] or tf.shape(errors.td_error)[0], -1
    if allowed is None:
        q = tf.reduce_mean(tf.reshape(taken, rows), axis=1)
        has_q = tf.ones_like(q)
    else:
        q_max = tf.reduce_max(tf.where(allowed, errors.q_tm1, -np.inf))
        told = tf.reduce_any(allowed, axis=1)
        count = tf.reduce_sum(tf.reshape(tf.cast(told, tf.float32), rows), axis=1)  # of a sequence's frames
        total = tf.reduce_sum(tf.reshape(tf.where(told, taken, 0.0), rows), axis=1)
        q = tf.math.divide_no_nan(total, count)
        q = losses.mean_elsewhere(q, count > 0.0)
        has_q = tf.cast(count > 0.0, tf.float32)
    no_update = tf.zeros(()), tf.constant(False)
    return tf_agent.LossInfo(mean, LossExtra(errors.td_error, errors.priority, q, has_q, q_max, *no_update))


def target_update_period(config: DeepConfig) -> int:
    """Gradient steps between updates of the target network: as given, or what suits copies and mixtures."""
    return config.target_update_period or (_COPY_PERIOD if config.target_update_tau == 1.0 else 1)
