"""Marks where episodes begin and end in the frames of one vector step. Pure NumPy.

A lane's episode ends in one step, and the step after it is a reset, whose action the environment ignores. A step that
fails counts as none: the lane's environment was made anew, so the frame that the action was chosen in becomes the end
of its episode, as after a truncation, and the next frame is the first of another.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.replay.frames import FIRST, LAST, MID


class Boundaries(NamedTuple):
    """In which lanes one vector step began or ended an episode."""

    resets: NDArray[np.bool_]
    """bool [lanes]: the lane's episode had ended before, and the step began the next one."""
    ends: NDArray[np.bool_]
    """bool [lanes]: the step ended the lane's episode."""
    cuts: NDArray[np.bool_] | None
    """bool [lanes]: the step failed, and the lane has begun another episode. None where no lane's step failed."""


class Marks(NamedTuple):
    """What boundaries make of the frames of one vector step. All arrays are new: nobody else holds them."""

    step_type: NDArray[np.uint8]
    """uint8 [lanes], of the frames that the step was taken from."""
    next_step_type: NDArray[np.uint8]
    """uint8 [lanes], of the frames that the step led to."""
    taken: NDArray[np.bool_]
    """bool [lanes]: the lane's environment took a step; it did not where it was reset or the step failed."""
    environment_steps: int
    """How many lanes are in `taken`."""


def mark(boundaries: Boundaries, step_type: NDArray[np.uint8]) -> Marks:
    """Gives the step types of the frames before and after a vector step, and which lanes took an environment step.

    Args:
      boundaries: of the step.
      step_type: uint8 [lanes], of the frames that the step was taken from, as the step before it left them.
    """
    resets, ends, cuts = boundaries
    step_type, taken = step_type.copy(), ~resets
    next_step_type = np.empty_like(step_type)
    next_step_type.fill(MID)
    next_step_type[ends] = LAST
    next_step_type[resets] = FIRST
    if cuts is not None:
        step_type[cuts] = LAST
        next_step_type[cuts] = FIRST
        taken &= ~cuts
    return Marks(step_type, next_step_type, taken, int(np.count_nonzero(taken)))
