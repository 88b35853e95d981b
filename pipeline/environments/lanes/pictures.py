"""Which parts of an observation are pictures, and in which order their axes are; guessed, unless the config says it.

Pictures go through convolutions (`agent.image_torso`), other arrays are flattened.
"""

from collections.abc import Collection, Iterator

import numpy as np
from gymnasium import spaces

from agents import ArraySpec, Specs
from pipeline.experiment.config import UsageError

_FEW = (1, 3, 4)
"""Channels of gray, coloured and transparent pictures."""
_LEAST_SIDE = 16
"""Numbers along the sides of what may be a picture by its sides alone."""
_LEAST_PLANE = 8
"""The same of floats with an axis for channels: boards have 8."""
_TIMES = 4
"""How many times as long as its channels a picture's sides are, at least."""


def with_axes(spec: ArraySpec, space: object, name: str, keys: Collection[str] | None, layout: str) -> ArraySpec:
    """A spec with its axes, if it is of a picture.

    Args:
      spec: of one part of an observation.
      space: of the part.
      name: of the part.
      keys: names of the parts that are pictures; None guesses.
      layout: order of their axes; "auto" guesses.

    Raises:
      UsageError: the part has been named a picture, and cannot be one.
    """
    if keys is not None and name not in keys:
        return spec if not spec.picture_axes else spec._replace(axes="")
    if spec.dtype == "int32":
        if keys is None:
            return spec
        raise UsageError(f"environment.image_keys has {name!r}, which is {space}: categories are no picture")
    bounds = _bounds(space)
    is_named = keys is not None
    if layout == "auto":
        axes = _guess(spec, bounds, is_named)
        if is_named and not axes:
            raise UsageError(
                f"environment.image_keys has {name!r}, of shape {spec.shape}: say in environment.image_layout what its "
                "axes are"
            )
    elif len(layout) == len(spec.shape):
        axes = layout
    elif is_named:
        raise UsageError(
            f"environment.image_layout={layout!r} does not fit {name!r} of environment.image_keys, of shape "
            f"{spec.shape}"
        )
    else:
        return spec
    if not axes or (axes == spec.picture_axes and not is_named):
        return spec
    if spec.dtype == "float32" and bounds is not None and bounds[1] > 1.0:
        spec = spec._replace(maximum=(int(np.ceil(bounds[1])),))
    return spec._replace(axes=axes)


def remarks(specs: Specs) -> Iterator[str]:
    """A line for each part that may be a picture and is flattened, or whose axes may be others than was guessed."""
    for name, spec in specs.leaves().items():
        if spec.dtype == "int32":
            continue
        what = f"observation {name!r}" if name else "the observation"
        rank = len(spec.shape)
        if spec.picture_axes:
            if rank == 3 and not _order(spec.shape):
                yield (
                    f"{what} of shape {spec.shape} is taken as a picture of height, width and channels "
                    "(environment.image_layout says another order, environment.image_keys=[] that it is none)"
                )
        elif rank > 2 or (rank == 2 and min(spec.shape) >= _LEAST_SIDE):
            yield (
                f"{what} of shape {spec.shape} is flattened: if it is a picture, set environment.image_keys=[{name!r}] "
                "and environment.image_layout, so that it goes through convolutions (image_keys=[] is for none)"
            )


def _bounds(space: object) -> tuple[float, float] | None:
    """The bounds that all values of a part have; None where there are none, or others for each."""
    if not isinstance(space, spaces.Box):
        return None
    low, high = float(np.min(space.low)), float(np.max(space.high))
    is_one = bool(np.all(space.low == space.low.flat[0]) and np.all(space.high == space.high.flat[0]))
    return (low, high) if is_one and np.isfinite(low) and np.isfinite(high) else None


def _guess(spec: ArraySpec, bounds: tuple[float, float] | None, is_named: bool) -> str:
    """The axes of what looks like a picture; empty of what does not."""
    shape, is_bytes = spec.shape, spec.dtype == "uint8"
    if not is_named and not is_bytes and (bounds is None or bounds[0] < -1.0 or bounds[1] > 255.0):
        return ""
    if len(shape) == 2:
        return "HW" if is_named or min(shape) >= _LEAST_SIDE else ""
    if len(shape) == 3:
        axes = _order(shape) or ("HWC" if is_bytes else "")
        sides = [size for size, axis in zip(shape, axes, strict=False) if axis != "C"]
        return axes if is_bytes or is_named or min(sides, default=0) >= _LEAST_PLANE else ""
    if len(shape) == 4:
        for axes in ("KHWC", "KCHW", "HWCK"):
            size = dict(zip(axes, shape, strict=True))
            if size["C"] in _FEW and min(size["H"], size["W"]) >= _LEAST_SIDE:
                return axes
    return ""


def _order(shape: tuple[int, ...]) -> str:
    """Whether three axes are HWC or CHW; empty if both may be."""
    first, middle, last = shape
    if first == middle != last:
        return "HWC"
    if middle == last != first:
        return "CHW"
    if (last in _FEW) != (first in _FEW):
        return "HWC" if last in _FEW else "CHW"
    if last * _TIMES <= min(first, middle):
        return "HWC"
    return "CHW" if first * _TIMES <= min(middle, last) else ""
