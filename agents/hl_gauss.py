"""HL-Gauss: Q-values as means of histograms, learned by cross-entropy with smoothed targets (Farebrother et al. 2024).

Everything else is as in `agents.dqn`: the target is a number, of whichever form of Q-learning.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from agents import distributional_losses, support
from agents.branching import suited
from agents.configs.dqn import DqnConfig
from agents.dqn import DqnAgent
from agents.networks import value_model
from agents.specs import Specs
from agents.value_network import ValueNetwork

SIGMA = 0.75
"""Deviation of the smoothing, in widths of a bin: some six bins get mass (Farebrother et al. 2024, section 3.1)."""


def edges(v_min: float, v_max: float, bins: int) -> tf.Tensor:
    """The edges of equal bins from `v_min` to `v_max`, float32 [bins + 1]."""
    return tf.constant(np.linspace(v_min, v_max, bins + 1), tf.float32)


def histogram(target: tf.Tensor, edges: tf.Tensor) -> tf.Tensor:
    """The mass in each bin of a normal distribution around each target, cut off at the ends: float32 [B, bins].

    Farebrother et al. 2024, equation 6 and appendix A; the deviation is `SIGMA` widths of a bin. Its mean is the
    target, but for what the ends cut off, which pulls targets within some widths of an end inwards.

    Args:
      target: float32 [B]; one beyond the ends is taken to lie on the end.
      edges: float32 [bins + 1], evenly spaced.
    """
    width = edges[1] - edges[0]
    within = tf.clip_by_value(target, edges[0], edges[-1])[:, tf.newaxis]
    below = tf.math.erf((edges - within) / (np.sqrt(2.0) * SIGMA * width))
    return (below[:, 1:] - below[:, :-1]) / (below[:, -1:] - below[:, :1])


def mean(logits: tf.Tensor, edges: tf.Tensor) -> tf.Tensor:
    """The means of histograms of softmax(logits), float32 [B, A] of [B, A, bins]: the middles of the bins count."""
    return tf.reduce_sum(tf.nn.softmax(logits) * (0.5 * (edges[1:] + edges[:-1])), axis=2)


class HistogramNetwork(ValueNetwork):
    """A network that gives the logits of each action's histogram, and its mean as Q-value."""

    def __init__(self, specs: Specs, config: DqnConfig, seed: int, name: str = "HistogramNetwork") -> None:
        super().__init__(specs, lambda: value_model(specs, config, config.num_bins, seed), name)
        fixed = edges(*support.provisional(config.discount, config.v_min, config.v_max), config.num_bins)
        self.edges: Callable[[], Any] = lambda: fixed
        """The edges of the bins, float32 [bins + 1]."""

    def outputs(self, observation: object, noise: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        """Q-values float32 [B, A]: the means of the histograms."""
        return mean(self.raw(observation, *noise, training=training), self.edges())


class HlGaussAgent(DqnAgent):
    """Q-learning by classification: the loss of a Q-value is the cross-entropy of its histogram with the target's.

    Where `v_min` or `v_max` is "auto" it has the support of `support.provisional` until `set_support`.
    """

    def __init__(self, specs: Specs, config: DqnConfig, epsilon: float, seed: int) -> None:
        super().__init__(specs, config, HistogramNetwork(specs, config, seed), epsilon, seed)
        model, self._open = self._q_network.model, None
        if config.open_fields:
            from agents.layers.open_support import OpenSupport

            opened = self._open = OpenSupport(self._q_network.edges().numpy(), mean)
            self._q_network.edges = self._target_q_network.edges = lambda: opened.points
        self._acting_model = tf.keras.Model(model.input, (self._open or self._q_values)(model.output))

    def set_support(self, low: float, high: float) -> None:
        """Decides the ends of a support that the configuration leaves open, before or between gradient steps."""
        assert self._open is not None
        self._open.points.assign(edges(low, high, self._config.num_bins))

    def _q_values(self, outputs: tf.Tensor) -> tf.Tensor:
        return mean(outputs, self._q_network.edges())

    def _td_loss(self, outputs_tm1: tf.Tensor, action: tf.Tensor, target: tf.Tensor, td_error: tf.Tensor) -> tf.Tensor:
        log_probabilities = tf.nn.log_softmax(distributional_losses.of_action(outputs_tm1, action))
        return -tf.reduce_sum(
            histogram(target, tf.convert_to_tensor(self._q_network.edges())) * log_probabilities, axis=1
        )


def build(specs: Specs, config: DqnConfig, epsilon: float, seed: int) -> HlGaussAgent:
    """Builds the agent; see `agents.dqn.build`."""
    agent: HlGaussAgent = suited(HlGaussAgent, specs, config)(specs, config, epsilon, seed)
    return agent
