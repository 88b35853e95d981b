"""Actions of several dimensions: vectors of whole numbers from 0 to agents, whatever their space is.

A MultiDiscrete space of any shape and start is such a vector in C order, a MultiBinary one a MultiDiscrete of twos. Of
a Tuple or Dict the parts' vectors follow each other. `Discretized` makes a MultiDiscrete space of a Box.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from pipeline.experiment.config import UsageError


def sizes_of(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Choices of each dimension.

    Raises:
      UsageError: the space has parts that are none of the above.
    """
    return tuple(size for part in _parts(space, space) for size in _sizes(part))


def starts_of(space: spaces.Space[Any]) -> tuple[int, ...]:
    """What the space calls 0 of each dimension."""
    found = [np.broadcast_to(np.ravel(_start(part)), len(_sizes(part))) for part in _parts(space, space)]
    return tuple(np.concatenate(found).tolist())


def outward(space: spaces.Space[Any], actions: NDArray[np.int64]) -> Any:
    """Actions as the space has them, of int64 [lanes, D]: an array [lanes, ...], or a tuple or dict of such."""
    columns = np.split(actions, np.cumsum([len(_sizes(part)) for part in _parts(space, space)])[:-1], axis=1)
    return _filled(space, iter(columns))


def inward(space: spaces.Space[Any], actions: Any, *lead: int) -> NDArray[np.int64]:
    """Actions int64 [*lead, D] from 0 of one action (no `lead`), or a batch, as the space has them."""
    found = [
        np.reshape(np.asarray(given), (*lead, -1)).astype(np.int64) - np.ravel(_start(part))
        for part, given in _given(space, actions)
    ]
    vectors: NDArray[np.int64] = np.concatenate(found, axis=-1)
    return vectors


def flat_mask(space: spaces.Space[Any], mask: Any) -> NDArray[Any]:
    """One action's mask as one row [S], S choices of all dimensions: theirs one after the other.

    It may be that row already, or have an array a dimension, as gymnasium's `MultiDiscrete.sample` takes them; of a
    Tuple or Dict a mask for each part. Of MultiBinary it may have the space's shape, as its `sample` takes it: 0 and 1
    allow that value alone, 2 allows both.
    """
    if isinstance(mask, (tuple, list)) and all(np.ndim(part) == 0 for part in mask):
        return np.asarray(mask)
    if isinstance(space, (spaces.Tuple, spaces.Dict)) and (
        isinstance(mask, Mapping) or (isinstance(mask, (tuple, list)) and len(mask) == len(space.spaces))
    ):
        parts = [flat_mask(part, given) for part, given in _given(space, mask)]
        return np.concatenate(parts)
    if isinstance(space, spaces.MultiBinary) and np.shape(mask) == space.shape:
        value = np.ravel(mask)
        return np.asarray(np.stack([value != 1, value != 0], axis=1).ravel())
    if isinstance(mask, (tuple, list)) or (isinstance(mask, np.ndarray) and mask.dtype == np.object_):
        return np.concatenate([np.ravel(part) for part in mask])
    return np.asarray(mask).ravel()


def _parts(space: spaces.Space[Any], whole: spaces.Space[Any]) -> Iterator[spaces.Space[Any]]:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _parts(part, whole)
    elif isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        yield space
    else:
        how = "set environment.discretize to cut its numbers into so many points each"
        remedy = how if isinstance(whole, spaces.Box) else "wrap it, or choose another environment"
        raise UsageError(
            f"the action space is {whole}: agents choose among whole numbers, of a Discrete, MultiDiscrete or "
            f"MultiBinary space, or a Tuple or Dict of those: {remedy}"
        )


def _sizes(part: Any) -> list[int]:
    if isinstance(part, spaces.MultiBinary):
        return [2] * int(np.prod(part.shape))
    return list(map(int, np.ravel(part.n if isinstance(part, spaces.Discrete) else part.nvec).tolist()))


def _start(part: Any) -> Any:
    return 0 if isinstance(part, spaces.MultiBinary) else part.start


def _filled(space: Any, columns: Iterator[NDArray[np.int64]]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _filled(part, columns) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_filled(part, columns) for part in space.spaces)
    own = next(columns)
    return (own.reshape(len(own), *space.shape) + _start(space)).astype(space.dtype)


def _given(space: Any, values: Any) -> Iterator[tuple[Any, Any]]:
    """The parts of a space and what values have for each."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _given(part, values[key])
    elif isinstance(space, spaces.Tuple):
        for part, value in zip(space.spaces, values, strict=True):
            yield from _given(part, value)
    else:
        yield space, values


class Discretized(gymnasium.ActionWrapper[Any, Any, Any]):
    """Takes one of so many points of each number of a Box: from its least to its largest value, evenly apart.

    Args:
      env: one lane's.
      points: at least 2.

    Raises:
      UsageError: the action space is no Box, or has no least and largest values.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], points: int) -> None:
        super().__init__(env)
        said, space = f"environment.discretize={points}", env.action_space
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise UsageError(f"{said} is for Box actions of floats, and the action space is {space}: leave it out")
        if points == 1:
            raise UsageError(f"{said} leaves one action alone: set at least 2, or 0")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise UsageError(f"{said} needs bounds, and the action space is {space}: rescale it with a wrapper")
        self._box, self._most = space, points - 1
        self._low, self._span = space.low.astype(np.float64), space.high.astype(np.float64) - space.low
        self.action_space = spaces.MultiDiscrete(np.full(space.shape or (1,), points))

    def action(self, action: Any) -> Any:
        """The numbers at the points chosen."""
        share = np.reshape(action, self._box.shape) / self._most
        return np.clip(self._low + share * self._span, self._box.low, self._box.high).astype(self._box.dtype)
