"""How an array of an observation is arranged as a picture."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Picture(NamedTuple):
    """How to arrange an array as [height, width, channels]."""

    split: tuple[int, ...]
    """Shape with an axis for each of H, W, C and K."""
    order: tuple[int, ...]
    """Of these axes: height, width, then all that are channels."""
    shape: tuple[int, int, int]
    """Height, width and channels."""


def picture_of(axes: str, shape: Sequence[int]) -> Picture:
    """The arrangement of an array whose axes are as `ArraySpec.axes` says."""
    sizes = list(shape)
    if digits := axes[1:-1].lstrip("HWCK"):  # frames side by side along the last axis
        axes = axes.replace(digits, "S")
        sizes[-1:] = [int(digits), sizes[-1] // int(digits)]
    order = sorted(range(len(axes)), key=lambda axis: ("HWKSC".index(axes[axis]), axis))
    height, width, *rest = (sizes[axis] for axis in order)
    return Picture(tuple(sizes), tuple(order), (height, width, int(np.prod(rest))))
