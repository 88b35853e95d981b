"""Tasks that do not end, and environments of which only one instance can exist; used by import path."""

import fcntl
import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Endless(gymnasium.Env[Any, Any]):
    """Pays 1 for action 1, for ever.

    Args:
      ends_at: steps after which an episode ends all the same; 0 never.
      size: numbers that it observes.
      actions: that it takes.
      high: bound of its observations.
      dtype: of its observations.
    """

    def __init__(
        self, ends_at: int = 0, size: int = 1, actions: int = 2, high: float = 1.0, dtype: str = "float32"
    ) -> None:
        self.observation_space = spaces.Box(0, high, (size,), np.dtype(dtype).type)
        self.action_space = spaces.Discrete(actions)
        self.ends_at, self.taken = ends_at, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(self.observation_space.shape, self.observation_space.dtype), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        observation = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        return observation, float(action == 1), self.taken == self.ends_at, False, {}


class OnlyOne(Endless):
    """Fails to be made while there is another one, in any process.

    Args:
      lock: path of a file.
    """

    def __init__(self, lock: str) -> None:
        super().__init__(ends_at=10)
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise RuntimeError("the simulator has one licence, and it is taken") from None

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


gymnasium.register("NoEndForTests-v0", entry_point=Endless, max_episode_steps=30)
