"""A Keras model as a network that TF-Agents' policies and agents call."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tf_agents.networks import network

from agents import tf_specs
from agents.specs import Specs


class ValueNetwork(network.Network):  # type: ignore[misc]
    """Wraps a Keras model as a network that TF-Agents' policies and agents can call, without noise.

    TF-Agents copies it for the target network.
    """

    def __init__(self, specs: Specs, make_model: Callable[[], tf.keras.Model], name: str, state_spec: Any = ()) -> None:
        super().__init__(input_tensor_spec=tf_specs.observation(specs), state_spec=state_spec, name=name)
        self.model, self._specs = make_model(), specs

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """What TF-Agents' policies and agents read of a batch of observations, without noise; see `outputs`."""
        return self.outputs(observation, self.silence(observation), training), network_state

    def outputs(self, observation: Any, noise: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        """Q-values float32 [B, A]; of a categorical network logits float32 [B, A, atoms].

        Args:
          observation: nest [B, ...].
          noise: of a noisy network float32 [B, units], in a list; empty for any other.
          training: as Keras has it.
        """
        return self.raw(observation, *noise, training=training)

    def raw(self, observation: Any, *more: Any, training: bool = False) -> tf.Tensor:
        """Calls the model on observations and further inputs; of several dimensions rows come, see `branching`."""
        outputs = self.model([observation, *more] if more else observation, training=training)
        if not self._specs.action_sizes:
            return outputs
        from agents.branching import Dimensions

        return Dimensions(self._specs.action_sizes).rows(outputs)

    def follow(self, spectral_norm: str, applied: tf.Tensor) -> None:
        """Has the layers with a spectral norm follow an update, if there are any; call it in replica context."""
        if spectral_norm != "none":
            from agents.layers.spectral_norm import follow

            follow(self, applied)

    @property
    def noise_units(self) -> int:
        """Width of the model's noise input; 0 where it has none."""
        inputs = tf.nest.flatten(self.model.inputs)
        return int(sum(tensor.shape[-1] for tensor in inputs if tensor.name.split(":")[0] == "noise"))

    def silence(self, observation: Any) -> list[tf.Tensor]:
        """Noise of zeros for a noisy model, as its last input; nothing for another."""
        units = self.noise_units
        return [tf.zeros((batch_size_of(observation), units))] if units else []


def batch_size_of(observation: Any) -> Any:
    """Number of observations in a batch: an int where the graph knows it, else int32 []."""
    leaf = tf.nest.flatten(observation)[0]
    return leaf.shape[0] or tf.shape(leaf)[0]
