"""Bounds of priorities: what a table of the replay takes. Pure NumPy."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SMALLEST, LARGEST = 1e-6, 1e6
"""Bounds of a priority: above 0 every window may be drawn again, and Reverb's sum of them stays exact."""


def bounded(priorities: Floats) -> Floats:
    """Limits priorities to the bounds that a table takes.

    One that is not finite becomes the smallest: no update can be made of its window, and with the largest it would be
    drawn again and again.
    """
    finite = np.nan_to_num(priorities, nan=SMALLEST, posinf=SMALLEST, neginf=SMALLEST)
    limited: Floats = np.clip(finite, SMALLEST, LARGEST)
    return limited
