"""The base of the agents that learn one network, without a target network beside it."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.policies import greedy_policy, q_policy, tf_policy

from agents import minibatches, normalization, tf_specs
from agents.branching import BranchPolicy, dimensions_of
from agents.config_fields import KindOfAgent
from agents.optimizers import Optimizer, Update, gradient_step_counter
from agents.specs import Specs
from agents.value_network import ValueNetwork


class NetworkAgent(tf_agent.TFAgent):  # type: ignore[misc]
    """One network with TF-Agents' policies around it, and its optimizer; a kind gives `_train` and `_loss`.

    Args:
      specs: of the environment; masks forbid actions in both policies.
      config: of the kind.
      network: one score an action, of which `policy` takes the largest.
      collecting: makes `collect_policy` from the one that draws by softmax of the scores.
      optimizer: of the network's weights.
    """

    def __init__(
        self,
        specs: Specs,
        config: KindOfAgent,
        network: ValueNetwork,
        collecting: Callable[[Any], tf_policy.TFPolicy],
        optimizer: Optimizer,
    ) -> None:
        steps, actions = tf_specs.time_step(specs), tf_specs.action(specs)
        splitter = (lambda pair: pair) if specs.masked else None
        if specs.action_sizes:
            drawing: Any = BranchPolicy(specs, steps, actions, network)
        else:
            drawing = q_policy.QPolicy(steps, actions, network, observation_and_action_constraint_splitter=splitter)
        super().__init__(
            steps,
            actions,
            greedy_policy.GreedyPolicy(drawing),
            collecting(drawing),
            config.window_length,
            train_step_counter=gradient_step_counter(),
        )
        self._masked, self._dimensions = specs.masked, dimensions_of(specs)
        self._config: Any = config
        self._network = network
        self._optimizer = optimizer
        self.initialize()

    @property
    def acting_model(self) -> tf.keras.Model:
        """See `agents.builder.LearningAgent`."""
        return self._network.model

    @property
    def config(self) -> Any:
        """The configuration that the agent was built with."""
        return self._config

    @property
    def noise_units(self) -> int:
        """0: the network takes no noise."""
        return 0

    @property
    def learning_rate(self) -> tf.Tensor:
        """float32 []: the optimizer's step size at the next update."""
        return self._optimizer.learning_rate()

    @property
    def learning_rate_scale(self) -> tf.Variable:
        """See `agents.builder.LearningAgent`."""
        return self._optimizer.learning_rate_scale

    def _mask_of_rows(self, mask: Any, batch: Any) -> Any:
        """What is allowed of each row, bool [B * D, n], by a mask [B, A] or (); None allows all."""
        return self._dimensions.masks(mask if self._masked else None, batch)

    def _split(self, observation: Any) -> tuple[Any, Any]:
        """Splits an observation into the network's and the mask; () where the environment masks nothing."""
        seen, mask = observation if self._masked else (observation, ())
        return seen, mask

    def _shape_of(self, experience: Any) -> Any:
        """The shape [B, T] of a batch of sequences, whose T is to be the kind's."""
        shape, config = experience.reward.shape, self._config
        if shape[1] != config.window_length:
            raise ValueError(
                f"rollout={config.rollout} learns from sequences of {config.window_length} frames; "
                f"got experience of shape {shape}"
            )
        return shape

    def _learn(
        self, loss_of: Callable[[Any], tf.Tensor], count: int, variables: Any, experience: Any, extra: Any
    ) -> tf_agent.LossInfo:
        """Takes the updates of a gradient step on a batch of sequences.

        Args:
          loss_of: this replica's part of the loss of an update, float32 [], by its number from 0.
          count: of the updates.
          variables: to be learned.
          experience: the batch, float observations of which are counted once for their running statistics.
          extra: its figures, without those of the updates.
        """

        def update(k: Any) -> tuple[tf.Tensor, Update]:
            with tf.GradientTape() as tape:
                loss = loss_of(k)
            done = self._optimizer.apply(tape.gradient(loss, variables), loss)
            self._network.follow(self._config.spectral_norm, done.applied)
            return loss, done

        loss, norm, applied = minibatches.take(update, count)
        self.train_step_counter.assign_add(1)
        normalization.observe(self._network.model, self._split(experience.observation)[0], 2, applied)
        return tf_agent.LossInfo(loss, extra._replace(gradient_norm=norm, applied=applied))


def flatten(leaf: tf.Tensor) -> tf.Tensor:
    """Merges the first two dimensions: [B, L, ...] becomes [B * L, ...]."""
    return tf.reshape(leaf, (-1, *leaf.shape[2:]))
