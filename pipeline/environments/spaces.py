"""Gymnasium spaces as the arrays that agents learn from."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents import ArraySpec, Specs
from pipeline.config import UsageError

Getter = Callable[[Any], Any]


def specs_of(observation: spaces.Space[Any], action: spaces.Space[Any], masked: bool) -> Specs:
    """The interface of an environment with these spaces.

    Raises:
      UsageError: actions are not Discrete, or an observation is of a kind that is not supported.
    """
    if not isinstance(action, spaces.Discrete):
        raise UsageError(
            f"the action space is {action}: agents need a Discrete one "
            "(discretise it with a wrapper, or choose another environment)"
        )
    leaves = {name: _array_spec(space) for name, space, _ in _leaves(observation, "", lambda batch: batch)}
    return Specs(leaves[""] if set(leaves) == {""} else leaves, _count(action), masked)


def leaf_readers(observation: spaces.Space[Any]) -> dict[str, Callable[[Any], NDArray[Any]]]:
    """Functions from a batch of observations to each leaf's array [lanes, ...], by leaf name."""
    return {name: _reader(space, get) for name, space, get in _leaves(observation, "", lambda batch: batch)}


def _leaves(space: spaces.Space[Any], name: str, get: Getter) -> Iterator[tuple[str, spaces.Space[Any], Getter]]:
    parts: Any = ()
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
    else:
        yield name, space, get
    for key, part in parts:
        path = f"{name}/{key}" if name else str(key)
        yield from _leaves(part, path, functools.partial(_part, get, key))


def _count(space: spaces.Discrete[Any]) -> int:
    count: Any = space.n
    return int(count)


def _part(get: Getter, key: Any, batch: Any) -> Any:
    return get(batch)[key]


def _array_spec(space: spaces.Space[Any]) -> ArraySpec:
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return ArraySpec(space.shape, "float32")
    if isinstance(space, spaces.Box) and space.dtype == np.bool_:
        return ArraySpec(space.shape, "uint8", (1,))
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        return ArraySpec(space.shape, "uint8", (int(space.high.max()),))
    if isinstance(space, spaces.Discrete):
        return ArraySpec((), "int32", (_count(space) - 1,))
    if isinstance(space, spaces.MultiDiscrete):
        return ArraySpec(space.shape, "int32", tuple((np.asarray(space.nvec, np.int64).ravel() - 1).tolist()))
    if isinstance(space, spaces.MultiBinary):
        return ArraySpec(space.shape, "uint8", (1,))
    raise UsageError(
        f"observations of {space} are not supported: use Box (float, uint8 or bool), Discrete, MultiBinary, "
        "MultiDiscrete, or a Dict or Tuple of those"
    )


def _reader(space: spaces.Space[Any], get: Getter) -> Callable[[Any], NDArray[Any]]:
    dtype = _array_spec(space).dtype
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        start = space.start
        return lambda batch: np.asarray(get(batch) - start, dtype)
    return lambda batch: np.asarray(get(batch), dtype)
