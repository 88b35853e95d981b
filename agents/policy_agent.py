"""The base of the agents that learn a policy itself: its network, TF-Agents' policies around it, its optimizer."""

from typing import Any, NamedTuple

import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.policies import greedy_policy, q_policy

from agents import tf_specs
from agents.configs.policy import PolicyConfig
from agents.networks import NarrowDense, NetworkBuilder
from agents.optimizers import Adam, gradient_step_counter
from agents.specs import Specs
from agents.value_network import ValueNetwork


class ActorCritic(NamedTuple):
    """A policy and the values of its states, as two models that share the encoder."""

    policy: tf.keras.Model
    """Observation nest -> logits float32 [B, A]."""
    both: tf.keras.Model
    """Observation nest -> a list of logits and values float32 [B, 1]; of logits alone where there is no critic."""


def actor_critic_model(specs: Specs, config: PolicyConfig, seed: int, critic: bool) -> ActorCritic:
    """Builds a policy with hidden layers of its own and, with a `critic`, the same for its states' values."""
    builder = NetworkBuilder(specs, config, seed)
    head = NarrowDense(specs.num_actions, kernel_initializer=builder.seeds.nearly_zero())
    logits = head(builder.torso())
    outputs = [logits, builder.dense(builder.torso(), 1)] if critic else [logits]
    return ActorCritic(builder.model(logits), builder.model(outputs))


class PolicyNetwork(ValueNetwork):
    """A network that gives the logits of a policy, for TF-Agents' `QPolicy`, and the values of its critic."""

    def __init__(
        self, specs: Specs, config: PolicyConfig, seed: int, critic: bool, name: str = "PolicyNetwork"
    ) -> None:
        parts = actor_critic_model(specs, config, seed, critic)
        super().__init__(specs, lambda: parts.policy, name)
        self._parts = parts

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """Logits float32 [B, A] of a batch of observations."""
        return self.raw(observation, training=training), network_state

    def evaluate(self, observation: Any, training: bool = False) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Logits float32 [B, A] and values float32 [B]; None where there is no critic."""
        logits, *values = tf.nest.flatten(self._parts.both(observation, training=training))
        return logits, values[0][:, 0] if values else None

    @property
    def learned(self) -> list[tf.Variable]:
        """Weights of policy and critic."""
        variables: list[tf.Variable] = self._parts.both.trainable_weights
        return variables


class PolicyAgent(tf_agent.TFAgent):  # type: ignore[misc]
    """Learns a policy over actions, which masks may forbid: `policy` is greedy, `collect_policy` draws."""

    _config: PolicyConfig
    """A kind declares its own type."""

    def __init__(self, specs: Specs, config: PolicyConfig, seed: int, critic: bool) -> None:
        steps, actions = tf_specs.time_step(specs), tf_specs.action(specs)
        net = PolicyNetwork(specs, config, seed, critic)
        splitter = (lambda pair: pair) if specs.masked else None
        drawing = q_policy.QPolicy(steps, actions, net, observation_and_action_constraint_splitter=splitter)
        super().__init__(
            steps,
            actions,
            greedy_policy.GreedyPolicy(drawing),
            drawing,
            config.window_length,
            train_step_counter=gradient_step_counter(),
        )
        self._masked = specs.masked
        self._config = config
        self._network = net
        self._optimizer = Adam.of(net.learned, config)
        self.initialize()

    @property
    def acting_model(self) -> tf.keras.Model:
        """See `agents.builder.LearningAgent`."""
        return self._network.model

    @property
    def config(self) -> PolicyConfig:
        """The configuration that the agent was built with."""
        return self._config

    @property
    def noise_units(self) -> int:
        """0: the policy explores by drawing its actions."""
        return 0

    @property
    def learning_rate(self) -> tf.Tensor:
        """float32 []: the optimizer's step size at the next update."""
        return self._optimizer.learning_rate()

    @property
    def learning_rate_scale(self) -> tf.Variable:
        """See `agents.builder.LearningAgent`."""
        return self._optimizer.learning_rate_scale

    def _split(self, observation: Any) -> tuple[Any, Any]:
        """Splits an observation into the network's and the mask; () where the environment masks nothing."""
        seen, mask = observation if self._masked else (observation, ())
        return seen, mask


def flatten(leaf: tf.Tensor) -> tf.Tensor:
    """Merges the first two dimensions: [B, L, ...] becomes [B * L, ...]."""
    return tf.reshape(leaf, (-1, *leaf.shape[2:]))
