"""Adds a reward for states seldom seen, where rewards are so sparse that random actions rarely find one. Pure NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.specs import Specs

Floats = NDArray[np.float32]

_WARM_UP = 1_000
"""Observations that the scale of float features is taken from, before any bonus is paid."""
_MOST_FEATURES = 8
"""More features than these are counted by random projections onto so many directions (Tang et al. 2017, 2.2)."""


class CountBonus:
    """Pays scale / sqrt(n) for the n-th visit of a state (Bellemare et al. 2016; Tang et al. 2017, equation 1).

    States are counted by cells: float features are divided by their standard deviation in the first observations and
    cut into cells of equal width; categories count as they are. Each collector has its own counts, and starts them anew
    when it is restarted.

    Args:
      specs: of the environment.
      scale: beta, the bonus of a first visit, in units of reward.
      cells: of a standard deviation.
      seed: of the projections.
    """

    def __init__(self, specs: Specs, scale: float, cells: float, seed: int) -> None:
        leaves = specs.leaves()
        self._scale, self._cells = scale, cells
        self._floats = [name for name, spec in leaves.items() if spec.dtype != "int32"]
        self._categories = [name for name, spec in leaves.items() if spec.dtype == "int32"]
        width = sum(int(np.prod(leaves[name].shape)) for name in self._floats)
        random = np.random.default_rng(seed)
        self._projection = None if width <= _MOST_FEATURES else random.normal(size=(width, _MOST_FEATURES)) / width**0.5
        self._seen: list[NDArray[np.float64]] = []
        self._center: NDArray[np.float64] | float = 0.0
        self._width: NDArray[np.float64] | float | None = None if width else 1.0
        self._counts: dict[bytes, int] = {}

    def __call__(self, observation: Mapping[str, NDArray[Any]]) -> Floats:
        """Counts a visit in every lane and returns its bonus.

        Args:
          observation: by leaf name, [lanes, ...].

        Returns:
          float32 [lanes]; zeros while the scale of the features is being measured.
        """
        lanes = len(next(iter(observation.values())))
        columns = [np.reshape(observation[name], (lanes, -1)).astype(np.float64) for name in self._floats]
        features = np.concatenate(columns, axis=1) if columns else np.zeros((lanes, 0))
        if self._projection is not None:
            features = features @ self._projection
        if self._width is None:
            self._measure(features)
            return np.zeros(lanes, np.float32)
        cells = np.floor((features - self._center) / self._width).astype(np.int32)
        categories = [np.reshape(observation[name], (lanes, -1)).astype(np.int32) for name in self._categories]
        keys = np.ascontiguousarray(np.concatenate([cells, *categories], axis=1))
        bonus = np.empty(lanes, np.float32)
        for lane in range(lanes):
            key = keys[lane].tobytes()
            count = self._counts[key] = self._counts.get(key, 0) + 1
            bonus[lane] = self._scale / count**0.5
        return bonus

    def _measure(self, features: NDArray[np.float64]) -> None:
        self._seen.append(features.copy())
        if sum(map(len, self._seen)) >= _WARM_UP:
            seen = np.concatenate(self._seen)
            self._center = seen.mean(axis=0)
            spread = seen.std(axis=0)
            self._width = np.where(spread > 0.0, spread, 1.0) / self._cells
            self._seen.clear()
