"""Bounds of priorities: what a table of the replay takes. Pure NumPy."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SMALLEST, LARGEST = 1e-6, 1e6
"""Bounds of a priority: none is never drawn again, and Reverb's sum of them stays exact."""


def bounded(priorities: Floats) -> Floats:
    """Priorities within the bounds that a table takes.

    What is not finite becomes the smallest: no update can be made of it, and the largest would draw it again and again.
    """
    finite = np.nan_to_num(priorities, nan=SMALLEST, posinf=SMALLEST, neginf=SMALLEST)
    limited: Floats = np.clip(finite, SMALLEST, LARGEST)
    return limited
