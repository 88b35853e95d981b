"""Acting through TensorFlow, for networks that TFLite cannot take or runs more slowly."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Specs
from agents.config_fields import KindOfAgent
from pipeline.acting.network_program import Draws, Weights, noise_of
from pipeline.runtime.process import quieten_gym


class KerasActor:
    """Calls the Keras model through one concrete TensorFlow function; see `network_program.Actor`."""

    def __init__(self, config: KindOfAgent, specs: Specs, lanes: int, weights: Weights, threads: int = 1) -> None:
        is_first = "tensorflow" not in sys.modules  # else it has the threads of whoever uses it here
        quieten_gym()
        import tensorflow as tf

        from agents import build

        if is_first:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)

        agent = build(config.kind, specs, config, open_fields=True)
        self._specs, self._model = specs, agent.acting_model
        self.noise_shape = (lanes, agent.noise_units) if agent.noise_units else None
        self.state = np.zeros((lanes, config.state_units), np.float32)
        observation = {name: tf.TensorSpec((lanes, *spec.shape), spec.dtype) for name, spec in specs.leaves().items()}
        noise = [tf.TensorSpec(self.noise_shape, tf.float32)] if self.noise_shape else []
        noise += [tf.TensorSpec(self.state.shape, tf.float32)] if config.state_units else []
        function = tf.function(lambda *inputs: self._model(list(inputs) if len(inputs) > 1 else inputs[0]))
        self._function = function.get_concrete_function(specs.pack(observation), *noise)
        self.set_weights(weights)

    def set_weights(self, weights: Weights) -> None:
        """See `Actor`."""
        self._model.set_weights(weights)

    def q_values(self, observation: dict[str, NDArray[Any]], random: Draws = None) -> NDArray[np.float32]:
        """See `Actor`."""
        import tensorflow as tf

        tensors = {name: tf.constant(observation[name]) for name in self._specs.leaves()}
        noise = [tf.constant(noise_of(self.noise_shape, random))] if self.noise_shape else []
        noise += [tf.constant(self.state)] if self.state.shape[1] else []
        both: NDArray[np.float32] = self._function(self._specs.pack(tensors), *noise).numpy()
        self.state = both[:, self._specs.num_actions :].copy()
        return both[:, : self._specs.num_actions]
