"""Describes an environment to an agent: observations, actions and masks, in plain values (no TensorFlow)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Union

if TYPE_CHECKING:
    from agents.pictures import Picture

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
        if not self.picture_axes:
            return None
        from agents.pictures import picture_of

        return picture_of(self.picture_axes, self.shape)


Observation = Union[ArraySpec, Mapping[str, ArraySpec]]


class Specs(NamedTuple):
    """The interface of an environment: observations, number of actions, and whether it masks actions."""

    observation: Observation
    num_actions: int
    """Scores, and places of a mask: of an action of several dimensions the sum of their sizes."""
    masked: bool = False
    action_sizes: tuple[int, ...] = ()
    """Choices of each dimension of an action; empty where an action is one number."""

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of one action: () of one number, else (D,)."""
        return (len(self.action_sizes),) if self.action_sizes else ()

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
        """Makes the specs of a TF-Agents environment; see `agents.specs_of_tf_agents.specs_of`."""
        from agents.specs_of_tf_agents import specs_of

        return specs_of(time_step_spec, action_spec)
