"""The base of the agents that learn a policy itself: its network and its optimizer."""

from typing import Any, NamedTuple

import tensorflow as tf

from agents.branching import dimensions_of
from agents.configs.policy import PolicyConfig
from agents.network_agent import NetworkAgent
from agents.networks import NarrowDense, NetworkBuilder
from agents.optimizers import optimizer_of
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
        """Logits float32 [B, A] of a batch of observations; of several dimensions rows, as `raw` has them."""
        return self.raw(observation, training=training), network_state

    def evaluate(self, observation: Any, training: bool = False) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Logits float32 [B, A], or rows, and values float32 [B]; None where there is no critic."""
        logits, *values = tf.nest.flatten(self._parts.both(observation, training=training))
        return dimensions_of(self._specs).rows(logits), values[0][:, 0] if values else None

    @property
    def learned(self) -> list[tf.Variable]:
        """Weights of policy and critic."""
        variables: list[tf.Variable] = self._parts.both.trainable_weights
        return variables


class PolicyAgent(NetworkAgent):
    """Learns a policy over actions, which masks may forbid: `policy` is greedy, `collect_policy` draws."""

    _config: PolicyConfig
    """A kind declares its own type."""
    _network: PolicyNetwork

    def __init__(self, specs: Specs, config: PolicyConfig, seed: int, critic: bool) -> None:
        net = PolicyNetwork(specs, config, seed, critic)
        super().__init__(specs, config, net, lambda drawing: drawing, optimizer_of(net.learned, config))
