"""Describes an environment to an agent: observations, actions and masks, in plain values (no TensorFlow)."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Union

import numpy as np

CATEGORIES = ("int32", "int64")
"""Dtypes of categories. Frames have the first; the second is that of TF-Agents' environments of gym."""
_PICTURE_RANK = 3


class ArraySpec(NamedTuple):
    """One array of an observation, without batch dimensions.

    Integer arrays (`int32`, or `int64` from TF-Agents) are categories: entry j takes one of `maximum[j] + 1` values and
    reaches the network as one-hot vectors. `uint8` arrays are quantities in [0, maximum], scaled to [0, 1]; `float32`
    arrays are taken as they are.
    """

    shape: tuple[int, ...]
    dtype: str
    maximum: tuple[int, ...] = ()
    """Of categories one largest value an entry, in C order; of a `uint8` array the largest value of all; of a
    `float32` picture what it is divided by, if anything."""
    axes: str | None = None
    """Of a picture, which goes through convolutions, what each axis is: H (height), W (width), C (channels) and K (a
    stack of frames), such as CHW; a number before the last says that it has so many frames side by side. Empty: no
    picture. None: HWC, if it is `uint8` and has three axes."""

    @property
    def picture_axes(self) -> str:
        """`axes`, with None resolved."""
        if self.axes is not None:
            return self.axes
        return "HWC" if self.dtype == "uint8" and len(self.shape) == _PICTURE_RANK else ""

    def as_picture(self) -> "Picture | None":
        """How to arrange the array as a picture; None if it is none."""
        axes, sizes = self.picture_axes, list(self.shape)
        if not axes:
            return None
        if digits := axes[1:-1].lstrip("HWCK"):  # frames side by side along the last axis
            axes = axes.replace(digits, "S")
            sizes[-1:] = [int(digits), sizes[-1] // int(digits)]
        order = sorted(range(len(axes)), key=lambda axis: ("HWKSC".index(axes[axis]), axis))
        height, width, *rest = (sizes[axis] for axis in order)
        return Picture(tuple(sizes), tuple(order), (height, width, int(np.prod(rest))))


class Picture(NamedTuple):
    """How to arrange an array as [height, width, channels]."""

    split: tuple[int, ...]
    """Shape with an axis for each of H, W, C and K."""
    order: tuple[int, ...]
    """Of these axes: height, width, then all that are channels."""
    shape: tuple[int, int, int]
    """Height, width and channels."""


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

    def plain(self) -> "Specs":
        """What frames hold: the same, whatever is taken as a picture."""
        leaves = {
            name: ArraySpec(spec.shape, spec.dtype, () if spec.dtype == "float32" else spec.maximum)
            for name, spec in self.leaves().items()
        }
        return self._replace(observation=self.pack(leaves))

    def pack(self, leaves: Mapping[str, Any]) -> Any:
        """The observation as the agent sees it, from its arrays by name: the inverse of naming `leaves`."""
        if isinstance(self.observation, ArraySpec):
            return leaves[""]
        return dict(leaves)

    @classmethod
    def from_tf_agents(cls, time_step_spec: Any, action_spec: Any) -> "Specs":
        """Makes the specs of a TF-Agents environment.

        Args:
          time_step_spec: `tf_env.time_step_spec()`; its observation is one bounded array spec or a flat dict of them.
          action_spec: `tf_env.action_spec()`, a scalar integer from 0.

        Raises:
          ValueError: the actions are not one integer from 0, or an observation's dtype is not supported.
        """
        from agents.specs_of_tf_agents import specs_of

        return specs_of(time_step_spec, action_spec)
