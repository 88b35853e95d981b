"""Environments that break runs, each in one way; used by import path."""

import time
from typing import Any

import gymnasium
import numpy as np


class _Walk(gymnasium.Env[Any, Any]):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self._step += 1
        return np.full(2, 0.1, np.float32), 1.0, self._step % 10 == 0, False, {}


class SlowEnvironment(_Walk):
    """Takes half a second a step."""

    def step(self, action: Any) -> Any:
        time.sleep(0.5)
        return super().step(action)


class NanEnvironment(_Walk):
    """Its twentieth step returns an observation that is not a number."""

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return (observation * np.nan if self._step == 20 else observation), *rest


class HugeRewardEnvironment(_Walk):
    """Rewards whose square is infinite in float32."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 1e30, *rest


class PassingHugeRewardEnvironment(_Walk):
    """As `HugeRewardEnvironment`, from its 200th to its 400th step alone."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        self._taken += 1
        return observation, 1e30 if 200 <= self._taken < 400 else reward, *rest
