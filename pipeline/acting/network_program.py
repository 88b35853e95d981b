"""Acting without TensorFlow: a Q-network as a TFLite program that takes its weights as inputs.

The learner converts the network once (`convert`) and publishes the program; new weights then cost an actor a copy of
some microseconds, and any Keras network of the usual layers acts at the speed of compiled code. A network that TFLite
cannot take acts through TensorFlow in the actor's process (`keras_actor`), with the same Q-values; so does one of large
convolutions, which TFLite runs more slowly.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agents import Specs
from agents.config_fields import KindOfAgent
from pipeline.runtime import native
from pipeline.runtime.notices import without_notices

if TYPE_CHECKING:
    import tensorflow as tf

Weights = Sequence[NDArray[Any]]
Draws = np.random.Generator | NDArray[np.float32] | None  # what draws normal numbers, or those that were drawn
_MANY_PRODUCTS = 1e6
"""Of an observation's convolutions."""


class Actor(Protocol):
    """Q-values of a fixed number of lanes.

    One of a recurrent network keeps the lanes' states between calls.
    """

    state: NDArray[np.float32]
    """float32 [lanes, state_units], before the next call; without columns where the network has none."""
    noise_shape: tuple[int, ...] | None
    """Of the normal numbers that a noisy network takes, [lanes, units]; None of others."""

    def set_weights(self, weights: Weights) -> None:
        """Takes new weights, in the order of the Keras model's `weights`."""

    def q_values(self, observation: dict[str, NDArray[Any]], random: Draws = None) -> NDArray[np.float32]:
        """Q-values float32 [lanes, actions] of observations by leaf name, each [lanes, ...] in its spec's dtype.

        A noisy network takes its noise from `random`, one draw a lane; without it the noise is 0.
        """


class TfliteActor:
    """Runs the published program: no TensorFlow in this process."""

    def __init__(
        self,
        program: bytes,
        specs: Specs,
        lanes: int,
        weights: Weights,
        threads: int = 1,
        state_units: int = 0,
    ) -> None:
        self._leaves = list(specs.leaves())
        shapes = [(lanes, *spec.shape) for spec in specs.leaves().values()]
        self._interpreter = native.Interpreter(program, shapes + [weight.shape for weight in weights], threads)
        self._last_position = len(shapes) + len(weights)
        further = self._interpreter.shapes[self._last_position :]
        self.noise_shape = further[0] if further and not state_units else None
        self._actions = specs.num_actions
        self.state = np.zeros((lanes, state_units), np.float32)
        self.set_weights(weights)

    def set_weights(self, weights: Weights) -> None:
        """See `Actor`."""
        for position, weight in enumerate(weights, start=len(self._leaves)):
            self._interpreter.set(position, weight)

    def q_values(self, observation: dict[str, NDArray[Any]], random: Draws = None) -> NDArray[np.float32]:
        """See `Actor`."""
        for position, name in enumerate(self._leaves):
            self._interpreter.set(position, observation[name])
        if self.noise_shape is not None:
            self._interpreter.set(self._last_position, noise_of(self.noise_shape, random))
        if not self.state.shape[1]:
            return self._interpreter.run()
        self._interpreter.set(self._last_position, self.state)
        both = self._interpreter.run()
        self.state = both[:, self._actions :].copy()
        return both[:, : self._actions]


def noise_of(shape: tuple[int, ...], random: Draws) -> NDArray[np.float32]:
    """`agents.noisy.scaled_noise` of normal numbers, or zeros."""
    if random is None:
        return np.zeros(shape, np.float32)
    normal = random if isinstance(random, np.ndarray) else random.standard_normal(shape, np.float32)
    scaled: NDArray[np.float32] = np.copysign(np.sqrt(np.abs(normal)), normal)
    return scaled


def make_actor(
    config: KindOfAgent, specs: Specs, lanes: int, program: bytes, weights: Weights, threads: int = 1
) -> Actor:
    """The actor for a published program; an empty one means that the network acts through TensorFlow."""
    if program:
        return TfliteActor(program, specs, lanes, weights, threads, config.state_units)
    from pipeline.acting.keras_actor import KerasActor

    return KerasActor(config, specs, lanes, weights, threads)


def convolves_much(model: "tf.keras.Model") -> bool:
    """Whether TensorFlow runs a model faster than TFLite does, whose convolutions are slow with weights as inputs.

    Nature's (8 million products an observation) took 2.4 ms for 8 observations against 0.9 ms on one core; MinAtar's
    (40 thousand) are over before TensorFlow has dispatched its operations.
    """
    layers = convolutions(model)
    products = sum(np.prod(layer.output_shape[1:3]) * np.prod(layer.kernel.shape) for layer in layers)
    return bool(products > _MANY_PRODUCTS)


def convolutions(model: "tf.keras.Model") -> list[Any]:
    """The convolutional layers of a model and of those within it."""
    import tensorflow as tf

    return [layer for layer in model.submodules if isinstance(layer, tf.keras.layers.Conv2D)]


def convert(model: "tf.keras.Model", specs: Specs, further_units: int = 0) -> bytes:
    """Converts a Keras model to a TFLite program `(observations..., weights..., noise or state) -> output`.

    Args:
      model: maps the observation nest of `specs`, or a list of it and noise or recurrent state, to float32 [B, n].
      specs: their order and dtypes; batch size is free.
      further_units: width of the noise or the state; 0 where the model takes neither.

    Returns:
      The flatbuffer; empty where TFLite has no kernels for the network.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import ConverterError

    leaves = specs.leaves()
    observation = specs.pack({name: tf.TensorSpec((None, *spec.shape), spec.dtype) for name, spec in leaves.items()})
    function = _as_function_of_weights(model, observation, leaves, further_units)
    # It is converted by way of a SavedModel of what keeps the variables alive: there are none, weights are arguments.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        with without_notices():
            program: bytes = converter.convert()
    except ConverterError:
        return b""
    return program


def _as_function_of_weights(
    model: "tf.keras.Model", observation: Any, leaves: dict[str, Any], further_units: int
) -> Any:
    """A concrete function of arguments named `argument_<position>`: the leaves, the model's weights, noise or state.

    The model's graph reads its variables through ReadVariableOp nodes; importing it with their outputs mapped to
    arguments makes weights of them, for any layers.
    """
    import tensorflow as tf

    names = list(leaves)
    specs = [tf.TensorSpec((None, *leaves[name].shape), leaves[name].dtype) for name in names]
    further = [tf.TensorSpec((None, further_units), tf.float32)] if further_units else []

    def call(*flat: Any) -> Any:
        packed = dict(zip(names, flat, strict=False)) if isinstance(observation, dict) else flat[0]
        return model([packed, *flat[len(names) :]] if further else packed)

    traced = tf.function(call, autograph=False).get_concrete_function(*specs, *further)
    placeholders = {id(handle): internal.name for handle, internal in traced.graph.captures}
    position_of = {placeholders[id(weight.handle)]: position for position, weight in enumerate(model.weights)}
    reads = {
        operation.outputs[0].name: position_of[operation.inputs[0].name]
        for operation in traced.graph.get_operations()
        if operation.type == "ReadVariableOp" and operation.inputs[0].name in position_of
    }
    graph_def = traced.graph.as_graph_def()
    for node in graph_def.node:  # control edges only order the reads of variables, which are gone
        data_inputs = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(data_inputs)
    inputs = [tensor.name for tensor in traced.inputs[: len(names) + len(further)]]
    output = traced.outputs[0].name

    def rebuilt(*arguments: Any) -> Any:
        weights = arguments[len(names) : len(names) + len(model.weights)]
        given = arguments[: len(names)] + arguments[len(names) + len(weights) :]
        mapping = dict(zip(inputs, given, strict=True))
        mapping.update({read: weights[position] for read, position in reads.items()})
        (result,) = tf.graph_util.import_graph_def(graph_def, input_map=mapping, return_elements=[output])
        return result

    specs += [tf.TensorSpec(weight.shape, weight.dtype) for weight in model.weights]
    specs += further
    named = [tf.TensorSpec(spec.shape, spec.dtype, name=f"argument_{position}") for position, spec in enumerate(specs)]
    return tf.function(rebuilt, autograph=False).get_concrete_function(*named)
