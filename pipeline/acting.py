"""Acting without TensorFlow: a Q-network as a TFLite program that takes its weights as inputs.

The learner converts the network once (`convert`) and publishes the program; new weights then cost an actor a copy of
some microseconds, and any Keras network of the usual layers acts at the speed of compiled code. A network that TFLite
cannot take acts through TensorFlow in the actor's process (`KerasActor`), with the same Q-values.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agents import AgentConfig, Specs
from pipeline import native

if TYPE_CHECKING:
    import tensorflow as tf

Weights = Sequence[NDArray[Any]]


class Actor(Protocol):
    """Q-values of a fixed number of lanes."""

    def set_weights(self, weights: Weights) -> None:
        """Takes new weights, in the order of the Keras model's `weights`."""

    def q_values(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Q-values float32 [lanes, actions] of observations by leaf name, each [lanes, ...] in its spec's dtype."""


class TfliteActor:
    """Runs the published program: no TensorFlow in this process."""

    def __init__(self, program: bytes, specs: Specs, lanes: int, weights: Weights, threads: int = 1) -> None:
        self._leaves = list(specs.leaves())
        shapes = [(lanes, *spec.shape) for spec in specs.leaves().values()]
        self._interpreter = native.Interpreter(program, shapes + [weight.shape for weight in weights], threads)
        self.set_weights(weights)

    def set_weights(self, weights: Weights) -> None:
        """See `Actor`."""
        for position, weight in enumerate(weights, start=len(self._leaves)):
            self._interpreter.set(position, weight)

    def q_values(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """See `Actor`."""
        for position, name in enumerate(self._leaves):
            self._interpreter.set(position, observation[name])
        return self._interpreter.run()


class KerasActor:
    """Calls the Keras model through one concrete TensorFlow function, for networks that TFLite cannot take."""

    def __init__(self, config: AgentConfig, specs: Specs, lanes: int, weights: Weights) -> None:
        import tensorflow as tf

        from agents import build

        self._specs = specs
        self._model = build(config.kind, specs, config).acting_model
        self._function = tf.function(lambda observation: self._model(observation)).get_concrete_function(
            specs.pack({name: tf.TensorSpec((lanes, *spec.shape), spec.dtype) for name, spec in specs.leaves().items()})
        )
        self.set_weights(weights)

    def set_weights(self, weights: Weights) -> None:
        """See `Actor`."""
        self._model.set_weights(weights)

    def q_values(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """See `Actor`."""
        import tensorflow as tf

        tensors = {name: tf.constant(observation[name]) for name in self._specs.leaves()}
        scores: NDArray[np.float32] = self._function(self._specs.pack(tensors)).numpy()
        return scores


def make_actor(
    config: AgentConfig, specs: Specs, lanes: int, program: bytes, weights: Weights, threads: int = 1
) -> Actor:
    """The actor for a published program; an empty one means that TFLite could not take the network."""
    if program:
        return TfliteActor(program, specs, lanes, weights, threads)
    return KerasActor(config, specs, lanes, weights)


def convert(model: "tf.keras.Model", specs: Specs) -> bytes:
    """Converts a Keras model to a TFLite program `(observations..., weights...) -> output`.

    Args:
      model: maps the observation nest of `specs` to float32 [B, n].
      specs: their order and dtypes; batch size is free.

    Returns:
      The flatbuffer; empty where TFLite has no kernels for the network.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import ConverterError

    leaves = specs.leaves()
    observation = specs.pack({name: tf.TensorSpec((None, *spec.shape), spec.dtype) for name, spec in leaves.items()})
    function = _as_function_of_weights(model, observation, leaves)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        program: bytes = converter.convert()
    except ConverterError:
        return b""
    return program


def _as_function_of_weights(model: "tf.keras.Model", observation: Any, leaves: dict[str, Any]) -> Any:
    """A concrete function of arguments named `argument_<position>`: the leaves, then the model's weights.

    The model's graph reads its variables through ReadVariableOp nodes; importing it with their outputs mapped to
    arguments makes weights of them, for any layers.
    """
    import tensorflow as tf

    names = list(leaves)
    traced = tf.function(lambda *flat: model(_repack(observation, names, flat))).get_concrete_function(
        *(tf.TensorSpec((None, *leaves[name].shape), leaves[name].dtype) for name in names)
    )
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
    inputs = [tensor.name for tensor in traced.inputs[: len(names)]]
    output = traced.outputs[0].name

    def rebuilt(*arguments: Any) -> Any:
        weights = arguments[len(names) :]
        mapping = dict(zip(inputs, arguments[: len(names)], strict=True))
        mapping.update({read: weights[position] for read, position in reads.items()})
        (result,) = tf.graph_util.import_graph_def(graph_def, input_map=mapping, return_elements=[output])
        return result

    specs = [tf.TensorSpec((None, *leaves[name].shape), leaves[name].dtype) for name in names]
    specs += [tf.TensorSpec(weight.shape, weight.dtype) for weight in model.weights]
    named = [tf.TensorSpec(spec.shape, spec.dtype, name=f"argument_{position}") for position, spec in enumerate(specs)]
    return tf.function(rebuilt).get_concrete_function(*named)


def _repack(observation: Any, names: list[str], flat: Sequence[Any]) -> Any:
    return flat[0] if not isinstance(observation, dict) else dict(zip(names, flat, strict=True))
