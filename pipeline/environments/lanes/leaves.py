"""Observations beyond what acting needs: their leaves described, drawn at random, and put together again.

For exported policies and datasets; `pipeline.environments.lanes.spaces` reads the leaves.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from pipeline.environments.lanes.spaces import leaf_readers, leaves_of, path_of, start_of


class LeafSource(NamedTuple):
    """How an environment gives one leaf of its observations."""

    dtype: str
    """NumPy's name of it."""
    start: tuple[int, ...]
    """The least value of each entry, in C order, which agents see as 0; empty where that is 0."""


def given_leaves(observation: spaces.Space[Any]) -> dict[str, LeafSource]:
    """What `leaf_readers` read, by leaf name."""
    return {name: LeafSource(str(space.dtype), start_of(space)) for name, space, _ in leaves_of(observation)}


def drawn(observation: spaces.Space[Any], count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """So many random observations of a space as agents see them, by leaf name: [count, ...]."""
    batch = batch_space(observation, count)
    batch.seed(seed)
    sample = batch.sample()
    return {leaf: read(sample) for leaf, read in leaf_readers(observation).items()}


def from_leaves(observation: spaces.Space[Any], leaves: Mapping[str, NDArray[Any]], name: str = "") -> Any:
    """A batch of observations as the space has them, from each leaf's array: the inverse of `leaf_readers`."""
    if isinstance(observation, spaces.Dict):
        return {key: from_leaves(part, leaves, path_of(name, key)) for key, part in observation.spaces.items()}
    if isinstance(observation, spaces.Tuple):
        return tuple(from_leaves(part, leaves, path_of(name, key)) for key, part in enumerate(observation.spaces))
    values = leaves[name].astype(observation.dtype)
    return values + observation.start if isinstance(observation, (spaces.Discrete, spaces.MultiDiscrete)) else values
