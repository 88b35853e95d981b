"""What an exported policy takes and returns: its inputs and outputs by name, beside the arrays of its agent.

Observations come as the environment gives them: in its dtypes, categories counted from where it counts them; the newest
`environment.frame_stack` of them side by side. Actions go as it takes them. No TensorFlow.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents import ArraySpec, Specs
from pipeline import environments
from pipeline.acting.frame_stacks import stacked
from pipeline.environments import Spaces
from pipeline.environments.interfaces.action_spaces import starts_of
from pipeline.environments.lanes.leaves import given_leaves
from pipeline.environments.lanes.spaces import first_action, specs_of
from pipeline.experiment.sections import Experiment

BARE = "observation"
MASK = "action_mask"
STATE = "state"
ACTION = "action"
NEXT_STATE = "next_state"
Q_VALUES = "q_values"


class Tensor(msgspec.Struct, frozen=True):
    """One input or output."""

    dtype: str
    """NumPy's name of it."""
    shape: tuple[int, ...]
    """Without the batch dimension, which is free."""


class Leaf(msgspec.Struct, frozen=True):
    """One array of an observation."""

    name: str
    """Of the input; the agent's own name of it is the key in `Interface.leaves`."""
    dtype: str
    """As the environment gives it."""
    start: tuple[int, ...]
    """What the environment counts each entry from, in C order; empty where that is 0."""
    spec: ArraySpec
    """As the agent sees it, of one observation."""


class Interface(msgspec.Struct, frozen=True):
    """Inputs and outputs of a policy."""

    leaves: dict[str, Leaf]
    num_actions: int
    first_action: int
    """The environment's number of the agent's action 0."""
    masked: bool
    """Whether the environment itself gives masks, which are an input then."""
    shield: str
    """`environment.shield`."""
    shield_inside: bool
    """Whether an exported model applies the shield; where not, what it allows is part of the mask that is an input."""
    frames: int
    """Observations of a stack."""
    state_units: int
    scores: str
    """Name of the output that actions are chosen by: q_values, or the logits of a policy."""
    action_sizes: tuple[int, ...] = ()
    """Of the dimensions of an action; empty where it is one number. Their scores lie side by side."""
    action_shape: tuple[int, ...] = ()
    """As the environment takes an action of several dimensions; (D,) of a Tuple or Dict."""
    first_actions: tuple[int, ...] = ()
    """The environment's number of 0 of each dimension."""

    @classmethod
    def of(cls, experiment: Experiment, spaces: Spaces) -> "Interface":
        """The interface of an experiment's policies, with the shield outside of the model.

        Args:
          experiment: the run.
          spaces: `unshielded_spaces` of it.
        """
        environment = experiment.environment
        specs = specs_of(*spaces, environment.image_keys, environment.image_layout)
        given = given_leaves(spaces.observation)
        names, sizes = _input_names(specs.leaves()), specs.action_sizes
        return cls(
            leaves={leaf: Leaf(names[leaf], *given[leaf], spec) for leaf, spec in specs.leaves().items()},
            num_actions=specs.num_actions,
            first_action=first_action(spaces.action),
            masked=spaces.masked,
            shield=experiment.environment.shield,
            shield_inside=False,
            frames=experiment.environment.frame_stack,
            state_units=experiment.agent.state_units if experiment.agent.remembers else 0,
            scores="logits" if experiment.agent.learns_policy else Q_VALUES,
            action_sizes=sizes,
            action_shape=(spaces.action.shape or specs.action_shape) if sizes else (),
            first_actions=starts_of(spaces.action) if sizes else (),
        )

    @property
    def takes_mask(self) -> bool:
        """Whether the exported model has a mask among its inputs."""
        return self.masked or bool(self.shield and not self.shield_inside)

    @property
    def specs(self) -> Specs:
        """Of one observation, as the agent sees it."""
        leaves = {leaf: each.spec for leaf, each in self.leaves.items()}
        observation: Any = leaves[""] if set(leaves) == {""} else leaves
        return Specs(observation, self.num_actions, self.masked or bool(self.shield), self.action_sizes)

    def inputs(self) -> dict[str, Tensor]:
        """By name: the observation's parts, `action_mask` and `state`, as far as there are any."""
        shapes = stacked(self.specs, self.frames).leaves()
        inputs = {each.name: Tensor(each.dtype, shapes[leaf].shape) for leaf, each in self.leaves.items()}
        if self.takes_mask:
            inputs[MASK] = Tensor("bool", (self.num_actions,))
        if self.state_units:
            inputs[STATE] = Tensor("float32", (self.state_units,))
        return inputs

    def outputs(self) -> dict[str, Tensor]:
        """By name: `action`, the scores, and `next_state` of a recurrent policy."""
        outputs = {ACTION: Tensor("int64", self.action_shape), self.scores: Tensor("float32", (self.num_actions,))}
        if self.state_units:
            outputs[NEXT_STATE] = Tensor("float32", (self.state_units,))
        return outputs

    def actions(self, best: NDArray[np.int64]) -> NDArray[np.int64]:
        """Actions as the environment takes them, int64 [B, ...], of those from 0 [B] or [B, D]."""
        if not self.action_sizes:
            return best + self.first_action
        given: NDArray[np.int64] = (best + np.array(self.first_actions)).reshape(len(best), *self.action_shape)
        return given

    def seen(self, inputs: Mapping[str, Any], cast: Callable[[Any, str], Any]) -> dict[str, Any]:
        """Observations as the agent sees them, by leaf name.

        Args:
          inputs: arrays or tensors [lanes, ...] by input name.
          cast: to a dtype: `numpy.asarray` or `tf.cast`.
        """
        observation = {}
        for leaf, each in self.leaves.items():
            array = inputs[each.name]
            if each.start:
                array = array - self._start(each)
            observation[leaf] = cast(array, each.spec.dtype)
        return observation

    def bounds(self) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """The least and the largest value of each entry, as the environment gives it, of inputs that are whole numbers.

        By input name, each in the input's shape or one for all.
        """
        bounds = {MASK: (np.array(0), np.array(1))}
        for each in self.leaves.values():
            if each.spec.dtype == "uint8":
                bounds[each.name] = np.array(0), np.array(each.spec.maximum[0])
            elif each.spec.dtype == "int32":
                least, width = self._start(each), self._entries(each, each.spec.maximum)
                bounds[each.name] = least, least + width
        return bounds

    def _start(self, leaf: Leaf) -> NDArray[Any]:
        """What the environment counts from, in the shape of the input."""
        return self._entries(leaf, leaf.start or (0,) * len(leaf.spec.maximum))

    def _entries(self, leaf: Leaf, values: tuple[int, ...]) -> NDArray[Any]:
        """One value for each entry of an observation, in the shape of the input: repeated in a stack."""
        array = np.reshape(np.asarray(values, leaf.dtype), leaf.spec.shape)
        return array if self.frames == 1 else np.concatenate([np.atleast_1d(array)] * self.frames, axis=-1)


def unshielded_spaces(experiment: Experiment) -> Spaces:
    """The spaces of an experiment's environment, masked where it masks by itself.

    Raises:
      UsageError: the environment cannot be made.
      EnvironmentFault: its first observation is not as it should be.
    """
    return environments.spaces_of(msgspec.structs.replace(experiment.environment, shield=""))


def _input_names(leaves: Mapping[str, ArraySpec]) -> dict[str, str]:
    """Names that are identifiers, as TensorFlow wants them: "car/0" becomes car_0."""
    names: dict[str, str] = {}
    for leaf in leaves:
        name = re.sub(r"[^A-Za-z0-9_]", "_", leaf)
        if not name[:1].isalpha() or name in (MASK, STATE):
            name = f"{BARE}_{name}" if name else BARE
        while name in names.values():
            name += "_"
        names[leaf] = name
    return names
