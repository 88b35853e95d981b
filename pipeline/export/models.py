"""A policy as models that need nothing of ours: a SavedModel, a TFLite file and an ONNX file of one function.

The function takes observations as the environment gives them and returns the greedy actions as the environment takes
them. What lies between in a run is inside: conversions, normalisation, masks, and the shield where it can be traced.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import ConverterError

from agents import build
from pipeline.acting.frame_stacks import newest, stacked
from pipeline.acting.policy_files import Policy
from pipeline.environments.lanes.leaves import drawn
from pipeline.environments.lanes.shield import Shield, load
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.export.interface import ACTION, MASK, NEXT_STATE, STATE, Interface
from pipeline.runtime.installation import how_to_install

SAVED_MODEL = Path("saved_model/1")
"""TensorFlow Serving wants a folder of numbered versions."""
TFLITE = Path("policy.tflite")
ONNX = Path("policy.onnx")
MODELS = {
    SAVED_MODEL: "the SavedModel, for TensorFlow and TensorFlow Serving",
    TFLITE: "the same function for TFLite",
    ONNX: "the same function for ONNX runtimes",
}
"""What `Model.write` writes."""
SIGNATURE = "serving_default"
_SHIELD_SAMPLES = 256
_OPSET = 17
"""Of ONNX: operators that runtimes since 2022 have."""


class Model:
    """The function of a policy, traced: see `pipeline.export.interface` for what it takes and returns.

    Args:
      experiment: the run.
      interface: of its policies.
      observation: the space of its environment's observations.
      policy: whose weights it has.

    Raises:
      UsageError: there is no such shield, or the policy is of another network.
    """

    def __init__(
        self, experiment: Experiment, interface: Interface, observation: gymnasium.Space[Any], policy: Policy
    ) -> None:
        self._shield = load(interface.shield) if interface.shield else None
        self.shield_obstacle = _obstacle(self._shield, interface, observation) if self._shield else ""
        """Why the shield is not inside; empty where it is, or where there is none."""
        inside = self._shield is not None and not self.shield_obstacle
        self.interface = msgspec.structs.replace(interface, shield_inside=inside)
        self._specs = stacked(interface.specs, interface.frames)
        self._silent = experiment.agent.state_units
        """Width of the states of a policy that does not act by them."""
        self._agent = build(experiment.agent.kind, self._specs, experiment.agent, open_fields=True)
        try:
            self._agent.acting_model.set_weights([array.numpy() for array in policy.weights])
        except ValueError:
            raise UsageError("the policy is not of the network that config.toml describes") from None
        inputs = self.interface.inputs()
        specs = {name: tf.TensorSpec((None, *each.shape), each.dtype, name) for name, each in inputs.items()}
        self._function = tf.function(self._act, autograph=False).get_concrete_function(**specs)

    def write(self, folder: Path) -> dict[Path, str]:
        """Writes the files into a folder; returns why the ones that are missing could not be made."""
        with _suppressed_stderr():
            self._save(folder / SAVED_MODEL)
        missing = {}
        try:
            with _suppressed_stderr():
                program = self._tflite(folder / SAVED_MODEL)
            (folder / TFLITE).write_bytes(program)
        except ConverterError as error:
            missing[TFLITE] = f"TFLite has no kernels for this network: {_first_line(error)}"
        try:
            with _suppressed_stderr():
                program = self._onnx()
            (folder / ONNX).write_bytes(program)
        except ImportError:
            missing[ONNX] = f"tf2onnx is not installed: {how_to_install('onnx')}"
        except Exception as error:  # of its many own kinds, what it has no operators for
            missing[ONNX] = f"tf2onnx cannot convert this network: {_first_line(error)}"
        return missing

    def _act(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        interface = self.interface
        seen = interface.seen(inputs, tf.cast)
        both = self._output(seen, inputs.get(STATE))
        scores = both[:, : interface.num_actions]
        best = self._best(self._masked(scores, seen, inputs.get(MASK)))
        outputs = {ACTION: best, interface.scores: scores}
        if interface.state_units:
            outputs[NEXT_STATE] = both[:, interface.num_actions :]
        return outputs

    def _output(self, seen: dict[str, tf.Tensor], state: tf.Tensor | None) -> tf.Tensor:
        """The acting network's output, without noise: float32 [B, actions], and the next states beside it."""
        observation, batch = self._specs.pack(seen), tf.shape(next(iter(seen.values())))[0]
        if state is not None:
            return self._agent.acting_model([observation, state])
        if silent := self._agent.noise_units + self._silent:
            return self._agent.acting_model([observation, tf.zeros((batch, silent))])
        return self._agent.acting_model(observation)

    def _best(self, scores: tf.Tensor) -> tf.Tensor:
        """The actions of the largest scores [B, S], as the environment takes them; each dimension by itself."""
        interface = self.interface
        if not interface.action_sizes:
            return tf.argmax(scores, axis=1) + interface.first_action
        of_each = tf.split(scores, interface.action_sizes, axis=1)
        best = [tf.argmax(part, axis=1) + first for part, first in zip(of_each, interface.first_actions, strict=True)]
        return tf.reshape(tf.stack(best, axis=1), (-1, *interface.action_shape))

    def _masked(self, scores: tf.Tensor, seen: dict[str, tf.Tensor], mask: tf.Tensor | None) -> tf.Tensor:
        """The scores, -inf where the mask or the shield inside forbids."""
        interface = self.interface
        if mask is not None:
            scores = tf.where(mask, scores, -np.inf)
        if self._shield is not None and interface.shield_inside:
            frame = newest(interface.specs, interface.frames, seen)
            scores = tf.where(self._shield(interface.specs.pack(frame)), scores, -np.inf)
        return scores

    def _save(self, folder: Path) -> None:
        holder = tf.Module()
        holder.weights = self._agent.acting_model.weights  # not the model itself, which is loaded through Keras
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(holder, str(folder), signatures={SIGNATURE: self._function}, options=options)

    def _tflite(self, saved_model: Path) -> bytes:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=[SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        program: bytes = converter.convert()
        return program

    def _onnx(self) -> bytes:
        import tf2onnx  # an extra
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        frozen = convert_variables_to_constants_v2(self._function)
        inputs = {tensor.name: tensor.name.partition(":")[0] for tensor in frozen.inputs}
        # Outputs of a dict come in the order of its sorted keys.
        outputs = dict(zip((tensor.name for tensor in frozen.outputs), sorted(self.interface.outputs()), strict=True))
        model, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            name="policy",
            input_names=list(inputs),
            output_names=list(outputs),
            opset=_OPSET,
            tensors_to_rename={**inputs, **outputs},
        )
        for tensor in (*model.graph.input, *model.graph.output):
            tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
        program: bytes = model.SerializeToString()
        return program


def _obstacle(shield: Shield, interface: Interface, observation: gymnasium.Space[Any]) -> str:
    """Why a shield cannot be part of a graph; empty where it can, and allows there what it does in Python.

    That is looked at with random observations of the space.
    """
    specs = interface.specs
    leaves = {leaf: tf.TensorSpec((None, *spec.shape), spec.dtype) for leaf, spec in specs.leaves().items()}
    try:
        traced = tf.function(lambda given: shield(specs.pack(given)), autograph=False).get_concrete_function(leaves)
        samples = drawn(observation, _SHIELD_SAMPLES)
        in_python = shield(specs.pack(samples))
        in_graph = traced({leaf: tf.constant(array) for leaf, array in samples.items()}).numpy()
    except Exception as error:  # whatever a function for NumPy makes of tensors
        return f"TensorFlow cannot trace it ({type(error).__name__})"
    if in_graph.dtype != np.bool_ or not np.array_equal(in_python, in_graph):
        return "traced by TensorFlow, it allows other actions than in Python"
    return ""


@contextmanager
def _suppressed_stderr() -> Iterator[None]:
    """Silences stderr while converters run, in Python and C++; errors are raised all the same."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
