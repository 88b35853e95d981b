"""What environments give beyond what acting needs: observations' leaves described, drawn and put together again, and
numbers of the user's own in the info at an episode's end.

Leaves are for exported policies and datasets; `pipeline.environments.lanes.spaces` reads them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from pipeline.environments.lanes.spaces import leaf_readers, leaves_of, path_of, start_of
from pipeline.environments.lanes.vectors import SerialVectorEnv
from pipeline.experiment.config import UsageError


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


class InfoNumbers:
    """Reads numbers of the info, or of `info["episode"]`, at the ends of episodes.

    What an episode's info lacks, and what is not finite, is left out.

    Args:
      keys: see `collect.info_keys`.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys

    def of_ended(self, vector: Any, info: Mapping[str, Any], ended: NDArray[np.bool_]) -> dict[int, dict[str, float]]:
        """The numbers of the lanes whose episode a step ended, by lane and key.

        Args:
          vector: that was stepped.
          info: that it returned: of gymnasium's own vectors, arrays [lanes] by key, and bool ones by `_key`.
          ended: bool [lanes].

        Raises:
          UsageError: a value is no number.
        """
        lanes = np.flatnonzero(ended).tolist()
        if isinstance(own := vector.unwrapped, SerialVectorEnv):
            return {lane: self._numbers(own.ended_infos.get(lane, {})) for lane in lanes}
        if "ended_info" in info:  # of lanes in processes of their own
            return {lane: self._numbers((info["ended_info"][lane] or ({},))[0]) for lane in lanes}
        return {lane: self._numbers(_of_lane(info, lane)) for lane in lanes}

    def _numbers(self, info: Mapping[str, Any]) -> dict[str, float]:
        episode = info.get("episode")
        found = {}
        for key in self._keys:
            value = info.get(key, episode.get(key) if isinstance(episode, Mapping) else None)
            if value is None:
                continue
            try:
                number = float(np.asarray(value).item())
            except (TypeError, ValueError):
                raise UsageError(f"collect.info_keys: info[{key!r}] is {value!r:.60}, no number") from None
            if math.isfinite(number):
                found[key] = number
        return found


def _of_lane(info: Mapping[str, Any], lane: int) -> dict[str, Any]:
    """The info of one lane, from that of a vector: what others have alone is not in it."""
    return {
        key: _of_lane(values, lane) if isinstance(values, Mapping) else values[lane]
        for key, values in info.items()
        if not key.startswith("_")
        and (isinstance(values, Mapping) or len(values) > lane)
        and (present := info.get(f"_{key}", True)) is not False
        and (present is True or present[lane])
    }
