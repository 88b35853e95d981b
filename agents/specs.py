"""What an agent needs to know of its environment, in plain values (no TensorFlow)."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Union

import numpy as np


class ArraySpec(NamedTuple):
    """One array of an observation, without batch dimensions.

    Integer arrays (`int32`) are categories: entry j takes one of `maximum[j] + 1` values and reaches the network as
    one-hot vectors. `uint8` arrays are quantities in [0, maximum], scaled to [0, 1]; `float32` arrays are taken as
    they are.
    """

    shape: tuple[int, ...]
    dtype: str
    maximum: tuple[int, ...] = ()
    """Of an `int32` array one largest value an entry, in C order; of a `uint8` array the largest value of all."""


Observation = Union[ArraySpec, Mapping[str, ArraySpec]]


class Specs(NamedTuple):
    """The interface of an environment: observations, number of actions, and whether it masks actions."""

    observation: Observation
    num_actions: int
    masked: bool = False

    def leaves(self) -> dict[str, ArraySpec]:
        """The observation's arrays by name, in the order in which they are stored; a bare array is `""`."""
        if isinstance(self.observation, ArraySpec):
            return {"": self.observation}
        return dict(sorted(self.observation.items()))

    def pack(self, leaves: Mapping[str, Any]) -> Any:
        """The observation as the agent sees it, from its arrays by name: the inverse of naming `leaves`."""
        if isinstance(self.observation, ArraySpec):
            return leaves[""]
        return dict(leaves)

    @classmethod
    def from_tf_agents(cls, time_step_spec: Any, action_spec: Any) -> "Specs":
        """Specs of a TF-Agents environment.

        Args:
          time_step_spec: `tf_env.time_step_spec()`; its observation is one bounded array spec or a flat dict of them.
          action_spec: `tf_env.action_spec()`, a scalar integer from 0.

        Raises:
          ValueError: the actions are not one integer from 0, or an observation's dtype is not supported.
        """
        if action_spec.shape.rank != 0 or not action_spec.dtype.is_integer or np.any(action_spec.minimum != 0):
            raise ValueError(f"actions must be one integer from 0; got {action_spec}")
        observation = time_step_spec.observation
        if isinstance(observation, Mapping):
            packed: Observation = {name: _array_spec(spec) for name, spec in observation.items()}
        else:
            packed = _array_spec(observation)
        return cls(packed, int(np.max(action_spec.maximum)) + 1)


def _array_spec(spec: Any) -> ArraySpec:
    shape, dtype = tuple(spec.shape), spec.dtype.as_numpy_dtype
    if dtype == np.float32:
        return ArraySpec(shape, "float32")
    if dtype == np.uint8:
        return ArraySpec(shape, "uint8", (int(np.max(spec.maximum)),))
    if dtype == np.int32:
        largest = np.broadcast_to(spec.maximum, shape).ravel()
        return ArraySpec(shape, "int32", tuple(int(value) for value in largest))
    raise ValueError(f"observations must be float32, uint8 or int32; got {spec}")
