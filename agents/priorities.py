"""Bounds of priorities: what a table of the replay takes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SMALLEST, LARGEST = 1e-6, 1e6
"""Bounds of a priority: above 0 every window may be drawn again, and Reverb's sum of them stays exact."""


def writable(priority: Any, applied: Any) -> Any:
    """The priorities of a gradient step to write back, float32 [B]; 0 for those of a skipped one that no table takes.

    Args:
      priority: float32 [B].
      applied: bool [], whether the step was.
    """
    import tensorflow as tf

    return tf.where(applied | (priority <= LARGEST), priority, 0.0)


def of_items(priorities: Floats, items: int) -> Floats:
    """Priority of each item drawn for a call: the mean of its windows' of [K, B], within what a table takes."""
    return bounded(priorities.reshape(-1, items).mean(axis=0))


def bounded(priorities: Floats) -> Floats:
    """Limits priorities to the bounds that a table takes.

    One that is not finite becomes the smallest: no update can be made of its window, and with the largest it would be
    drawn again and again.
    """
    finite = np.nan_to_num(priorities, nan=SMALLEST, posinf=SMALLEST, neginf=SMALLEST)
    limited: Floats = np.clip(finite, SMALLEST, LARGEST)
    return limited
