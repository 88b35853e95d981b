"""Noisy networks (Fortunato et al. 2018): dense layers with learned noise, and the noise that they take as an input."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tf_agents.networks import network

from agents import draws
from agents.initializers import Seeds

if TYPE_CHECKING:
    from agents.value_network import ValueNetwork


class NoisyDense(tf.keras.layers.Layer):  # type: ignore[misc]
    """A dense layer whose weights carry factorised Gaussian noise of learned scale (Fortunato et al. 2018, 3b).

    Each example has noise of its own, an input beside the features: y = (mu + sigma * f(e_out) f(e_in)') x and the like
    for the bias, of which the outer product is never formed. Noise of zeros leaves the mean layer.
    """

    def __init__(self, units: int, sigma: float, activation: str | None, initial_mean: Any) -> None:
        super().__init__(dtype="float32")
        self._units, self._sigma, self._initial_mean = units, sigma, initial_mean
        self._activation = tf.keras.activations.get(activation)

    def build(self, input_shape: Any) -> None:
        """Creates the means and the scales, sigma/sqrt(n) for n inputs."""
        n = int(input_shape[0][-1])
        scale = tf.keras.initializers.Constant(self._sigma / n**0.5)
        kernel_mean, bias_mean = self._initial_mean
        self.kernel = self.add_weight("kernel", (n, self._units), initializer=kernel_mean)
        self.bias = self.add_weight("bias", (self._units,), initializer=bias_mean)
        self.kernel_sigma = self.add_weight("kernel_sigma", (n, self._units), initializer=scale)
        self.bias_sigma = self.add_weight("bias_sigma", (self._units,), initializer=scale)
        super().build(input_shape)  # else the first call builds it anew, whatever its weights were set to

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Float32 [B, units] of features [B, n] and noise [B, n] and [B, units] (see `scaled_noise`)."""
        features, noise_in, noise_out = inputs
        mean = tf.matmul(features, self.kernel) + self.bias
        spread = tf.matmul(features * noise_in, self.kernel_sigma) + self.bias_sigma
        return self._activation(mean + noise_out * spread)


class NoisyLayers:
    """Makes the noisy layers of one network, each of which takes its own part of the network's noise input.

    Args:
      layers: inputs and units of each layer to come.
      sigma: initial scale of the noise, before division by the root of a layer's inputs.
      seeds: of the initial means.
    """

    def __init__(self, layers: Sequence[tuple[int, int]], sigma: float, seeds: Seeds) -> None:
        self.input = tf.keras.Input((sum(n + units for n, units in layers),), dtype=tf.float32, name="noise")
        """float32 [B, n + units over all layers]."""
        self._sigma, self._seeds = sigma, seeds
        self._used = 0

    def dense(self, features: tf.Tensor, units: int, activation: str | None, repeats: Any) -> tf.Tensor:
        """Makes a layer behind features [B * repeats, n]; the noise of an example is repeated with it."""
        n = features.shape[-1]
        initial = self._seeds.fan_in_uniform(n), self._seeds.fan_in_uniform(n)
        noise = (self._take(n, repeats), self._take(units, repeats))
        return NoisyDense(units, self._sigma, activation, initial)((features, *noise))

    def _take(self, width: int, repeats: Any) -> tf.Tensor:
        start, self._used = self._used, self._used + width
        part = self.input[:, start : start + width]
        return part if isinstance(repeats, int) else tf.repeat(part, repeats, axis=0)


class NoisyView(network.Network):  # type: ignore[misc]
    """A noisy network as a policy that collects calls it: with noise of its own for each observation of each step."""

    def __init__(self, of: "ValueNetwork") -> None:
        super().__init__(input_tensor_spec=of.input_tensor_spec, state_spec=of.state_spec, name=f"Noisy{of.name}")
        self._of = of
        if hasattr(of, "num_atoms"):  # TF-Agents' categorical policy asks for them
            self.num_atoms = of.num_atoms

    def call(
        self, observation: Any, step_type: Any = None, network_state: Any = (), training: bool = False
    ) -> tuple[tf.Tensor, Any]:
        """See `ValueNetwork.outputs`."""
        batch = tf.shape(tf.nest.flatten(observation)[0])[0]
        noise = scaled_noise(tf.random.normal((batch, self._of.noise_units)))
        return self._of.outputs(observation, [noise], training), network_state


def scaled_noise(normal: tf.Tensor) -> tf.Tensor:
    """f(x) = sign(x) sqrt|x| of normal noise, of which factorised layers take products (Fortunato et al. 2018, 3b)."""
    return tf.sign(normal) * tf.sqrt(tf.abs(normal))


def draw_noise(seed: int, gradient_steps: tf.Tensor, batch: Any, width: int, stream: int) -> tf.Tensor:
    """Draws the noise of one pass of a gradient step, float32 [batch, width], for a noise input; see `draws.draw`."""
    return scaled_noise(draws.draw(tf.random.stateless_normal, seed, gradient_steps, batch, width, stream))
