"""Bootstrapped DQN: an ensemble of Q-functions, each with a fixed random prior, of which one acts in an episode.

Osband et al. 2016 ("Deep exploration via bootstrapped DQN") and 2018 ("Randomized prior functions for deep
reinforcement learning"). States that frames store tell the head of an episode, and the heads that learn from a frame;
see `BootDqnConfig.begin_states`.
"""

from typing import Any

import msgspec
import tensorflow as tf
from tf_agents.networks import network
from tf_agents.trajectories import StepType, Transition

from agents import losses
from agents.configs.boot_dqn import BootDqnConfig
from agents.layers.ensemble import EnsembleDense
from agents.networks import ValueNetworkBuilder
from agents.specs import Specs
from agents.td_agent import DeepTdAgent, Errors, NStepTransitions
from agents.value_network import ValueNetwork

_PRIOR_SEED = 2**31
"""Added to a network's seed, whose priors are others than its heads."""


class EnsembleBuilder(ValueNetworkBuilder):
    """Makes an ensemble: behind the shared layers, every dense layer is one of each head, [B, K, units]."""

    def __init__(self, specs: Specs, config: BootDqnConfig, seed: int, inputs: Any = None) -> None:
        super().__init__(specs, config, seed, inputs)
        self._ensemble, self._is_shared = config, False

    def dense(self, features: tf.Tensor, units: int, activation: str | None = None, repeats: Any = 1) -> tf.Tensor:
        """See `NetworkBuilder`; of each head, [B, K, units], where the layer is not shared."""
        if self._is_shared:
            return super().dense(features, units, activation)
        make = self.seeds.lecun_uniform if activation is None else self.seeds.he_uniform
        return EnsembleDense(units, activation or "linear", [make() for _ in range(self._ensemble.heads)])(features)

    def hidden(self, features: tf.Tensor, index: int, repeats: Any = 1) -> tf.Tensor:
        """See `NetworkBuilder`."""
        config = self._ensemble
        self._is_shared = index < config.shared_layers
        if config.residual and index == config.shared_layers:  # what is added to each head's block
            features = tf.repeat(features[:, tf.newaxis], config.heads, axis=1)
        made = super().hidden(features, index)
        self._is_shared = False
        return made

    def q_values(self) -> tf.Tensor:
        """Makes all layers: Q-values float32 [B, K, A], dueling (Wang et al. 2016, equation 9) if the config is."""
        features = self.torso()
        advantages = self.dense(features, self.specs.num_actions)
        if not self._ensemble.dueling:
            return advantages
        return self.dense(features, 1) + advantages - tf.reduce_mean(advantages, axis=2, keepdims=True)


def ensemble_model(specs: Specs, config: BootDqnConfig, seed: int) -> tf.keras.Model:
    """Builds a Keras model from a batch of observations to the Q-values of all heads, float32 [B, K, A].

    Each is Q_k = f_k + beta p_k, of which p_k keeps its random weights (Osband et al. 2018, equation 8).
    """
    builder = EnsembleBuilder(specs, config, seed)
    q = builder.q_values()
    if config.prior_scale:
        plain = msgspec.structs.replace(config, spectral_norm="none")
        prior = EnsembleBuilder(specs, plain, seed + _PRIOR_SEED, builder.inputs).q_values()
        for layer in tf.keras.Model(builder.inputs, prior).layers:
            layer.trainable = False
        q += config.prior_scale * tf.stop_gradient(prior)
    return builder.model(q)


def acting_scores(q: tf.Tensor, head: tf.Tensor, policy: str) -> tf.Tensor:
    """The scores that act, float32 [B, A]: Q-values of the head that is active, or what the ensemble says.

    Args:
      q: float32 [B, K, A], of all heads.
      head: float32 [B, 1], 1 + the active head's number; 0 for the ensemble.
      policy: of the ensemble: "mean" Q-values, or "majority": each action's share of the heads that prefer it, where
        softmax(mean) decides between equals.
    """
    heads, actions = q.shape[1:]
    is_active = tf.cast(tf.equal(head, tf.range(1, heads + 1, dtype=tf.float32)), tf.float32)
    together = tf.reduce_mean(q, axis=1)
    if policy == "majority":
        votes = tf.reduce_mean(tf.one_hot(tf.argmax(q, axis=2), actions), axis=1)
        together = votes + tf.nn.softmax(together) / (2.0 * heads)
    return tf.where(head > 0.0, tf.reduce_sum(q * is_active[:, :, tf.newaxis], axis=1), together)


def bootstrap_mask(number: tf.Tensor, heads: int, probability: float) -> tf.Tensor:
    """Which heads learn from a frame, 0 or 1 each with a probability of its own draw: float32 [B, K].

    The draws are hashes of the frame's number and the head's, so that a frame has the same for ever (Osband et al.
    2016, section 3: its mask). All heads learn from one whose number nobody drew.

    Args:
      number: float32 [B], stored with the frame; 0 where no collector drew one.
      heads: K.
      probability: of a 1.
    """
    bits = tf.bitcast(number, tf.int32)[:, tf.newaxis] + tf.range(1, heads + 1) * _ODD
    for shift, factor in _MIXING:
        bits = tf.bitwise.bitwise_xor(bits, _shifted(bits, shift)) * factor
    uniform = tf.cast(_shifted(tf.bitwise.bitwise_xor(bits, _shifted(bits, 16)), 8), tf.float32) / 2.0**24
    return tf.cast((uniform < probability) | (number == 0.0)[:, tf.newaxis], tf.float32)


_ODD = 0x1E3779B1
_MIXING = ((16, 0x21F0AAAD), (15, 0x735A2D97))
"""Shifts and factors of a hash of 32 bits (of "hash-prospector", Wellons 2018): each bit changes half of all others."""


def _shifted(bits: tf.Tensor, by: int) -> tf.Tensor:
    """Int32 bits shifted to the right, zeros coming in from the left."""
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, by), 2 ** (32 - by) - 1)


class EnsembleNetwork(ValueNetwork):
    """A network of several heads, whose mean TF-Agents' policies see."""

    def __init__(self, specs: Specs, config: BootDqnConfig, seed: int, name: str = "EnsembleNetwork") -> None:
        super().__init__(specs, lambda: ensemble_model(specs, config, seed), name)
        self.policy = config.ensemble_policy

    def outputs(self, observation: Any, noise: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        """What the ensemble says, float32 [B, A]; see `acting_scores`."""
        q = self.raw(observation, training=training)
        return acting_scores(q, tf.zeros_like(q[:, 0, :1]), self.policy)


class HeadView(network.Network):  # type: ignore[misc]
    """An ensemble as `collect_policy` calls it: one head in each episode, whose number is the policy's state."""

    def __init__(self, of: EnsembleNetwork) -> None:
        super().__init__(of.input_tensor_spec, tf.TensorSpec((1,), tf.float32), f"HeadOf{of.name}")
        self._of, self.noise_units = of, 0

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """Q-values float32 [B, A] of the active heads, and these; an episode's first step draws one."""
        q = self._of.raw(observation, training=training)
        drawn = tf.cast(tf.random.uniform(tf.shape(network_state), 1, q.shape[1] + 1, tf.int32), tf.float32)
        head = tf.where(tf.equal(step_type, StepType.FIRST)[:, tf.newaxis], drawn, network_state)
        return acting_scores(q, head, self._of.policy), head


class BootDqnAgent(DeepTdAgent):
    """Each head learns by its own target network (Osband et al. 2016, algorithm 1 and equation 4; 2018, equation 9)."""

    _config: BootDqnConfig

    def __init__(self, specs: Specs, config: BootDqnConfig, epsilon: float, seed: int) -> None:
        super().__init__(specs, config, EnsembleNetwork(specs, config, seed), epsilon, seed)
        model, state = self._q_network.model, tf.keras.Input((config.state_units,), name="state")
        scores = acting_scores(model.output, state[:, :1], config.ensemble_policy)
        self._acting_model = tf.keras.Model([model.input, state], tf.concat([scores, state], axis=1))

    def _setup_policy(self, *specs_and_temperature: Any) -> tuple[Any, Any]:
        """Makes the greedy policy of the ensemble, and the one that collects, by one head in each episode."""
        policy, _ = super()._setup_policy(*specs_and_temperature)
        ensemble = self._q_network
        self._q_network = HeadView(ensemble)
        _, collect_policy = super()._setup_policy(*specs_and_temperature)
        self._q_network = ensemble
        return policy, collect_policy

    def _transitions(self, experience: Any) -> NStepTransitions:
        if isinstance(experience, Transition):
            info = experience.action_step.info
        else:
            info = tf.nest.map_structure(lambda leaf: leaf[:, 0], experience.policy_info)
        return super()._transitions(experience)._replace(info=info)

    def _errors(self, batch: NStepTransitions, training: bool) -> Errors:
        config, online, folded = self._config, self._q_network, batch.folded
        q_tm1 = online.raw(batch.observation_tm1, training=training)
        q_t = self._target_q_network.raw(batch.observation_t)
        selector_t = online.raw(batch.observation_t) if config.double else q_t
        heads, actions = q_tm1.shape[1:]

        def of_heads(leaf: tf.Tensor) -> tf.Tensor:
            """A leaf [B, ...] for each head, [B * K, ...]."""
            return tf.repeat(leaf, heads, axis=0)

        def rows(q: tf.Tensor) -> tf.Tensor:
            return tf.reshape(q, (-1, actions))

        mask_t = None if batch.mask_t is None else of_heads(batch.mask_t)
        value_t = losses.bootstrap_value(rows(q_t), rows(selector_t), mask_t)
        target = tf.stop_gradient(of_heads(folded.reward) + of_heads(folded.discount) * value_t)
        td_error = target - losses.action_value(rows(q_tm1), of_heads(batch.action))
        loss = tf.reshape(losses.elementwise_loss(td_error, config.loss), (-1, heads))
        number = batch.info[:, 1] if tf.is_tensor(batch.info) else tf.zeros_like(folded.reward)
        mask, td_errors = bootstrap_mask(number, heads, config.bootstrap_probability), tf.reshape(td_error, (-1, heads))
        return Errors(
            tf.reduce_mean(mask * loss, axis=1),
            tf.reduce_mean(td_errors, axis=1),
            tf.reduce_mean(tf.abs(td_errors), axis=1),
            tf.reduce_mean(q_tm1, axis=1),
        )


def build(specs: Specs, config: BootDqnConfig, *, epsilon: float = 0.1, seed: int = 0) -> BootDqnAgent:
    """Builds a bootstrapped agent, within the distribution strategy in scope; see `agents.dqn.build`.

    Its `train` takes a `Trajectory` [B, n_step + 1, ...] whose `policy_info` is the state that each action was chosen
    with, float32 [B, n_step + 1, 2], or () to let every head learn from all.
    """
    return BootDqnAgent(specs, config, epsilon, seed)
