"""Gymnasium spaces as the arrays that agents learn from."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
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
    leaves = {name: _array_spec(space) for name, space, _ in _leaves(observation, "", lambda batch: batch)}
    return Specs(leaves[""] if set(leaves) == {""} else leaves, _count(action), masked)


def leaf_readers(observation: spaces.Space[Any]) -> dict[str, Callable[[Any], NDArray[Any]]]:
    """Functions from a batch of observations to each leaf's array [lanes, ...], by leaf name."""
    return {name: _reader(space, get) for name, space, get in _leaves(observation, "", lambda batch: batch)}


class Given(NamedTuple):
    """How an environment gives one leaf of its observations."""

    dtype: str
    """NumPy's name of it."""
    start: tuple[int, ...]
    """The least value of each entry, in C order, which agents see as 0; empty where that is 0."""


def given_leaves(observation: spaces.Space[Any]) -> dict[str, Given]:
    """What `leaf_readers` read, by leaf name."""
    return {name: Given(str(space.dtype), _start(space)) for name, space, _ in _leaves(observation, "", lambda b: b)}


def drawn(observation: spaces.Space[Any], count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """So many random observations of a space as agents see them, by leaf name: [count, ...]."""
    batch = batch_space(observation, count)
    batch.seed(seed)
    sample = batch.sample()
    return {leaf: read(sample) for leaf, read in leaf_readers(observation).items()}


def first_action(action: spaces.Space[Any]) -> int:
    """The environment's number of the action that agents number 0."""
    return int(getattr(action, "start", 0))


def from_leaves(observation: spaces.Space[Any], leaves: Mapping[str, NDArray[Any]], name: str = "") -> Any:
    """A batch of observations as the space has them, from each leaf's array: the inverse of `leaf_readers`."""
    if isinstance(observation, spaces.Dict):
        return {key: from_leaves(part, leaves, _path(name, key)) for key, part in observation.spaces.items()}
    if isinstance(observation, spaces.Tuple):
        return tuple(from_leaves(part, leaves, _path(name, key)) for key, part in enumerate(observation.spaces))
    values = leaves[name].astype(observation.dtype)
    return values + observation.start if isinstance(observation, (spaces.Discrete, spaces.MultiDiscrete)) else values


_KINDS = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}
"""Kinds of dtypes, as NumPy abbreviates them, whose numbers each kind takes."""


def misfit(space: spaces.Space[Any], observation: Any) -> str | None:
    """What is wrong with one observation of a space: its parts, shape or dtype; None if it can be taken.

    Numbers of another size of the same kind are taken, integers as floats too; floats as integers are not. Values are
    not compared with the space's bounds.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            try:
                value = observation[key]
            except (KeyError, IndexError, TypeError) as error:
                return f"the observation lacks {key!r} ({error!r})"
            if wrong := misfit(part, value):
                return f"{key}: {wrong}"
        return None
    values = np.asarray(observation)
    if values.shape != space.shape:
        return f"an observation of shape {values.shape} in a space of {space.shape}"
    if space.dtype is None or values.dtype.kind not in _KINDS[space.dtype.kind]:
        return f"an observation of dtype {values.dtype} in a space of {space.dtype}"
    return None


def _leaves(space: spaces.Space[Any], name: str, get: Getter) -> Iterator[tuple[str, spaces.Space[Any], Getter]]:
    parts: Any = ()
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
    else:
        yield name, space, get
    for key, part in parts:
        yield from _leaves(part, _path(name, key), functools.partial(_part, get, key))


def _path(name: str, key: Any) -> str:
    return f"{name}/{key}" if name else str(key)


def _count(space: spaces.Discrete[Any]) -> int:
    count: Any = space.n
    return int(count)


def _start(space: spaces.Space[Any]) -> tuple[int, ...]:
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
    kinds = _KINDS[space.dtype.kind if space.dtype is not None else dtype.kind]
    start = np.reshape(_start(space), shape) if _start(space) else None

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
