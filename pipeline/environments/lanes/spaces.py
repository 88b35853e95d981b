"""Gymnasium spaces as the arrays that agents learn from."""

import functools
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents import ArraySpec, Specs
from pipeline.experiment.config import UsageError

Getter = Callable[[Any], Any]


LARGEST_COUNT = 2**31 - 1
"""Categories of one number: frames and networks hold them as int32."""
_SMALL = 4_096
"""Numbers of a small batch."""
LIKE_MASK = re.compile(r"mask|(legal|valid|avail[a-z]*|allowed|possible)_?(actions|moves)", re.IGNORECASE)
"""Names of what probably says which actions are allowed."""
EXACT = 2**24
"""Whole numbers up to this one have a float32 of their own."""


def specs_of(
    observation: spaces.Space[Any],
    action: spaces.Space[Any],
    masked: bool,
    image_keys: Collection[str] | None = None,
    image_layout: str = "auto",
) -> Specs:
    """The interface of an environment with these spaces.

    Args:
      observation: of one lane.
      action: of one lane.
      masked: whether actions are forbidden at times.
      image_keys: see `environment.image_keys`.
      image_layout: see `environment.image_layout`.

    Raises:
      UsageError: actions are no whole numbers, an observation is of a kind or size that is not supported, or two of
        its parts have one name.
    """
    sizes: tuple[int, ...] = ()
    if not isinstance(action, spaces.Discrete):
        from pipeline.environments.interfaces.action_spaces import sizes_of

        sizes = sizes_of(action)
    count = sum(sizes) if sizes else _count(action)
    if count > LARGEST_COUNT:
        raise UsageError(f"the action space is {action}: agents take at most {LARGEST_COUNT:,} actions")
    leaves: dict[str, ArraySpec] = {}
    for name, space, _ in leaves_of(observation):
        if name in leaves:
            raise UsageError(f"two parts of the observation have the name {name!r}: rename one of them")
        leaves[name] = _array_spec(space, name)
    if not leaves:
        raise UsageError(f"the observation space is {observation}: it has no parts")
    if image_keys is not None or image_layout != "auto" or any(len(spec.shape) > 1 for spec in leaves.values()):
        from pipeline.environments.lanes.pictures import with_axes

        if unknown := set(image_keys or ()) - set(leaves):
            raise UsageError(
                f"environment.image_keys has {min(unknown)!r}, and the observation's parts are "
                f"{', '.join(map(repr, leaves))}"
            )
        leaves = {
            name: with_axes(leaves[name], space, name, image_keys, image_layout)
            for name, space, _ in leaves_of(observation)
        }
    return Specs(leaves[""] if set(leaves) == {""} else leaves, count, masked, sizes)


def leaf_readers(observation: spaces.Space[Any]) -> "dict[str, LeafReader]":
    """What reads each leaf's array [lanes, ...] from a batch of observations, by leaf name."""
    return {name: LeafReader(name, space, get) for name, space, get in leaves_of(observation)}


def first_action(action: spaces.Space[Any]) -> int:
    """The environment's number of the action that agents number 0, of a Discrete space."""
    space: Any = action
    return int(space.start) if isinstance(action, spaces.Discrete) else 0


def of_vectors(action: spaces.Space[Any], name: str) -> Callable[..., Any] | None:
    """A function of `interfaces.action_spaces` for actions of several dimensions of this space; None of a Discrete."""
    if isinstance(action, spaces.Discrete):
        return None
    from pipeline.environments.interfaces import action_spaces

    return functools.partial(getattr(action_spaces, name), action)


KINDS = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}
"""Kinds of dtypes, as NumPy abbreviates them, whose numbers each kind takes."""


_ALWAYS, _SELDOM = 1_000, 16
"""Numbers beyond declared bounds are looked for in so many first batches, then in one of so many: most show early, and
they change no more than a warning."""


class Misfit(Exception):
    """What an environment returned is not of its space, or no number."""


def harmless_dtypes(space: spaces.Space[Any]) -> frozenset[str]:
    """Characters of the dtypes of which every number can be taken as one of the space's; floats are rounded."""
    if space.dtype is None:
        return frozenset()
    own, is_float = space.dtype, space.dtype.kind == "f"
    given = (np.dtype(char) for char in "?bBhHiIlLqQefdg")
    return frozenset(
        dtype.char
        for dtype in given
        if dtype.kind in KINDS.get(own.kind, "")
        and (np.can_cast(dtype, own) or dtype.kind == "f")
        and (not is_float or dtype.kind == "f" or np.can_cast(dtype, np.float32))
    )


def leaves_of(
    space: spaces.Space[Any], name: str = "", get: Getter | None = None
) -> Iterator[tuple[str, spaces.Space[Any], Getter]]:
    """The leaves of a space, whose name is given: each one's name, its space, and what takes it from a batch."""
    parts: Any = ()
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
    else:
        yield name, space, get or _whole
    for key, part in parts:
        yield from leaves_of(
            part, path_of(name, key), functools.partial(_part, get, key) if get else operator.itemgetter(key)
        )


def path_of(name: str, key: Any) -> str:
    """The name of a part of what has that name."""
    return f"{name}/{key}" if name else str(key)


def _count(space: Any) -> int:
    count: Any = space.n
    return int(count)


def start_of(space: spaces.Space[Any]) -> tuple[int, ...]:
    """The least value of each entry, in C order; empty where that is 0."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        return tuple(np.ravel(space.start).tolist())
    return ()


def _whole(batch: Any) -> Any:
    return batch


def _part(get: Getter, key: Any, batch: Any) -> Any:
    return get(batch)[key]


def _array_spec(space: spaces.Space[Any], name: str) -> ArraySpec:
    what = f"observation {name!r}" if name else "the observation"
    shape, kind = space.shape or (), space.dtype.kind if space.dtype is not None else ""
    if 0 in shape:
        raise UsageError(f"{what} is {space}, which holds no numbers: leave it out of the space")
    if isinstance(space, spaces.Box) and space.dtype == np.bool_:
        return ArraySpec(space.shape, "uint8", (1,))
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        return ArraySpec(space.shape, "uint8", (int(space.high.max()),))
    if isinstance(space, spaces.Box) and kind in "fiu":
        return ArraySpec(shape, "float32")
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        counts = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec).tolist()
        if max(counts) > LARGEST_COUNT:
            raise UsageError(f"{what} is {space}: of one number at most {LARGEST_COUNT:,} categories are told apart")
        return ArraySpec(shape, "int32", tuple(count - 1 for count in counts))
    if isinstance(space, spaces.MultiBinary):
        return ArraySpec(space.shape, "uint8", (1,))
    raise UsageError(
        f"{what} is {space}, which is not supported: use Box (float, integer or bool), Discrete, MultiBinary, "
        "MultiDiscrete, or a Dict or Tuple of those"
    )


class LeafReader:
    """Reads one leaf of a batch of observations, as agents see it: [lanes, ...].

    Where faults are asked for, values are checked. What the declared number of categories or the array that agents see
    cannot hold is a fault of its lane. Numbers beyond declared bounds are warned of once.

    Args:
      name: of the leaf.
      space: of the leaf.
      get: takes it from a batch.
    """

    def __init__(self, name: str, space: spaces.Space[Any], get: Getter) -> None:
        spec = _array_spec(space, name)
        self._name, self._space, self._get = name, space, get
        self._dtype, self._shape = np.dtype(spec.dtype), spec.shape
        self._kinds = KINDS[space.dtype.kind if space.dtype is not None else self._dtype.kind]
        self._start = np.reshape(start_of(space), spec.shape) if start_of(space) else None
        self._largest: Any = None  # of categories
        self._low: Any = None
        self._high: Any = None
        self._reads = 0
        self._limits_of: tuple[int, ...] = ()  # shape of the batch that the limits below are for
        if isinstance(space, spaces.Box):
            self._low, self._high = _bounds(space, self._dtype)
        else:
            shape = spec.shape if len(spec.maximum) > 1 else ()
            self._largest = np.reshape(np.asarray(spec.maximum, np.uint64), shape)

    def __call__(self, batch: Any, faults: dict[int | None, str] | None = None, environment: str = "") -> NDArray[Any]:
        """Reads a batch.

        Args:
          batch: of observations.
          faults: takes what is wrong, by lane; None checks no values.
          environment: its name, for the warning.

        Raises:
          ValueError: the array has another shape.
          TypeError: it has numbers of another kind.
        """
        values: NDArray[Any] = np.asarray(self._get(batch))
        if values.shape[1:] != self._shape:
            raise ValueError(f"observations of shape {values.shape[1:]} in a space of {self._shape}")
        if values.dtype is not self._dtype:
            if values.dtype.kind not in self._kinds:
                raise TypeError(f"observations of dtype {values.dtype} in a space of {self._space.dtype}")
            if self._largest is not None:
                return self._categories(values, faults)
            if faults is not None and values.dtype.kind in "iu" and not np.can_cast(values.dtype, self._dtype):
                least, most = (0, 255) if self._dtype == np.uint8 else (-EXACT, EXACT)
                wrong = (values < least) | (values > most)
                if np.count_nonzero(wrong):
                    self._enter(faults, values, wrong)
            values = np.asarray(values, self._dtype)
        elif self._largest is not None:
            return self._categories(values, faults)
        self._reads += 1
        if faults is None or (self._reads > _ALWAYS and self._reads % _SELDOM):
            return values
        if self._limits_of != values.shape:
            self._spread(values.shape)
        if (self._high is not None and np.count_nonzero(values > self._high)) or (
            self._low is not None and np.count_nonzero(values < self._low)
        ):
            from pipeline.environments.lanes.wrappers import warn_of_bounds

            warn_of_bounds(environment, self._name, self._space, values)
            self._low = self._high = None  # once is enough
        return values

    def _categories(self, values: NDArray[Any], faults: dict[int | None, str] | None) -> NDArray[Any]:
        """Categories counted from 0."""
        digits = values.astype(np.int64, copy=False)
        if self._start is not None:
            digits = digits - self._start
        if faults is not None:
            if self._limits_of != digits.shape:
                self._spread(digits.shape)
            wrong = digits.view(np.uint64) > self._largest  # what is negative is large, too
            if np.count_nonzero(wrong):
                self._enter(faults, values, wrong)
        return digits.astype(self._dtype)

    def _spread(self, shape: tuple[int, ...]) -> None:
        """Repeats limits for each lane of small batches: arrays of one shape are compared in a fifth of the time."""
        if self._limits_of:
            raise ValueError(f"observations of {shape[0]} lanes, there are {self._limits_of[0]}")
        self._limits_of = shape
        if math.prod(shape) <= _SMALL:
            self._low, self._high, self._largest = (
                None if limit is None else np.ascontiguousarray(np.broadcast_to(limit, shape))
                for limit in (self._low, self._high, self._largest)
            )

    def _enter(self, faults: dict[int | None, str], values: NDArray[Any], wrong: NDArray[np.bool_]) -> None:
        for lane in np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1)).tolist():
            number = values[lane][wrong[lane]].ravel()[0]
            where = f"is not in {self._space}" if self._largest is not None else f"does not fit into {self._dtype}"
            faults.setdefault(lane, f"observation {self._name}".strip() + f": {number} {where}")


def _bounds(space: spaces.Box, dtype: np.dtype[Any]) -> Any:
    """The bounds that a value can lie beyond, as the agent's dtype: each None where none can."""
    declared = np.dtype(space.dtype)
    low: Any = -np.inf
    high: Any = np.inf
    if declared.kind == "b":
        return None, None
    if declared.kind != "f":
        low, high = np.iinfo(declared).min, np.iinfo(declared).max
    of_agents = [
        None if (bound == end).all() else bound.astype(dtype) for bound, end in ((space.low, low), (space.high, high))
    ]
    return [bound if bound is None or (bound != bound.flat[0]).any() else bound.flat[0] for bound in of_agents]
