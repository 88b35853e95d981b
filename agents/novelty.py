"""Adds a reward for states seldom seen, where rewards are so sparse that random actions rarely find one. Pure NumPy."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.exploration import ExplorationConfig
from agents.specs import Specs

Floats = NDArray[np.float32]
Bonus = Callable[[Mapping[str, NDArray[Any]]], Floats]
"""Takes what every lane sees, by leaf name, [lanes, ...], and returns the reward for it, float32 [lanes]."""

_WARM_UP = 1_000
"""Observations that a scale is taken from."""
_GRID = 3
"""Dimensions of a grid. In more, nearly every cell is new: 16 cells along each of 8 features are 4 * 10^9."""
_VIEWS = 4
"""Grids of as many random directions each, where there are more features than a grid has dimensions."""
_SLOTS = 2**18
"""Counters of a view, 1 MiB; cells are hashed onto them."""


class Scale:
    """Center and deviation of each feature in the first observations."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: NDArray[np.float64] | float = 0.0
        self._squares: NDArray[np.float64] | float = 0.0
        self._center: NDArray[np.float64] | float = 0.0
        self._deviation: NDArray[np.float64] | float = 1.0

    @property
    def is_known(self) -> bool:
        """Whether enough has been seen."""
        return self._count >= _WARM_UP

    def measure(self, features: NDArray[np.float64]) -> None:
        """Takes observations [lanes, features]."""
        if not self._count:
            self._center = features[0].copy()  # squares of what lies far from 0 would lose all digits
        shifted = features - self._center
        self._count += len(features)
        self._sum = self._sum + shifted.sum(axis=0)
        self._squares = self._squares + np.square(shifted).sum(axis=0)
        if self.is_known:
            mean = self._sum / self._count
            spread = np.sqrt(np.maximum(self._squares / self._count - np.square(mean), 0.0))
            self._center = self._center + mean
            self._deviation = np.where(spread > 1e-9 * np.abs(self._center), spread, 1.0)

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Features in deviations from the center."""
        scaled: NDArray[np.float64] = (features - self._center) / self._deviation
        return scaled


class CountBonus:
    """Pays scale / sqrt(n) for the n-th visit of a state (Bellemare et al. 2016; Tang et al. 2017, equation 1).

    States are counted by cells: float features, in deviations of their own, are cut into cells of equal width;
    categories count as they are. More features than a grid has dimensions are seen from several sides: each view is a
    grid of random directions, and a state is as new as it is in the view that has seen least of it. Counters lie in
    tables of a fixed size onto which cells are hashed (Tang et al. 2017, section 2.2); cells that share one are taken
    for the same. Each collector has its own counts, and starts them anew when it is restarted.

    Args:
      specs: of the environment.
      scale: beta, the bonus of a first visit, in units of reward.
      cells: of a standard deviation.
      seed: of the directions and the hashes.
    """

    def __init__(self, specs: Specs, scale: float, cells: float, seed: int) -> None:
        leaves = specs.leaves()
        self._scale, self._cells = scale, cells
        self._floats = [name for name, spec in leaves.items() if spec.dtype != "int32"]
        self._categories = [name for name, spec in leaves.items() if spec.dtype == "int32"]
        width = sum(int(np.prod(leaves[name].shape)) for name in self._floats)
        digits = sum(int(np.prod(leaves[name].shape)) for name in self._categories)
        random = np.random.default_rng(seed)
        views, dimensions = (1, width) if width <= _GRID else (_VIEWS, _GRID)
        self._directions = random.normal(size=(width, views * dimensions)) if width > _GRID else None
        self._views, self._dimensions = views, dimensions
        self._scales = [Scale() for _ in range((width > 0) + (width > _GRID))]
        self._factors = random.integers(1, 2**63, (views, dimensions + digits), np.uint64) | np.uint64(1)
        self._counts = np.zeros((views, _SLOTS), np.int32)

    def __call__(self, observation: Mapping[str, NDArray[Any]]) -> Floats:
        """Counts a visit in every lane and returns its bonus.

        Args:
          observation: by leaf name, [lanes, ...].

        Returns:
          float32 [lanes]; zeros while the scales of the features are being measured.
        """
        lanes = len(next(iter(observation.values())))
        columns = [np.reshape(observation[name], (lanes, -1)).astype(np.float64) for name in self._floats]
        features = np.concatenate(columns, axis=1) if columns else np.zeros((lanes, 0))
        for position, scale in enumerate(self._scales):
            if not scale.is_known:
                scale.measure(features)
                return np.zeros(lanes, np.float32)
            features = scale(features)
            if position == 0 and self._directions is not None:
                features = features @ self._directions
        slots, bonus = self._slots(features, observation), np.empty(lanes, np.float32)
        views = np.arange(self._views)
        for lane in range(lanes):  # lanes in one cell visit it one after another
            self._counts[views, slots[lane]] += 1
            bonus[lane] = self._scale / float(self._counts[views, slots[lane]].min()) ** 0.5
        return bonus

    def _slots(self, features: NDArray[np.float64], observation: Mapping[str, NDArray[Any]]) -> NDArray[np.uint64]:
        """The counter of each lane's cell in each view, [lanes, views]."""
        lanes = len(features)
        cells = np.floor(np.clip(features * self._cells, -1e9, 1e9)).astype(np.int64)
        by_view = cells.reshape(lanes, self._views, self._dimensions)
        digits = [np.reshape(observation[name], (lanes, 1, -1)).astype(np.int64) for name in self._categories]
        keys = np.concatenate([by_view, *(np.repeat(part, self._views, axis=1) for part in digits)], axis=2)
        hashed = (keys.astype(np.uint64) * self._factors).sum(axis=2, dtype=np.uint64)  # wraps around: that is meant
        hashed ^= hashed >> np.uint64(29)
        hashed *= np.uint64(0xBF58476D1CE4E5B9)  # of the finalizer of SplitMix64 (Steele et al. 2014)
        hashed ^= hashed >> np.uint64(32)
        slots: NDArray[np.uint64] = hashed % np.uint64(_SLOTS)
        return slots


def bonus_of(config: ExplorationConfig, specs: Specs, seed: int) -> Bonus:
    """Makes the bonus that a config pays; see `ExplorationConfig.paid_by`."""
    if config.prediction_bonus:
        from agents.curiosity import PredictionBonus

        return PredictionBonus(specs, config.prediction_bonus, seed)
    return CountBonus(specs, config.count_bonus, config.count_cells, seed)
