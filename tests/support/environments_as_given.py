"""Environments whose observations, rewards and flags are what a test puts into them."""

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Given(gymnasium.Env[Any, Any]):
    """Returns one observation at resets and another at steps.

    Args:
      space: of its observations.
      first: what resets return.
      then: what steps return.
      reward, terminated, truncated, info: what steps return beside.
    """

    action_space = spaces.Discrete(2)

    def __init__(
        self,
        space: Any,
        first: Any,
        then: Any,
        reward: Any = 0.0,
        terminated: Any = False,
        truncated: Any = False,
        info: Any = None,
    ) -> None:
        self.observation_space = copy.deepcopy(space)
        self._first, self._step = first, (then, reward, terminated, truncated, {} if info is None else info)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._first, {}

    def step(self, action: Any) -> Any:
        return self._step


def filled(space: spaces.Space[Any], sample: Any, buffer: Any) -> Any:
    """Writes an observation into arrays that exist, and returns them."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            buffer[key] = filled(part, sample[key], buffer[key])
        return buffer
    if isinstance(space, spaces.Tuple):
        return tuple(filled(part, *pair) for part, *pair in zip(space.spaces, sample, buffer, strict=True))
    buffer[...] = sample
    return buffer


class Sharing(gymnasium.Env[Any, Any]):
    """Writes each observation of every lane into the same arrays, and observes those.

    Args:
      space: of its observations.
      buffer: what all write into; see `filled`.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, space: Any, buffer: Any) -> None:
        self.observation_space = copy.deepcopy(space)
        self._buffer, self._taken = buffer, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._taken = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self._taken += 1
        return self._seen(), 0.0, False, self._taken == 3, {}

    def _seen(self) -> Any:
        return filled(self.observation_space, self.observation_space.sample(), self._buffer)


class Batches(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """An environment that vectorises itself, and returns what a test puts into it.

    Args:
      space: of one lane's observations.
      first: what resets return.
      step: what steps return.
      lanes: how many.
    """

    def __init__(self, space: Any, first: Any, step: Any, lanes: int = 2) -> None:
        self.num_envs, self._first, self._step = lanes, first, step
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = space, spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self._first, {}

    def step(self, actions: Any) -> Any:
        return self._step


class WideIntegers(gymnasium.Env[Any, Any]):
    """Observes integers of one size; to win is to choose what the first number says. Episodes of ten steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, dtype: str = "int64") -> None:
        self._dtype: Any = np.dtype(dtype).type
        self.observation_space = spaces.Box(-100, 100, (2,), self._dtype)
        self._taken, self._right = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._taken = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self._taken += 1
        reward = float(action == self._right)
        return self._seen(), reward, False, self._taken == 10, {}

    def _seen(self) -> Any:
        self._right = int(self.np_random.integers(2))
        return np.array([2 * self._right - 1, self._taken], self._dtype)
