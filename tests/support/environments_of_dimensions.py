"""Environments whose actions have several dimensions, in every form there is; used by import path."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIZES = (3, 2)
FORMS: dict[str, spaces.Space[Any]] = {
    "vector": spaces.MultiDiscrete(SIZES),
    "from elsewhere": spaces.MultiDiscrete(SIZES, start=[5, -1]),
    "matrix": spaces.MultiDiscrete([[3, 2], [2, 4]], start=[[0, 1], [2, 3]]),
    "binary": spaces.MultiBinary(3),
    "binary matrix": spaces.MultiBinary((2, 2)),
    "tuple": spaces.Tuple([spaces.Discrete(3, start=2), spaces.MultiBinary(2)]),
    "dict": spaces.Dict({"b": spaces.Discrete(2), "a": spaces.MultiDiscrete([3, 2])}),
    "one": spaces.MultiDiscrete([4]),
}
"""Action spaces by name."""


class Dials(gymnasium.Env[Any, Any]):
    """Each step shows a number; each dial is right at that number modulo its size, and pays its share of 1.

    Raises at what is not in its action space, and at what its newest mask forbids.

    Args:
      form: of `FORMS`.
      masks: "none", "flat" (one row), "parts" (an array a dimension), "forbids all" (of one dimension, at step 2), or
        "own" (MultiBinary's 0, 1 and 2).
      length: steps of an episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Discrete(6)

    def __init__(
        self, form: str = "vector", masks: str = "none", length: int = 8, render_mode: str | None = None
    ) -> None:
        self.action_space, self._masks, self._length = FORMS[form], masks, length
        self.render_mode = render_mode
        self.taken: list[Any] = []
        self._allowed: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._step = 0
        return self._seen()

    def step(self, action: Any) -> Any:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        chosen = numbers(self.action_space, action)
        if self._allowed and not all(mask[n] for mask, n in zip(self._allowed, chosen, strict=True)):
            raise ValueError(f"forbidden: {action}")
        self.taken.append(action)
        right = [n == self._shown % size for n, size in zip(chosen, sizes(self.action_space), strict=True)]
        self._step += 1
        observation, info = self._seen()
        return observation, float(np.mean(right)), False, self._step == self._length, info

    def render(self) -> Any:
        return np.full((48, 64, 3), 20 * self._shown, np.uint8)

    def _seen(self) -> Any:
        self._shown = int(self.np_random.integers(6))
        if self._masks == "none":
            return self._shown, {}
        self._allowed = [self.np_random.random(size) < 0.6 for size in sizes(self.action_space)]
        for mask in self._allowed:
            mask[self._shown % len(mask)] = True
        if self._masks == "forbids all" and self._step == 2:
            self._allowed[-1][:] = False
        if self._masks == "parts":
            return self._shown, {"action_mask": tuple(mask.astype(np.int8) for mask in self._allowed)}
        if self._masks == "own":
            own = [2 if mask.all() else int(mask[1]) for mask in self._allowed]
            return self._shown, {"action_mask": np.reshape(np.array(own, np.int8), self.action_space.shape)}
        return self._shown, {"action_mask": np.concatenate(self._allowed)}


def sizes(space: Any) -> list[int]:
    """Choices of each dimension, one after the other."""
    if isinstance(space, spaces.Dict):
        return [size for part in space.spaces.values() for size in sizes(part)]
    if isinstance(space, spaces.Tuple):
        return [size for part in space.spaces for size in sizes(part)]
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    return [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec.flat]


def numbers(space: Any, action: Any) -> list[int]:
    """The choice of each dimension, from 0."""
    if isinstance(space, spaces.Dict):
        return [n for key, part in space.spaces.items() for n in numbers(part, action[key])]
    if isinstance(space, spaces.Tuple):
        return [n for part, value in zip(space.spaces, action, strict=True) for n in numbers(part, value)]
    start = 0 if isinstance(space, spaces.MultiBinary) else space.start
    return [int(n) for n in np.ravel(action - start)]
