"""Variants of gymnasium's classic problems, and one of exploration."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

_POSITIONS = [0, 2]
"""Of CartPole's observation: the cart's position and the pole's angle."""


class PositionCartPole(gymnasium.ObservationWrapper[Any, Any, Any]):
    """CartPole-v1 without its velocities: it takes memory of earlier observations to keep the pole up."""

    metadata = CartPoleEnv.metadata  # of the class, which gymnasium reads before it makes one

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gymnasium.make("CartPole-v1", render_mode=render_mode))
        space: Any = self.env.observation_space
        self.observation_space = spaces.Box(space.low[_POSITIONS], space.high[_POSITIONS], dtype=np.float32)

    def observation(self, observation: Any) -> Any:
        """The positions alone."""
        return observation[_POSITIONS]


class DeepSea(gymnasium.Env[Any, Any]):
    """A dive through a square of cells whose treasure is reached by one of 2^N ways (Osband et al. 2019, section 2.3).

    Each step goes one row down, and a column to the left or right; which action is which is drawn for each cell. Right
    costs 0.01 / N, and the way that goes right N times ends in the treasure, 1. So the best return is 0.99, rewards on
    the way say to go left, and who explores at random needs some 2^N episodes. As bsuite has it, but that the
    cell's number is observed, which is N squared at an episode's end.

    Args:
      size: N, rows and columns.
      mapping_seed: of what the actions do.
    """

    metadata = {"render_modes": []}

    def __init__(self, size: int = 10, mapping_seed: int = 0) -> None:
        self.observation_space, self.action_space = spaces.Discrete(size * size + 1), spaces.Discrete(2)
        self._size = size
        self._right: Any = np.random.default_rng(mapping_seed).integers(0, 2, (size, size))
        self._row = self._column = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Begins in the first cell."""
        super().reset(seed=seed)
        self._row = self._column = 0
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Goes one row down."""
        size, reward = self._size, 0.0
        if action == self._right[self._row, self._column]:
            reward -= 0.01 / size
            reward += float(self._column == size - 1)
            self._column = min(self._column + 1, size - 1)
        else:
            self._column = max(self._column - 1, 0)
        self._row += 1
        if self._row == size:
            return size * size, reward, True, False, {}
        return self._row * size + self._column, reward, False, False, {}
