"""Gymnasium spaces as the arrays that agents learn from."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents import ArraySpec, Specs
from pipeline.experiment.config import UsageError

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
    leaves = {name: _array_spec(space) for name, space, _ in leaves_of(observation, "", lambda batch: batch)}
    return Specs(leaves[""] if set(leaves) == {""} else leaves, _count(action), masked)


def leaf_readers(observation: spaces.Space[Any]) -> dict[str, Callable[[Any], NDArray[Any]]]:
    """Functions from a batch of observations to each leaf's array [lanes, ...], by leaf name."""
    return {name: _reader(space, get) for name, space, get in leaves_of(observation, "", lambda batch: batch)}


def first_action(action: spaces.Space[Any]) -> int:
    """The environment's number of the action that agents number 0."""
    return int(getattr(action, "start", 0))


KINDS = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}
"""Kinds of dtypes, as NumPy abbreviates them, whose numbers each kind takes."""


def leaves_of(space: spaces.Space[Any], name: str, get: Getter) -> Iterator[tuple[str, spaces.Space[Any], Getter]]:
    """The leaves of a space, whose name is given: each one's name, its space, and what takes it from a batch."""
    parts: Any = ()
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
    else:
        yield name, space, get
    for key, part in parts:
        yield from leaves_of(part, path_of(name, key), functools.partial(_part, get, key))


def path_of(name: str, key: Any) -> str:
    """The name of a part of what has that name."""
    return f"{name}/{key}" if name else str(key)


def _count(space: spaces.Discrete[Any]) -> int:
    count: Any = space.n
    return int(count)


def start_of(space: spaces.Space[Any]) -> tuple[int, ...]:
    """The least value of each entry, in C order; empty where that is 0."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        return tuple(np.ravel(space.start).tolist())
    return ()


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
    spec = _array_spec(space)
    dtype, shape = np.dtype(spec.dtype), spec.shape
    kinds = KINDS[space.dtype.kind if space.dtype is not None else dtype.kind]
    start = np.reshape(start_of(space), shape) if start_of(space) else None

    def read(batch: Any) -> NDArray[Any]:
        values: NDArray[Any] = np.asarray(get(batch))
        if values.shape[1:] != shape:
            raise ValueError(f"observations of shape {values.shape[1:]} in a space of {shape}")
        if values.dtype is dtype and start is None:
            return values
        if values.dtype.kind not in kinds:
            raise TypeError(f"observations of dtype {values.dtype} in a space of {space.dtype}")
        return np.asarray(values if start is None else values - start, dtype)

    return read
