"""A frame: what one lane saw and did in one vector step, packed into bytes.

A frame travels as one byte column, because each column of a Reverb item costs as much as an item. Frame t holds the
observation, the action taken on it, and what the step returned, as in TF-Agents' `Trajectory`: reward and discount
belong to the step from frame t to frame t + 1. The frame at an episode's end (step type LAST) holds the terminal
observation, and its step is the environment's reset.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Specs
from pipeline.experiment.sections import Experiment

FIRST, MID, LAST = 0, 1, 2  # TF-Agents' StepType


class FrameLayout:
    """Where each field of a frame lies, for the numpy side that writes and the TensorFlow side that reads.

    Args:
      specs: of the environment, of one observation.
      state_units: of a recurrent policy.
      stack: observations that the network sees at once; a frame holds the newest alone.
    """

    def __init__(self, specs: Specs, state_units: int = 0, stack: int = 1) -> None:
        self.specs, self.state_units, self.stack = specs, state_units, stack
        self.agent_specs = specs if stack == 1 else _stacked(specs, stack)
        """Specs of what the network sees."""
        fields: list[Any] = [(self.leaf_field(name), spec.dtype, spec.shape) for name, spec in specs.leaves().items()]
        if specs.masked:
            fields.append(("mask", "bool", (specs.num_actions,)))
        if state_units:  # the recurrent state that the action was chosen with
            fields.append(("state", "float32", (state_units,)))
        fields += [
            ("action", "int32", specs.action_shape),
            ("reward", "float32"),
            ("terminated", "bool"),
            ("step_type", "uint8"),
            ("next_step_type", "uint8"),
            ("gradient_steps", "int32"),  # that the acting weights had taken: from it the age of the data follows
        ]
        self.dtype = np.dtype(fields)
        self.num_bytes = self.dtype.itemsize
        self.version_bytes = slice(self.num_bytes - 4, self.num_bytes)  # where "gradient_steps" lies

    @classmethod
    def of(cls, experiment: Experiment, specs: Specs) -> "FrameLayout":
        """The layout of an experiment's frames; `specs` are of one observation."""
        return cls(specs, experiment.agent.state_units, experiment.environment.frame_stack)

    @staticmethod
    def leaf_field(name: str) -> str:
        """Field of the observation's leaf of that name."""
        return f"observation/{name}"

    @property
    def table(self) -> str:
        """Name of the experience table: it holds a digest, so that frames of any other layout find no table.

        The table's signature refuses other sizes; Reverb has no name for what the bytes mean.
        """
        return "experience_" + hashlib.sha256(repr(self.dtype.descr).encode()).hexdigest()[:12]

    def fields(self) -> list[tuple[str, tuple[np.dtype[Any], int]]]:
        """Name, NumPy dtype and byte offset of each field."""
        fields: Any = self.dtype.fields
        return [(name, (fields[name][0], fields[name][1])) for name in self.dtype.names or ()]

    def empty(self, lanes: int) -> NDArray[Any]:
        """A structured array [lanes] to fill; `as_bytes` is a view of it."""
        return np.zeros(lanes, self.dtype)

    def padding(self, lanes: int) -> NDArray[Any]:
        """Frames [lanes] of no step: no transition begins in one, and any action is allowed there."""
        frames = self.empty(lanes)
        frames["step_type"] = frames["next_step_type"] = LAST
        if self.specs.masked:
            frames["mask"] = True
        return frames

    def as_bytes(self, frames: NDArray[Any]) -> NDArray[np.uint8]:
        """The same memory as uint8 [lanes, num_bytes]."""
        return frames.view(np.uint8).reshape(len(frames), self.num_bytes)


def _stacked(specs: Specs, frames: int) -> Specs:
    from pipeline.acting.frame_stacks import stacked

    return stacked(specs, frames)
